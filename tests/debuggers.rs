//! What debuggers and profilers show of an armed stack: gdb, and perf with its copies of the stack.
//!
//! The same stack before it was armed gives the expected outermost frames. The tests use nothing
//! but addresses and the names of exeunt's functions, because not every system has names for
//! libc's.
#![cfg(target_os = "linux")]

#[path = "c/harness.rs"]
mod harness;

use harness::{Build, Outcome, Program, has, is_code, is_emulated, not_run, run};
use std::path::Path;
use std::process::Command;

fn program() -> Program {
    Build::linked("debug.c", &["-O2"]).build()
}

/// The reason why a tool that traces processes cannot be used here, if there is one.
fn missing(tool: &str) -> Option<String> {
    if is_emulated() {
        return Some("an emulator's processes cannot be traced".to_owned());
    }
    (!has(tool)).then(|| format!("{tool} is not installed"))
}

/// A backtrace, innermost frame first: address and function.
type Backtrace = Vec<(String, String)>;

/// The frames of a backtrace that gdb printed: `#1  0x5555 in name (arguments) at place`, or `#0
/// name (...)`.
fn gdb_frame(line: &str) -> Option<(String, String)> {
    let rest = line.strip_prefix('#')?.split_once(' ')?.1.trim_start();
    let (address, rest) = match rest.split_once(" in ") {
        Some((address, rest)) if address.starts_with("0x") => (address, rest),
        _ => ("", rest),
    };
    let name = rest.split([' ', '(']).next()?;
    Some((address.to_owned(), name.to_owned()))
}

#[track_caller]
fn expect_inner(backtrace: &Backtrace, inner: &[&str], all: &Outcome) {
    let names: Vec<&str> = backtrace.iter().map(|(_, name)| name.as_str()).collect();
    assert!(names.starts_with(inner), "{names:?} instead of {inner:?}...\n{all}");
}

#[test]
fn gdb_shows_all_frames_of_an_armed_stack_and_of_one_in_a_handler() {
    if let Some(why) = missing("gdb") {
        return not_run("backtraces in gdb", &why);
    }
    let program = program();
    let mut gdb = Command::new("gdb");
    gdb.args(["-nx", "-batch", "-ex", "set pagination off", "-ex", "set debuginfod enabled off"]);
    gdb.args(["-ex", "set backtrace past-main on", "-ex", "set print frame-arguments none", "-ex", "set width 0"]);
    for place in ["unarmed_here", "armed_here", "draining_here"] {
        gdb.args(["-ex", &format!("break {place}")]);
    }
    gdb.args(["-ex", "run"]);
    for _ in 0..6 {
        gdb.args(["-ex", "echo BACKTRACE\\n", "-ex", "backtrace", "-ex", "continue"]);
    }
    gdb.arg(program.file());
    let outcome = run(gdb);
    if outcome.errors.contains("ptrace: Operation not permitted") || outcome.errors.contains("Could not trace") {
        return not_run("backtraces in gdb", "processes may not be traced here");
    }
    let backtraces: Vec<Backtrace> =
        outcome.output.split("BACKTRACE\n").skip(1).map(|part| part.lines().filter_map(gdb_frame).collect()).collect();
    assert_eq!(backtraces.len(), 6, "{outcome}");
    assert!(outcome.output.contains("exited normally"), "{outcome}");
    for (stack, entry) in [(&backtraces[..3], "thread_entry"), (&backtraces[3..], "main")] {
        let [unarmed, armed, draining] = stack else { unreachable!("three backtraces of each") };
        let outermost = &unarmed[unarmed.len() - 2..];
        assert!(outermost.iter().all(|(address, _)| !address.is_empty()), "{outcome}");
        assert_eq!(&armed[armed.len() - 2..], outermost, "{outcome}");
        let outermost = |backtrace: &Backtrace| backtrace.last().cloned();
        assert_eq!(outermost(draining), outermost(unarmed), "{outcome}");
        expect_inner(unarmed, &["unarmed_here", "middle", entry], &outcome);
        expect_inner(draining, &["draining_here", "handler"], &outcome);
        let ours = draining.len() - unarmed[3..].len() - 1;
        if is_code() {
            // Armed, all return addresses are as they were. In the handler the return address into
            // the exit trampoline is a later one.
            expect_inner(armed, &["armed_here", "middle", entry], &outcome);
            assert_eq!(armed[3..], unarmed[3..], "{outcome}");
            assert_eq!(draining[ours].1, "exeunt_exit_hook_body", "{outcome}");
            assert_eq!(draining[ours + 1].1, unarmed[3].1, "{outcome}");
            assert_eq!(draining[ours + 2..], unarmed[4..], "{outcome}");
            continue;
        }
        // One frame more than before: exeunt's.
        expect_inner(armed, &["armed_here", "middle", entry, "exeunt_trampoline"], &outcome);
        assert_eq!(armed.len(), unarmed.len() + 1, "{outcome}");
        assert_eq!(armed[4..], unarmed[3..], "{outcome}");
        // In the handler the exit trampoline's frame, and all outer ones, are as they were.
        assert_eq!(draining[ours].1, "exeunt_trampoline_body", "{outcome}");
        assert_eq!(draining[ours + 1..], unarmed[3..], "{outcome}");
    }
}

/// The samples of `perf script`: blocks of lines `address name (object)`.
fn samples(script: &str) -> Vec<Backtrace> {
    let frame = |line: &str| {
        let (address, name) = line.trim().split_once(' ')?;
        // The fields that are requested omit the `+0x1f` after the name.
        Some((address.to_owned(), name.split(' ').next()?.to_owned()))
    };
    script
        .split("\n\n")
        .map(|block| block.lines().filter_map(frame).collect::<Backtrace>())
        .filter(|sample| !sample.is_empty())
        .collect()
}

fn perf(arguments: &[&str], data: &Path, more: &[&str]) -> Outcome {
    let mut perf = Command::new("perf");
    perf.args(arguments).arg(data).args(more);
    run(perf)
}

#[test]
fn perf_shows_all_frames_of_an_armed_stack_and_of_one_in_a_handler() {
    const WHAT: &str = "backtraces in perf";
    if let Some(why) = missing("perf") {
        return not_run(WHAT, &why);
    }
    let program = program();
    let data = program.file().with_extension("perf");
    let file = program.file().to_str().expect("a path in Unicode");
    // A tenth of a second of work at each place, and 400 samples each second.
    let record = ["record", "-e", "cpu-clock:u", "-F", "400", "--call-graph", "dwarf", "-o"];
    let recorded = perf(&record, &data, &[file, "60000000"]);
    if !recorded.status.success() {
        let why = recorded.errors.lines().find(|line| !line.trim().is_empty()).unwrap_or("no message").to_owned();
        return not_run(WHAT, &format!("perf cannot record here: {why}"));
    }
    let script = perf(&["script", "--no-inline", "-F", "ip,sym", "-i"], &data, &[]);
    let _ = std::fs::remove_file(&data);
    assert!(script.status.success(), "{script}");
    let samples = samples(&script.output);
    let of = |names: &[&str]| -> Vec<&Backtrace> {
        let has = |sample: &&Backtrace| names.iter().all(|name| sample.iter().any(|(_, here)| here == name));
        samples.iter().filter(has).collect()
    };
    let mut all_outermost = Vec::new();
    for entry in ["thread_entry", "main"] {
        let unarmed = of(&["unarmed_here", entry]);
        let example = unarmed.first().unwrap_or_else(|| panic!("no sample of {entry} unarmed\n{script}"));
        let below = example.iter().position(|(_, name)| name == entry).expect("it has this frame");
        let outermost = &example[below + 1..];
        assert!(outermost.len() >= 2, "{example:?}");
        let armed = of(&["armed_here", entry]);
        assert!(!armed.is_empty(), "no sample of {entry} armed\n{script}");
        for sample in armed {
            let at = sample.iter().position(|(_, name)| name == entry).expect("it has this frame");
            if is_code() {
                assert_eq!(&sample[at + 1..], outermost, "{sample:?}");
                continue;
            }
            assert_eq!(sample[at + 1].1, "exeunt_trampoline", "{sample:?}");
            assert_eq!(&sample[at + 2..], outermost, "{sample:?}");
        }
        all_outermost.push(outermost);
    }
    let draining = of(&["draining_here"]);
    // Under code redirect the return address into the exit trampoline is a later one in the handler
    // than in the entry function.
    let (ours, moved) = if is_code() { ("exeunt_exit_hook_body", 1) } else { ("exeunt_trampoline_body", 0) };
    for outermost in &all_outermost {
        assert!(draining.iter().any(|sample| sample.ends_with(&outermost[moved..])), "{outermost:?}\n{script}");
    }
    for sample in draining {
        let at = sample.iter().position(|(_, name)| name == ours);
        let at = at.unwrap_or_else(|| panic!("{sample:?}"));
        let below = &sample[at + 1..];
        let known = all_outermost
            .iter()
            .any(|outermost| below.len() == outermost.len() && below[moved..] == outermost[moved..]);
        assert!(known, "{sample:?}");
    }
}
