//! Tools that unwind an armed stack by themselves: perf on a stack under `enter`, of which it has
//! only a copy, and valgrind, which reads all unwind tables.
#![cfg(target_os = "linux")]

#[path = "c/harness.rs"]
mod harness;

use harness::{Build, has, is_emulated, not_run, run};
use std::process::Command;

#[test]
fn perf_unwinds_from_a_function_in_enter_to_the_caller_of_enter() {
    const WHAT: &str = "backtraces in perf";
    if is_emulated() || !has("perf") {
        return not_run(WHAT, "perf is not installed, or cannot inspect an emulator");
    }
    let program = Build::linked("entered.c", &["-O2"]).build();
    let data = program.file().with_extension("perf");
    let mut record = Command::new("perf");
    record.args(["record", "-e", "cpu-clock:u", "-F", "400", "--call-graph", "dwarf", "-o"]).arg(&data);
    record.arg(program.file()).arg("60000000");
    let recorded = run(record);
    if !recorded.status.success() {
        return not_run(WHAT, &format!("perf cannot record here: {}", recorded.errors));
    }
    let mut script = Command::new("perf");
    script.args(["script", "--no-inline", "-F", "ip,sym", "-i"]).arg(&data);
    let script = run(script);
    // A file that remains does no harm.
    let _ = std::fs::remove_file(&data);
    assert!(script.status.success(), "{script}");
    for place in ["unarmed_here", "armed_here"] {
        let at = |sample: &&str| sample.lines().any(|line| line.trim().split(' ').nth(1) == Some(place));
        let samples: Vec<&str> = script.output.split("\n\n").filter(at).collect();
        assert!(!samples.is_empty(), "no sample of {place}\n{script}");
        for sample in samples {
            let names: Vec<&str> = sample.lines().filter_map(|line| line.trim().split(' ').nth(1)).collect();
            let position = |name: &str| names.iter().position(|found| *found == name);
            let (inner, outer) = (position("inner_entry"), position("thread_entry"));
            assert!(inner.is_some() && inner < outer, "{names:?}");
        }
    }
}

#[test]
fn valgrind_understands_every_unwind_table() {
    if is_emulated() || !has("valgrind") {
        return not_run("unwind tables in valgrind", "valgrind is not installed, or cannot inspect an emulator");
    }
    let program = Build::linked("entered.c", &["-O2"]).build();
    let mut valgrind = Command::new("valgrind");
    // The question is the same for both redirects; a translating runtime has its own view of
    // patched code.
    valgrind.arg("--tool=none").arg(program.file()).env("EXEUNT_REDIRECT", "slot");
    let outcome = run(valgrind);
    outcome.expect(0, &["handler of what is entered", "handler of main"]);
    assert!(!outcome.errors.contains("unhandled"), "{outcome}");
}
