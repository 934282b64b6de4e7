//! Deferred cancellation of armed threads. It never takes effect inside the library, whenever the
//! request comes, and the stack drains exactly once.
#![cfg(target_os = "linux")]

#[path = "c/harness.rs"]
mod harness;

use harness::{Build, Program};
use std::sync::OnceLock;

fn cancel() -> &'static Program {
    static CANCEL: OnceLock<Program> = OnceLock::new();
    CANCEL.get_or_init(|| Build::linked("cancel.c", &["-O2"]).build())
}

/// The lines that `arm` of `tests/c/common.h` causes at the end.
const HANDLER: &str = "handler of thread, walk complete, values 1 1";
const TWO: &str = "value two dropped";
const ONE: &str = "value one dropped";
/// The lines of the handlers and the value of `tests/c/cancel.c`, each of which passes cancellation
/// points.
const SECOND: &str = "second handler passed cancellation points";
const FIRST: &str = "first handler passed cancellation points";
const VALUE: &str = "value passed cancellation points";

#[test]
fn a_request_pending_before_the_first_use_takes_effect_after_it_and_drains_once() {
    let lines = ["armed, and read", SECOND, FIRST, HANDLER, VALUE, TWO, ONE, "cancelled"];
    cancel().run_first_and_later(&["pending_before_arming"]).expect(0, &lines);
}

#[test]
fn a_request_pending_while_arming_is_refused_takes_effect_after_the_refusal() {
    let outcome = cancel().run_first_and_later(&["pending_while_refused"]);
    outcome.expect(0, &["refused", "cancelled"]);
    assert!(outcome.errors.contains("exeunt: "), "{outcome}");
}

#[test]
fn a_request_pending_while_unloading_takes_effect_after_it() {
    cancel().run_first_and_later(&["pending_while_unloading"]).expect(0, &[VALUE, TWO, ONE, "unloaded", "cancelled"]);
}

#[test]
fn a_request_pending_at_the_return_does_not_affect_the_drain_and_the_result() {
    cancel()
        .run_first_and_later(&["pending_at_return"])
        .expect(0, &[SECOND, FIRST, HANDLER, VALUE, TWO, ONE, "result 7"]);
}

#[test]
fn a_request_in_the_middle_of_a_drain_does_not_interrupt_it() {
    let lines = ["cancelled while draining", HANDLER, SECOND, FIRST, TWO, ONE, VALUE, "result 7"];
    cancel().run_first_and_later(&["requested_in_a_handler"]).expect(0, &lines);
    cancel().run_first_and_later(&["requested_in_a_handler_of_pthread_exit"]).expect(0, &lines);
}

#[test]
fn a_thread_that_is_cancelled_at_its_own_cancellation_point_drains_once() {
    let lines = [SECOND, FIRST, HANDLER, VALUE, TWO, ONE, "cancelled"];
    cancel().run_first_and_later(&["at_a_cancellation_point"]).expect(0, &lines);
}

#[test]
fn a_thread_that_has_disabled_cancellation_finds_it_disabled_after_arming() {
    cancel()
        .run(&["while_disabled"])
        .expect(0, &["still disabled", SECOND, FIRST, HANDLER, VALUE, TWO, ONE, "result 7"]);
}

#[test]
fn requests_at_any_moment_of_arming_reading_and_draining_drain_each_stack_once() {
    // An emulated thread takes some twenty times as long.
    let rounds = if harness::is_emulated() { "200" } else { "2000" };
    let program = cancel();
    let outcome = program.run(&["hunt", rounds]);
    outcome.expect(0, &[&format!("{rounds} armed, {rounds} drained")]);
}
