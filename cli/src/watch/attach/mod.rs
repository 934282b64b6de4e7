//! `exeunt watch --pid`: the rows of a process that runs already.

mod borrowed;
mod frame;
mod load;
mod owner;
mod stub;
mod target;

use super::memory;
use super::options::Options;
use super::process::{End, Now, Outcome};
use super::refusal::{FAILED, Refusal, say};
use super::report::{self, Output};
use super::stacks::Stacks;
use super::table::{Table, attached};
use super::trace;
use borrowed::Late;
use std::collections::HashSet;
use std::ffi::{OsStr, c_int};
use std::fs::read;
use std::os::unix::ffi::OsStrExt;
use std::process::ExitCode;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::{Acquire, Relaxed};
use std::thread::sleep;
use std::time::{Duration, Instant};
use target::{Identity, Target};

/// The status for a process that cannot be watched.
const REFUSED: u8 = 126;

/// A signal asks this command to let go of the process.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

extern "C" fn interrupted(_: c_int) {
    INTERRUPTED.store(true, Relaxed);
}

/// Watches a process that runs already, until it ends, a signal comes or the time is over.
pub fn watch(options: &Options, process: i32, library: &[u8]) -> Result<ExitCode, Refusal> {
    let failed = |what: &'static str| {
        move |error: std::io::Error| Refusal { reason: format!("{what}: {error}"), status: FAILED }
    };
    let refused = |reason| Refusal { reason, status: REFUSED };
    let target = Target::of(process).map_err(refused)?;
    let command = read(format!("/proc/{process}/cmdline")).unwrap_or_default();
    let words = command.split(|&byte| byte == 0).filter(|word| !word.is_empty());
    let options = &Options { command: words.map(|word| OsStr::from_bytes(word).into()).collect(), ..options.clone() };
    let mut output = Output::open(options.output.as_deref()).map_err(failed("the output"))?;
    let trace = options.trace.as_ref().map(std::fs::File::create).transpose().map_err(failed("the trace"))?;
    for (signal, handler) in [
        (libc::SIGPIPE, libc::SIG_IGN),
        (libc::SIGINT, interrupted as *const () as usize),
        (libc::SIGTERM, interrupted as *const () as usize),
        (libc::SIGHUP, interrupted as *const () as usize),
    ] {
        // SAFETY: the handler stores one word.
        unsafe { libc::signal(signal, handler) };
    }

    let mut steps = 0;
    let mut step = |_: &str| {
        steps += 1;
        if Some(steps) == options.kill_at {
            // SAFETY: ends this process.
            unsafe { libc::raise(libc::SIGKILL) };
        }
    };
    let identity = target::identity(process);
    let is_same = |now: Option<Identity>| now.zip(identity).is_some_and(|(now, before)| now.is_same_program(before));
    let mut late = Late::default();
    let waiting = load::start(&target, &mut late, &mut step).map_err(refused)?;
    let (table, births) = memory::table_in(&waiting.table).map_err(failed("the table's memory"))?;
    let owner = owner::take(table).map_err(failed("the table's owner"))?;
    waiting.load(library, &mut step).map_err(refused)?;
    await_attached(process, table, 0, Duration::from_secs(30));
    match table.attached.load(Acquire) {
        attached::ON => (),
        attached::FAILED => return Err(refused(format!("process {process}: {}", table.problem.load()))),
        _ if !is_same(target::identity(process)) => return Err(refused(format!("process {process} has ended"))),
        _ => return Err(refused(format!("the library in process {process} does not answer"))),
    }
    step("attached");
    let start = Instant::now();

    let mut stacks = Stacks::new(table, births);
    let mut told = HashSet::new();
    let mut failure = report::begin(&mut output, options).err();
    let mut times = (0, 0);
    let now = loop {
        let now = target::identity(process);
        // The main thread has ended, and so have the others.
        if now.is_some_and(|now| now.stack.is_none()) && target::is_over_but_for_us(process) {
            break Now::Over;
        }
        if !is_same(now) {
            let same = now.zip(identity).is_some_and(|(now, before)| now.began == before.began);
            break if same { Now::Replaced } else { Now::Over };
        }
        if INTERRUPTED.load(Relaxed) || options.time.is_some_and(|time| start.elapsed() >= time) {
            break Now::RunsOn;
        }
        late.let_go();
        times = cpu(process).unwrap_or(times);
        if options.streams() && failure.is_none() {
            let ended = stacks.ended();
            told.extend(ended.iter().map(|stack| stack.id));
            failure = report::stream(&mut output, options, &ended).err();
        }
        sleep(Duration::from_millis(20));
    };
    let time = start.elapsed();
    step("letting go");
    drop(owner);
    if now == Now::Replaced {
        stacks.replaced();
    }
    if now != Now::Replaced {
        await_attached(process, table, attached::ON, Duration::from_secs(5));
    }
    if now == Now::RunsOn {
        times = cpu(process).unwrap_or(times);
        // Then a next command can attach at once.
        let until = Instant::now() + Duration::from_secs(1);
        while target.is_watched() && Instant::now() < until {
            sleep(Duration::from_millis(1));
        }
    }
    step("let go");
    let problem = table.problem.load();
    if table.attached.load(Acquire) == attached::OFF && !problem.is_empty() {
        say(&format!("process {process} has not got all of its code back: {problem}"));
    }
    stacks.close();
    let rows = stacks.all();
    let (user, system) = times;
    let end = End { outcome: Outcome::Attached { process, time, now }, user, system };
    if failure.is_none() {
        failure = report::print(&mut output, options, &rows, &told, &stacks, &end).err();
    }
    if let Some(error) = failure {
        say(&format!("the output: {error}"));
    }
    if let Some(Err(error)) = trace.map(|file| trace::write(file, options, &rows)) {
        say(&format!("the trace: {error}"));
    }
    Ok(ExitCode::SUCCESS)
}

/// Waits until the library has another answer than this one, or the process is over.
fn await_attached(process: i32, table: &Table, before: u32, patience: Duration) {
    let until = Instant::now() + patience;
    while table.attached.load(Acquire) == before && Instant::now() < until && target::identity(process).is_some() {
        sleep(Duration::from_millis(1));
    }
}

/// The CPU times of the process so far, in microseconds.
fn cpu(process: i32) -> Option<(u64, u64)> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    let mut fields = stat.get(stat.rfind(')')? + 2..)?.split(' ');
    // The kernel counts in ticks of 10 ms here.
    let mut time = |skipped| Some(fields.nth(skipped)?.parse::<u64>().ok()? * 10_000);
    Some((time(11)?, time(0)?))
}
