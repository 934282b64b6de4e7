//! Stacks of C and C++ programs: who started them, how they end, and what their entry functions look like.

#[path = "c/harness.rs"]
mod harness;

use harness::{Build, Outcome, Program};
use std::sync::OnceLock;

/// What a life tells when it ends, as `tests/c/common.h` arms it.
fn drained(name: &str) -> Vec<String> {
    vec![
        format!("handler of {name}, walk complete, values 1 1"),
        "value two dropped".to_owned(),
        "value one dropped".to_owned(),
    ]
}

/// The lines before a life's end, those of it, and those after it.
#[track_caller]
fn expect(outcome: &Outcome, status: i32, before: &[&str], name: &str, after: &[&str]) {
    let middle = drained(name);
    let lines: Vec<&str> =
        before.iter().copied().chain(middle.iter().map(String::as_str)).chain(after.iter().copied()).collect();
    outcome.expect(status, &lines);
}

fn ends() -> &'static Program {
    static ENDS: OnceLock<Program> = OnceLock::new();
    ENDS.get_or_init(|| Build::linked("ends.c", &["-O2"]).build())
}

const VALUE: &str = "result 0x1234567890abcdef";
const KEY: &str = "key k destroyed";

#[test]
fn a_pthread_that_returns_drains_once_before_its_keys_and_its_result_arrives() {
    expect(&ends().run(&["thread returns"]), 0, &[], "thread", &[KEY, VALUE]);
}

#[test]
fn a_pthread_that_exits_deep_drains_once_after_its_cleanup_handlers_and_its_result_arrives() {
    let before = ["cleanup inner", "cleanup outer"];
    expect(&ends().run(&["thread exits"]), 0, &before, "thread", &[KEY, VALUE]);
}

#[test]
fn the_same_holds_where_c_unwinds_by_tables() {
    let program = Build::linked("ends.c", &["-O2", "-fexceptions"]).build();
    let before = ["cleanup inner", "cleanup outer"];
    expect(&program.run(&["thread exits"]), 0, &before, "thread", &[KEY, VALUE]);
}

#[test]
fn a_pthread_armed_inside_a_cleanup_region_that_it_leaves_drains_once_when_it_exits() {
    expect(&ends().run(&["thread exits after a region"]), 0, &[], "thread", &[VALUE]);
}

#[test]
fn a_pthread_that_uses_nothing_exits_as_ever() {
    expect(&ends().run(&["thread exits unarmed"]), 0, &[], "thread", &[KEY, VALUE]);
}

#[test]
fn a_pthread_that_unloads_drops_its_values_and_exits_as_ever() {
    let lines = ["value two dropped", "value one dropped", "foot of a thread", VALUE];
    ends().run(&["thread exits unloaded"]).expect(0, &lines);
}

#[test]
fn a_c11_thread_that_returns_drains_once_and_its_int_arrives() {
    expect(&ends().run(&["C11 thread returns"]), 0, &[], "C11 thread", &["result -7"]);
}

#[test]
fn a_c11_thread_that_exits_drains_once_and_its_int_arrives() {
    expect(&ends().run(&["C11 thread exits"]), 0, &[], "C11 thread", &["result -7"]);
}

#[test]
fn a_thread_that_libc_started_for_a_callback_drains_when_libc_lets_it_go() {
    expect(&ends().run(&["callback"]), 0, &[], "callback", &["the library's thread ends"]);
}

#[test]
fn a_c_main_that_returns_drains_once_before_atexit_and_its_status_arrives() {
    expect(&ends().run(&["main returns"]), 42, &[], "main", &["atexit"]);
}

#[test]
fn exit_deep_on_the_main_thread_drains_once_before_atexit_and_its_status_arrives() {
    expect(&ends().run(&["main exits"]), 43, &[], "main", &["atexit"]);
}

#[test]
fn a_handler_of_main_may_exit_and_the_rest_still_runs_once() {
    expect(&ends().run(&["main's handler exits"]), 44, &[], "main", &["atexit"]);
}

#[test]
fn a_main_thread_that_leaves_its_process_running_drains_once() {
    expect(&ends().run(&["main exits its thread"]), 0, &[], "main", &["main is gone"]);
}

#[test]
fn a_thread_that_exits_the_process_drains_its_own_stack_alone() {
    expect(&ends().run(&["thread exits the process"]), 45, &[], "thread", &[]);
}

#[test]
fn a_process_that_ends_at_once_runs_no_handler() {
    ends().run(&["main exits at once"]).expect(46, &[]);
}

#[test]
fn handlers_that_panic_are_reported_and_the_others_still_run() {
    let outcome = ends().run(&["handlers panic"]);
    expect(&outcome, 47, &[], "main", &[]);
    assert_eq!(outcome.errors.matches("a handler panics").count(), 2, "{outcome}");
}
