//! The first use in a process, in which exeunt recognises exit trampolines: beside a
//! `pthread_create` that is not libc's, while a resource is exhausted, and in code that exeunt
//! itself calls.
#![cfg(target_os = "linux")]

#[path = "c/harness.rs"]
mod harness;

use harness::{Build, Outcome, Program, is_code, run};
use std::sync::OnceLock;

/// The lines of `tests/c/common.h` for a stack that it has armed.
fn drained(name: &str) -> Vec<String> {
    vec![
        format!("handler of {name}, walk complete, values 1 1"),
        "value two dropped".to_owned(),
        "value one dropped".to_owned(),
    ]
}

/// Runs a case of `ends.c` in which a wrapper replaces each `pthread_create` of the program.
fn wrapped(case: &str) -> Outcome {
    static PROGRAMS: OnceLock<(Program, Program)> = OnceLock::new();
    let (program, wrapper) = PROGRAMS.get_or_init(|| {
        let options = &["-O2", "-shared", "-fPIC"];
        let wrapper = Build { source: "preloaded.c", options, linked: false }.build();
        (Build::linked("ends.c", &["-O2"]).build(), wrapper)
    });
    let mut command = program.command();
    // Not for the emulator itself.
    command.arg(case).env("LD_PRELOAD", wrapper.file());
    run(command)
}

#[track_caller]
fn expect_drained(outcome: &Outcome, status: i32, before: &[&str], name: &str, after: &[&str]) {
    let middle = drained(name);
    let lines: Vec<&str> =
        before.iter().copied().chain(middle.iter().map(String::as_str)).chain(after.iter().copied()).collect();
    outcome.expect(status, &lines);
}

const VALUE: &str = "result 0x1234567890abcdef";
const KEY: &str = "key k destroyed";

#[test]
fn threads_that_begin_in_a_wrapper_drain_when_they_return_and_when_they_exit() {
    expect_drained(&wrapped("thread returns"), 0, &[], "thread", &[KEY, VALUE]);
    expect_drained(&wrapped("thread exits"), 0, &["cleanup inner", "cleanup outer"], "thread", &[KEY, VALUE]);
}

#[test]
fn threads_that_libc_starts_by_itself_drain_beside_a_wrapper() {
    expect_drained(&wrapped("C11 thread returns"), 0, &[], "C11 thread", &["result -7"]);
    expect_drained(&wrapped("C11 thread exits"), 0, &[], "C11 thread", &["result -7"]);
    expect_drained(&wrapped("callback"), 0, &[], "callback", &["the library's thread ends"]);
}

#[test]
fn main_drains_beside_a_wrapper() {
    expect_drained(&wrapped("main returns"), 42, &[], "main", &["atexit"]);
    expect_drained(&wrapped("main exits its thread"), 0, &[], "main", &["main is gone"]);
}

fn limited(case: &str) -> Outcome {
    static LIMITS: OnceLock<Program> = OnceLock::new();
    LIMITS.get_or_init(|| Build::linked("limits.c", &["-O2"]).build()).run(&[case])
}

#[test]
fn a_thread_that_cannot_be_started_fails_the_first_use_by_its_name_and_the_next_use_works() {
    let outcome = limited("threads");
    let lines = [
        "thread: refused",
        "thread: armed",
        "handler of thread",
        "the next thread: armed",
        "handler of the next thread",
    ];
    outcome.expect(0, &lines);
    let says = |words: &str| outcome.errors.contains(words);
    assert!(says("pthread_create failed: ") && says("(os error 11)") && says("ulimit -u"), "{outcome}");
    assert!(!says("enter"), "{outcome}");
}

#[test]
fn a_c11_thread_that_cannot_be_started_fails_by_its_name_and_the_next_use_works() {
    let outcome = limited("C11 threads");
    let lines =
        ["thread: armed", "handler of thread", "C11 thread: refused", "C11 thread: armed", "handler of C11 thread"];
    outcome.expect(0, &lines);
    assert!(outcome.errors.contains("thrd_create failed: "), "{outcome}");
}

#[test]
fn main_needs_no_thread_to_be_armed_by_slot_redirect() {
    let outcome = limited("main without threads");
    // Under code redirect, exeunt needs a thread to recognise how main ends.
    let first = if is_code() { "main: refused" } else { "main: armed" };
    let handlers: &[&str] = if is_code() { &["handler of main"] } else { &["handler of main", "handler of main"] };
    outcome.expect(0, &[&[first, "main: armed"], handlers].concat());
}

#[test]
fn a_context_for_which_there_is_no_memory_fails_the_first_use_by_its_name_and_the_next_use_works() {
    if harness::is_emulated() {
        return harness::not_run("a limit of memory", "it would be the emulator's");
    }
    let outcome = limited("memory");
    outcome.expect(0, &["fiber: refused", "fiber: armed", "handler of fiber"]);
    assert!(outcome.errors.contains("mmap failed: ") && outcome.errors.contains("(os error 12)"), "{outcome}");
}

#[test]
fn files_that_have_run_out_fail_code_redirect_s_first_use_and_the_next_use_works() {
    let outcome = limited("files");
    if !is_code() {
        return outcome.expect(0, &["thread: armed", "thread: armed", "handler of thread", "handler of thread"]);
    }
    outcome.expect(0, &["thread: refused", "thread: armed", "handler of thread"]);
    let says = |words: &str| outcome.errors.contains(words);
    assert!(says("/proc/self/maps") && says("(os error 24)") && says("the next use tries again"), "{outcome}");
}

#[test]
fn an_allocator_that_uses_storage_while_exeunt_allocates_gets_errors_and_the_process_ends() {
    let lines = ["handler of a thread", "main returns", "handler of main"];
    Build::linked("allocator.c", &["-O2"]).build().run(&[]).expect(8, &lines);
}

#[test]
fn a_handler_of_fork_that_arms_while_exeunt_has_its_lock_for_the_fork_does_not_wait_for_itself() {
    let outcome = Build::linked("atfork.c", &["-O2"]).build().run(&[]);
    let before = if is_code() { "before the fork: refused" } else { "before the fork: armed" };
    let lines = ["handler of a thread", before, "child: 5", "handler of main", "handler of main, from there"];
    outcome.expect(0, &lines[..if is_code() { 4 } else { 5 }]);
}

#[test]
fn a_thread_is_armed_where_thread_locals_are_larger_than_a_small_stack() {
    Build::linked("large.c", &["-O2"]).build().run(&[]).expect(0, &["handler of a thread"]);
}
