//! Both redirects on a shadow stack that is made in software (`tests/c/shadow_stack.c`): code
//! redirect makes no return that a processor would refuse, slot redirect makes exactly those that
//! are known.
//!
//! x86_64 only: QEMU's user mode, in which the suites run for aarch64, has no ptrace.
#![cfg(all(target_os = "linux", target_arch = "x86_64", target_env = "gnu"))]

#[path = "c/harness.rs"]
mod harness;

use harness::{Build, Program, not_run, run};
use std::sync::OnceLock;

/// The entry function returns into a trampoline.
const FOOT: &str = "#CP: a ret in other code leads to a trampoline; the shadow stack has the exit trampoline";
/// The trampoline has pushed the original address, without a call.
const EXIT: &str = "#CP: a ret in the trampolines' body leads to the exit trampoline; the shadow stack has nothing";
/// The same where an unwound thread goes on: its `longjmp` led to the trampoline, which is no
/// return.
const LANDING: &str = "#CP: a ret in the trampolines' body leads to other code; the shadow stack has nothing";

/// Steps through a case with each redirect. `lines` are those of slot redirect.
#[track_caller]
fn step(case: &str, lines: &[&str]) {
    static PROGRAM: OnceLock<Program> = OnceLock::new();
    let program = PROGRAM.get_or_init(|| Build::linked("shadow_stack.c", &["-O1"]).build());
    for redirect in ["slot", "code"] {
        let mut command = program.command();
        command.arg(case).env("EXEUNT_REDIRECT", redirect);
        let outcome = run(command);
        if outcome.status.code() == Some(77) {
            return not_run("a shadow stack in software", "ptrace is not permitted here");
        }
        let faults = lines.iter().filter(|line| line.starts_with("#CP")).count();
        let (faults, lines): (usize, Vec<_>) = if redirect == "slot" {
            (faults, lines.to_vec())
        } else {
            (0, lines.iter().copied().filter(|line| !line.starts_with("#CP")).collect())
        };
        let last = format!("status 0, many returns compared, mismatches {faults}");
        outcome.expect(0, &[&lines[..], &[&last]].concat());
    }
}

// Handlers run twice: a first stack of the same kind is not stepped.

#[test]
fn a_thread_that_returns() {
    step("thread", &["handler of a thread", FOOT, "handler of a thread", EXIT]);
}

#[test]
fn a_thread_that_exits() {
    let handler = "handler of a thread that exits";
    step("pthread_exit", &[handler, handler, LANDING]);
}

#[test]
fn a_thread_that_is_cancelled() {
    let handler = "handler of a thread that is cancelled";
    step("cancel", &[handler, handler, LANDING]);
}

#[test]
fn a_function_in_enter() {
    let handler = "handler of what is entered";
    step("enter", &[handler, FOOT, handler, EXIT]);
}

#[test]
fn two_fibers_that_take_turns() {
    let (first, second) = ("handler of the first fiber", "handler of the second fiber");
    step("fiber", &[first, second, FOOT, first, EXIT, FOOT, second, EXIT]);
}

#[test]
fn the_main_thread() {
    step("main", &["handler of a thread", FOOT, "handler of main", EXIT]);
}
