//! `fork` in a threaded process with armed stacks: the child's own stack drains exactly once,
//! stacks that do not exist in the child do nothing, and nothing deadlocks.
#![cfg(target_os = "linux")]

#[path = "c/harness.rs"]
mod harness;

use harness::{Build, Program};
use std::sync::OnceLock;

fn forking() -> &'static Program {
    static FORK: OnceLock<Program> = OnceLock::new();
    FORK.get_or_init(|| Build::linked("fork.c", &["-O2"]).build())
}

/// The child's lines for the threads that it starts, and for the end of the stack that it was
/// forked on.
const IN_CHILD: [&str; 4] =
    ["child: handler of a new thread", "child: handler of its own", "child: handler", "child: value dropped"];
const IN_PARENT: [&str; 2] = ["parent: handler", "parent: value dropped"];

fn lines<'a>(parts: &[&[&'a str]]) -> Vec<&'a str> {
    parts.concat()
}

#[test]
fn a_main_thread_that_forked_drains_once_in_each_process() {
    let told = lines(&[&IN_CHILD, &["child exited with 11"], &IN_PARENT]);
    forking().run(&["main forks"]).expect(12, &told);
}

#[test]
fn a_main_thread_that_forked_drains_once_in_a_child_that_exits() {
    let told = lines(&[&IN_CHILD, &["child exited with 11"], &IN_PARENT]);
    forking().run(&["main forks and exits"]).expect(12, &told);
}

#[test]
fn a_thread_that_forked_drains_once_in_each_process() {
    let told = lines(&[&IN_CHILD, &["child exited with 0"], &IN_PARENT]);
    forking().run(&["a thread forks"]).expect(0, &told);
}

#[test]
fn a_thread_that_forked_drains_once_in_a_child_where_it_exits() {
    let told = lines(&[&IN_CHILD, &["child exited with 0"], &IN_PARENT]);
    forking().run(&["a thread forks and exits"]).expect(0, &told);
}

#[test]
fn a_thread_that_forked_drains_nothing_in_a_child_that_it_ends_by_exit() {
    // As in any process: `exit` ends that thread's stack with the process.
    let told = lines(&[&IN_CHILD[..1], &["child exited with 14"], &IN_PARENT]);
    forking().run(&["a thread forks and ends the child"]).expect(0, &told);
}

#[test]
fn a_fork_in_the_middle_of_a_drain_lets_both_processes_finish_it() {
    let child = ["child: in the handler", "child: handler", "child: value dropped", "child exited with 0"];
    forking().run(&["a handler forks"]).expect(0, &lines(&[&child, &IN_PARENT]));
}

#[test]
fn a_fork_while_a_thread_recognises_where_stacks_end_leaves_the_child_able_to_arm() {
    // A round of the pause takes about a nanosecond. Recognition takes some hundred microseconds,
    // and under code redirect patching takes some fifteen milliseconds.
    let recognising = [0, 10_000, 30_000, 60_000, 100_000, 150_000, 200_000, 300_000, 500_000, 1_000_000];
    let patching =
        [2_000_000, 3_000_000, 4_000_000, 5_000_000, 6_000_000, 8_000_000, 10_000_000, 12_000_000, 16_000_000];
    // QEMU 7.2 forks while the thread whose code is being written holds locks of QEMU's, so the
    // child would wait for them.
    let patching = if harness::is_emulated() { &[][..] } else { &patching };
    for delay in recognising.iter().chain(patching) {
        let told = ["child: handler of a new thread", "child: handler of main", "child exited with 13"];
        forking().run(&["first use", &delay.to_string()]).expect(0, &told);
    }
}
