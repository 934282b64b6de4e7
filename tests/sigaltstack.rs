//! Signal handlers on alternate stacks, and coroutines that such handlers make.
#![cfg(target_os = "linux")]

#[path = "c/harness.rs"]
mod harness;

use harness::{Build, Outcome};

#[track_caller]
fn run(arguments: [&str; 2], lines: &[&str]) -> Outcome {
    let outcome = Build::linked("sigaltstack.c", &["-O1"]).build().run(&arguments);
    outcome.expect(0, lines);
    outcome
}

/// A coroutine on a former alternate stack gets nothing of its creator's, and an error with advice.
const REFUSED: [&str; 3] = ["coroutine reads 0", "coroutine armed 0", "coroutine set 0"];

#[test]
fn a_coroutine_made_on_an_alternate_stack_does_not_share_its_creator_s_storage() {
    let outcome = run(["coroutine", "0"], &[REFUSED[0], REFUSED[1], REFUSED[2], "creator reads 0"]);
    assert!(outcome.errors.contains("exeunt::enter"), "{outcome}");
}

#[test]
fn a_coroutine_made_on_an_alternate_stack_leaves_its_creators_values_and_handlers_alone() {
    let lines = ["creator armed 1", REFUSED[0], REFUSED[1], REFUSED[2], "creator reads 1", "handler of the creator 0"];
    run(["coroutine", "1"], &lines);
}

#[test]
fn a_handler_on_its_threads_own_stack_reads_the_thread_s_values() {
    run(["interrupted", "0"], &["armed 1", "handler reads 3"]);
}

#[test]
fn a_handler_on_an_alternate_stack_has_no_values() {
    run(["interrupted", "1"], &["armed 1", "handler reads 0"]);
}
