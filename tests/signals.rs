//! Signals at any instruction of arming, reading and draining: their handler can walk the stack to
//! its outermost frame, and reads return the right values.
//!
//! On x86_64 the processor's trap flag causes a signal at *every* instruction
//! (`tests/bridge/src/bin/single_step.rs`). Elsewhere, and for the recognition of exit trampolines,
//! the tests use a hail of signals, which misses an instruction that no signal meets. Under QEMU
//! signals arrive between translated blocks only, so the children run with blocks of one
//! instruction.
#![cfg(target_os = "linux")]

#[path = "c/harness.rs"]
mod harness;

use harness::{Outcome, program};

/// A child that checks its stack must have found nothing wrong, and have checked often enough to
/// mean something.
#[track_caller]
fn expect_checks(outcome: &Outcome, at_least: usize) {
    assert_eq!(outcome.status.code(), Some(0), "{outcome}");
    let checks =
        outcome.output.lines().find_map(|line| line.strip_suffix(" checks")).expect("the child prints its checks");
    assert!(checks.parse::<usize>().expect("a number") >= at_least, "{outcome}");
    assert_eq!(outcome.output.lines().count(), 1, "{outcome}");
}

/// Whether a handler may walk wherever it arrives. Where it may not, prints that the child with
/// these arguments is not run.
///
/// Where the loader has no `_dl_find_object` (glibc before 2.35), libgcc looks up unwind tables
/// under a mutex of the loader's. A handler that walks while its own thread is taking the mutex
/// waits for its own thread.
fn can_be_interrupted(arguments: &[&str]) -> bool {
    // SAFETY: looks up a name.
    let lockless = !unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"_dl_find_object".as_ptr()) }.is_null();
    if !lockless {
        let why = "this system's unwinder takes a lock to find its tables";
        harness::not_run(&format!("handlers at any instruction: {}", arguments.join(", ")), why);
    }
    lockless
}

#[cfg(target_arch = "x86_64")]
mod at_every_instruction {
    use super::{can_be_interrupted, expect_checks, program};

    /// A stack's life is some hundred thousand instructions in a debug build, and some thousands in
    /// a release build.
    const INSTRUCTIONS: usize = 2000;

    #[track_caller]
    fn step(arguments: [&str; 3]) {
        if can_be_interrupted(&arguments) {
            expect_checks(&program("single_step").run(&arguments), INSTRUCTIONS);
        }
    }

    #[test]
    fn a_thread_that_returns_can_be_walked() {
        step(["walking", "return", "warm"]);
    }

    #[test]
    fn the_first_thread_of_its_kind_can_be_walked() {
        step(["walking", "return", "cold"]);
    }

    #[test]
    fn a_thread_that_exits_can_be_walked() {
        step(["walking", "pthread_exit", "warm"]);
    }

    #[test]
    fn reads_on_the_interrupted_stack_return_the_right_values() {
        step(["reading", "return", "warm"]);
    }

    #[test]
    fn reads_on_a_stack_that_was_interrupted_while_exiting_return_the_right_values() {
        step(["reading", "pthread_exit", "warm"]);
    }

    #[test]
    fn an_alternate_signal_stack_can_be_walked_to_the_outermost_frame_and_has_no_values() {
        step(["reading-elsewhere", "return", "warm"]);
    }
}

/// Runs the hammer.
#[track_caller]
fn hammer(how: &str) {
    if !can_be_interrupted(&[how]) {
        return;
    }
    let mut command = program("hammer").command();
    // QEMU's two names for blocks of one instruction, before and since version 8.1.
    command.env("QEMU_SINGLESTEP", "1").env("QEMU_ONE_INSN_PER_TB", "1");
    // Emulated in that way, a stack's life takes some tenths of a second.
    let lives = if harness::is_emulated() { "40" } else { "2000" };
    command.args([how, lives]);
    expect_checks(&harness::run(command), 10);
}

#[test]
fn a_stack_under_a_hail_of_signals_can_be_walked() {
    hammer("walking");
}

#[test]
fn reads_under_a_hail_of_signals_return_the_right_values() {
    hammer("reading");
}

#[test]
fn an_alternate_signal_stack_under_a_hail_of_signals_can_be_walked_and_has_no_values() {
    hammer("reading-elsewhere");
}
