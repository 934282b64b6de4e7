//! Prints the rows: as a table, as a summary, or as JSON.

use super::options::{Column, Options};
use super::process::{self, End as ProgramEnd, Now, Outcome};
use super::stacks::{End, Stack, Stacks};
use crate::paint::{FAINT, TITLE, paint, shortened};
use serde_json::json;
use std::cmp::Reverse;
use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

/// Where the rows go.
pub struct Output(BufWriter<Box<dyn Write>>);

impl Output {
    /// A file, or standard error, where styles are for terminals alone.
    pub fn open(path: Option<&Path>) -> io::Result<Self> {
        Ok(Self(BufWriter::new(match path {
            Some(path) => Box::new(anstream::StripStream::new(File::create(path)?)),
            None => Box::new(anstream::stderr()),
        })))
    }
}

/// The widths of rows that are printed one by one.
const LIVE: [usize; 13] = [4, 7, 15, 7, 24, 32, 9, 9, 9, 9, 10, 20, 0];

/// Before the first row of `--live`.
pub fn begin(output: &mut Output, options: &Options) -> io::Result<()> {
    if options.live {
        headings(&mut output.0, &HEAD, &LIVE)?;
    }
    output.0.flush()
}

/// Prints stacks that have ended while others run on.
pub fn stream(output: &mut Output, options: &Options, ended: &[Stack]) -> io::Result<()> {
    for stack in ended {
        if options.json {
            writeln!(output.0, "{}", serde_json::to_string(stack)?)?;
        } else {
            writeln!(output.0, "{}", line(&HEAD, &LIVE, &cells(stack)))?;
        }
    }
    output.0.flush()
}

/// Prints all of it, but for the rows of those that `stream` has printed.
pub fn print(
    output: &mut Output,
    options: &Options,
    all: &[Stack],
    told: &HashSet<u32>,
    stacks: &Stacks,
    end: &ProgramEnd,
) -> io::Result<()> {
    let to = &mut output.0;
    let mut rows: Vec<&Stack> = all.iter().collect();
    sort(&mut rows, options.sort);
    rows.truncate(options.top.unwrap_or(usize::MAX));
    if options.json {
        if options.streams() {
            rows.retain(|stack| !told.contains(&stack.id));
        }
        for row in &rows {
            writeln!(to, "{}", serde_json::to_string(row)?)?;
        }
        writeln!(to, "{}", process_json(options, all, stacks, end))?;
        return to.flush();
    }
    if options.live {
        for row in rows.iter().filter(|stack| !told.contains(&stack.id)) {
            writeln!(to, "{}", line(&HEAD, &LIVE, &cells(row)))?;
        }
    }
    headline(to, options, all, stacks, end)?;
    if options.live {
        return to.flush();
    }
    if options.summary {
        table(to, &SUMMARY, &summary(all, options), |_, _| Ok(()))?;
    } else {
        let lines: Vec<_> = rows.iter().map(|stack| cells(stack)).collect();
        table(to, &HEAD, &lines, |to, index| {
            let stack = rows[index];
            let mut below =
                |word: &str, frame: &String| writeln!(to, "{}", paint(FAINT, format!("      {word} {frame}")));
            stack.created_at.iter().try_for_each(|frame| below("at", frame))?;
            match &stack.end {
                End::Alive { place: Some(place) } if options.backtrace => {
                    place.frames.iter().try_for_each(|frame| below("in", frame))
                }
                _ => Ok(()),
            }
        })?;
    }
    if rows.len() < all.len() && !options.summary {
        writeln!(to, "{}", paint(FAINT, format!("{} of {}", rows.len(), what_there_was(all))))?;
    }
    to.flush()
}

fn sort(rows: &mut [&Stack], column: Column) {
    match column {
        Column::Start => (),
        Column::Life => rows.sort_by_key(|stack| Reverse(stack.life_ns)),
        Column::Cpu => rows.sort_by_key(|stack| Reverse(stack.cpu.map_or(0, |cpu| cpu.sum()))),
        Column::Stack => rows.sort_by_key(|stack| Reverse(stack.stack.map_or(0, |used| used.touched))),
        Column::Name => rows.sort_by(|a, b| a.name.cmp(&b.name)),
        Column::Entry => rows.sort_by(|a, b| a.entry.cmp(&b.entry)),
    }
}

fn is_alive(stack: &Stack) -> bool {
    !stack.end.is_over()
}

fn process_json(options: &Options, all: &[Stack], stacks: &Stacks, end: &ProgramEnd) -> serde_json::Value {
    let attached = match end.outcome {
        Outcome::Attached { process, time, now } => {
            json!({"process": process, "seconds": time.as_secs_f64(), "over": now != Now::RunsOn})
        }
        Outcome::Status(_) => serde_json::Value::Null,
    };
    json!({"process": {
        "attached": attached,
        "command": options.command.iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>(),
        "watched": stacks.watched(),
        "status": end.outcome.code(),
        "signal": end.outcome.signal(),
        "user_us": end.user,
        "system_us": end.system,
        "stacks": all.len(),
        "ended": all.iter().filter(|stack| !is_alive(stack)).count(),
        "complete": !stacks.lost(),
        "others_without_row": stacks.others_lost(),
    }})
}

/// What had become of a thread when the process ended.
fn state(end: &End) -> &'static str {
    match end {
        End::Alive { .. } | End::EndedProcess => "still ran",
        End::RunsOn => "run on",
        End::Replaced => "replaced by exec",
        End::NeverRan => "never ran",
        End::NotArmed { .. } => "not armed",
        _ => "ended",
    }
}

fn headline(
    to: &mut impl Write,
    options: &Options,
    all: &[Stack],
    stacks: &Stacks,
    end: &ProgramEnd,
) -> io::Result<()> {
    let count = |word: &str| all.iter().filter(|stack| state(&stack.end) == word).count();
    let mut counts = format!("{} ended", count("ended"));
    for word in ["still ran", "run on", "replaced by exec", "never ran", "not armed"] {
        let number = count(word);
        if number > 0 {
            counts += &format!(", {number} {word}");
        }
    }
    let which = match options.top {
        Some(top) if top < all.len() && !options.summary => "all rows",
        _ if options.live => "the rows above",
        _ => "the rows below",
    };
    let rows: u64 = all.iter().filter_map(|stack| stack.cpu).map(|cpu| cpu.sum()).sum();
    let line = format!("exeunt watch: {}", process::command_line(&options.command));
    writeln!(to, "{}", paint(TITLE, line))?;
    writeln!(
        to,
        "{}; {}: {counts}; CPU {} user, {} system, {} of it in {which}",
        process::in_words(&end.outcome),
        what_there_was(all),
        time(end.user * 1000),
        time(end.system * 1000),
        time(rows * 1000),
    )?;
    if !stacks.watched() {
        writeln!(to, "The program did not load the library, so there are no rows.")?;
    } else if !stacks.finished() {
        let what = match &end.outcome {
            Outcome::Attached { now: Now::Over, .. } => "The process was killed, or did not call exit",
            Outcome::Attached { now: Now::Replaced, .. } => "The process has executed another program",
            Outcome::Attached { .. } => "The library in the process does not answer",
            outcome if outcome.signal().is_some() => "The program was killed",
            _ => "The program did not call exit or _exit: it executed another one, or made the system call itself",
        };
        writeln!(to, "{what}. The times of its threads that lived then are not known.")?;
    }
    if stacks.lost() {
        writeln!(to, "There were more stacks than the table has rows; the last ones are missing.")?;
    }
    if stacks.others_lost() > 0 {
        let others = stacks.others_lost();
        writeln!(to, "Among them: {others} that no known call has created. Half the rows are kept from those.")?;
    }
    Ok(())
}

/// How many threads and fibers.
fn what_there_was(all: &[Stack]) -> String {
    let fibers = all.iter().filter(|stack| stack.migrations.is_some()).count();
    let threads = all.len() - fibers;
    let mut said = format!("{threads} {}", if threads == 1 { "thread" } else { "threads" });
    if fibers > 0 {
        said += &format!(", {fibers} {}", if fibers == 1 { "fiber" } else { "fibers" });
    }
    said
}

/// A column: its heading, and whether it is aligned to the right.
type Heading = (&'static str, bool);

const HEAD: [Heading; 13] = [
    ("id", true),
    ("tid", true),
    ("name", false),
    ("kind", false),
    ("entry function", false),
    ("started by", false),
    ("start", true),
    ("life", true),
    ("user", true),
    ("system", true),
    (MIGRATIONS, true),
    ("stack, at most", false),
    ("how it ended", false),
];

/// This column is for fibers, and left out where there are none.
const MIGRATIONS: &str = "migrations";

const SUMMARY: [Heading; 9] = [
    ("entry function", false),
    ("stacks", true),
    ("ended", true),
    ("most at once", true),
    ("mean life", true),
    ("user", true),
    ("system", true),
    ("deepest stack", true),
    ("started by", false),
];

fn cells(stack: &Stack) -> [String; 13] {
    let unknown = if stack.migrations.is_some() { "" } else { "?" };
    // The kernel says in steps of 10 ms when such a thread began.
    let about = if stack.kind == "other" { "≈" } else { "" };
    let cpu = |read: fn(super::stacks::Cpu) -> u64| stack.cpu.map_or(unknown.into(), |cpu| time(read(cpu) * 1000));
    [
        stack.id.to_string(),
        stack.tid.to_string(),
        stack.name.clone(),
        stack.kind.into(),
        shortened(&stack.entry, 40),
        stack.started_by.as_ref().map_or(String::new(), |by| format!("{} {}", by.tid, shortened(&by.function, 40))),
        format!("{about}{}", time(stack.start_ns)),
        format!("{about}{}", time(stack.life_ns)),
        cpu(|cpu| cpu.user_us),
        cpu(|cpu| cpu.system_us),
        stack.migrations.map_or(String::new(), |number| number.to_string()),
        stack.stack.map_or("?".into(), |used| format!("{} of {}", size(used.touched), size(used.size))),
        how(&stack.end),
    ]
}

fn how(end: &End) -> String {
    match end {
        End::Returned { value } => format!("returned{}", word(*value)),
        End::PthreadExit { value } => format!("pthread_exit{}", word(*value)),
        End::Cancelled => "cancelled".into(),
        End::Exit => "called exit".into(),
        End::Unwound => "left by an exception".into(),
        End::Ended => "ended".into(),
        End::Unseen => "ended, unseen".into(),
        End::RunsOn => "runs on".into(),
        End::Abandoned => "abandoned".into(),
        End::Alive { place: Some(place) } => {
            let caller = place.caller.as_ref().map_or(String::new(), |caller| format!(" of {}", shortened(caller, 40)));
            format!("alive when the process ended, in {}{caller}", place.call)
        }
        End::Alive { place: None } => "alive when the process ended".into(),
        End::Replaced => "replaced by exec".into(),
        End::EndedProcess => "ended the process".into(),
        End::NotArmed { reason } => format!("not armed: {reason}"),
        End::NeverRan => "never ran".into(),
    }
}

/// Numbers as such; what is larger is an address, or a part of one.
fn word(value: Option<i64>) -> String {
    match value {
        None => String::new(),
        Some(value @ -0x1_0000..0x1_0000) => format!(" {value}"),
        Some(value) => format!(" {value:#x}"),
    }
}

fn summary(all: &[Stack], options: &Options) -> Vec<[String; 9]> {
    let mut groups: BTreeMap<&str, Vec<&Stack>> = BTreeMap::new();
    for stack in all {
        groups.entry(&stack.entry).or_default().push(stack);
    }
    let mut groups: Vec<_> = groups.into_iter().collect();
    let cpu = |group: &[&Stack]| -> u64 { group.iter().filter_map(|stack| stack.cpu).map(|cpu| cpu.sum()).sum() };
    let life = |group: &[&Stack]| group.iter().map(|stack| stack.life_ns).sum::<u64>() / group.len() as u64;
    let deepest = |group: &[&Stack]| group.iter().filter_map(|stack| stack.stack).map(|used| used.touched).max();
    match options.sort {
        Column::Start => groups.sort_by_key(|(_, group)| Reverse(group.len())),
        Column::Life => groups.sort_by_key(|(_, group)| Reverse(life(group))),
        Column::Cpu => groups.sort_by_key(|(_, group)| Reverse(cpu(group))),
        Column::Stack => groups.sort_by_key(|(_, group)| Reverse(deepest(group))),
        Column::Name | Column::Entry => (),
    }
    groups.truncate(options.top.unwrap_or(usize::MAX));
    let lines = groups.iter().map(|(entry, group)| {
        let sum =
            |read: fn(super::stacks::Cpu) -> u64| -> u64 { group.iter().filter_map(|stack| stack.cpu).map(read).sum() };
        let ended = group.iter().filter(|stack| !is_alive(stack)).count();
        let mut creators: Vec<&str> =
            group.iter().filter_map(|stack| stack.started_by.as_ref()).map(|by| by.function.as_str()).collect();
        creators.sort_unstable();
        creators.dedup();
        let first = creators.first().map_or(String::new(), |function| shortened(function, 40));
        let more = if creators.len() > 1 { format!(" and {} more", creators.len() - 1) } else { String::new() };
        [
            shortened(entry, 40),
            group.len().to_string(),
            ended.to_string(),
            most_at_once(group).to_string(),
            time(life(group)),
            time(sum(|cpu| cpu.user_us) * 1000),
            time(sum(|cpu| cpu.system_us) * 1000),
            deepest(group).map_or("?".into(), size),
            first + &more,
        ]
    });
    lines.collect()
}

/// The most of these stacks that were there at one time.
fn most_at_once(group: &[&Stack]) -> usize {
    let mut changes: Vec<(u64, i64)> = Vec::new();
    for stack in group {
        changes.push((stack.start_ns, 1));
        changes.push((stack.start_ns + stack.life_ns, -1));
    }
    // An end comes before a birth of the same time.
    changes.sort_unstable();
    let (mut now, mut most) = (0i64, 0i64);
    for (_, change) in changes {
        now += change;
        most = most.max(now);
    }
    most.try_into().unwrap_or(0)
}

/// The width of a column that is not printed.
const LEFT_OUT: usize = usize::MAX;

/// `below` writes what follows a row.
fn table<const N: usize, W: Write>(
    to: &mut W,
    head: &[Heading; N],
    rows: &[[String; N]],
    below: impl Fn(&mut W, usize) -> io::Result<()>,
) -> io::Result<()> {
    let width = |column: usize| {
        if head[column].0 == MIGRATIONS && rows.iter().all(|row| row[column].is_empty()) {
            return LEFT_OUT;
        }
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([head[column].0.len()]).max().unwrap_or(0)
    };
    let widths: [usize; N] = std::array::from_fn(width);
    headings(to, head, &widths)?;
    for (index, row) in rows.iter().enumerate() {
        writeln!(to, "{}", line(head, &widths, row))?;
        below(to, index)?;
    }
    Ok(())
}

fn headings<const N: usize>(to: &mut impl Write, head: &[Heading; N], widths: &[usize; N]) -> io::Result<()> {
    writeln!(to, "{}", paint(FAINT, line(head, widths, &head.map(|(heading, _)| heading.to_owned()))))
}

fn line<const N: usize>(head: &[Heading; N], widths: &[usize; N], cells: &[String; N]) -> String {
    let mut line = String::new();
    for (column, cell) in cells.iter().enumerate().filter(|&(column, _)| widths[column] != LEFT_OUT) {
        let width = widths[column];
        line += &if head[column].1 { format!("{cell:>width$}") } else { format!("{cell:width$}") };
        line += "  ";
    }
    line.trim_end().to_owned()
}

/// A time with three digits.
fn time(nanoseconds: u64) -> String {
    let seconds = nanoseconds as f64 / 1e9;
    match nanoseconds {
        0 => "0".into(),
        1..1_000 => format!("{nanoseconds} ns"),
        1_000..1_000_000 => format!("{} µs", nanoseconds / 1000),
        1_000_000..1_000_000_000 => format!("{:.1} ms", seconds * 1e3),
        _ => format!("{seconds:.2} s"),
    }
}

fn size(bytes: u64) -> String {
    match bytes {
        ..0x10_0000 => format!("{} KiB", bytes.div_ceil(0x400)),
        _ => format!("{:.1} MiB", bytes as f64 / f64::from(0x10_0000)).replace(".0 ", " "),
    }
}
