//! How a stack ends, as its handlers and the destructors of its values are told.
#![cfg(target_os = "linux")]

#[path = "c/harness.rs"]
mod harness;

mod common;

use common::{Log, on_a_thread};
use exeunt::Ending;
use harness::{Build, Program};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;

fn ending() -> &'static Program {
    static ENDING: OnceLock<Program> = OnceLock::new();
    ENDING.get_or_init(|| Build::linked("ending.c", &["-O2"]).build())
}

const VALUE: &str = "0x1234567890abcdef";

/// Runs the case of `tests/c/ending.c`, whose handler and value must be told this.
#[track_caller]
fn expect(case: &str, status: i32, name: &str, told: &str) {
    ending().run_first_and_later(&[case]).expect(status, &[&format!("{name}: {told}"), &format!("value: {told}")]);
}

#[test]
fn a_thread_that_returns_is_told_so_and_its_result() {
    expect("thread returns", 0, "thread", &format!("Returned {VALUE}"));
    expect("thread returns with a request", 0, "thread", &format!("Returned {VALUE}"));
}

#[test]
fn a_thread_that_exits_is_told_so_and_its_value() {
    expect("thread exits", 0, "thread", &format!("Exited {VALUE}"));
}

#[test]
fn a_thread_with_a_cancellation_request_that_exits_before_it_takes_effect_has_exited() {
    expect("thread exits with a request", 0, "thread", &format!("Exited {VALUE}"));
    expect("thread exits and is requested", 0, "thread", &format!("Exited {VALUE}"));
}

#[test]
fn a_thread_that_is_cancelled_is_told_so() {
    expect("thread is cancelled", 0, "thread", "Cancelled");
    expect("thread is cancelled at any time", 0, "thread", "Cancelled");
}

#[test]
fn a_thread_that_exits_with_the_value_of_a_cancelled_one_counts_as_cancelled() {
    expect("thread exits as if cancelled", 0, "thread", "Cancelled");
}

#[test]
fn a_c11_thread_is_told_its_int() {
    expect("C11 thread returns", 0, "C11 thread", "Returned 0xfffffffffffffff9");
    expect("C11 thread exits", 0, "C11 thread", "Exited 0xfffffffffffffff9");
}

#[test]
fn main_is_told_each_of_its_ends() {
    expect("main returns", 256 - 42, "main", "Returned 0xffffffffffffffd6");
    expect("main exits", 43, "main", "ProcessExit");
    expect("main exits its thread", 0, "main", "Exited 0x7");
    expect("main is cancelled", 0, "main", "Cancelled");
}

#[test]
fn handlers_that_are_left_when_a_handler_of_main_exits_are_told_of_the_exit() {
    let lines = ["main, first: Returned 0x1", "main: ProcessExit", "value: ProcessExit"];
    ending().run_first_and_later(&["main's handler exits"]).expect(44, &lines);
}

#[test]
fn an_exit_on_another_thread_drains_nothing() {
    ending().run_first_and_later(&["thread ends process"]).expect(45, &[]);
}

#[test]
fn a_value_that_an_unload_drops_is_told_of_no_end() {
    ending().run_first_and_later(&["thread unloads"]).expect(0, &["unloaded: None"]);
}

/// What code at the end of a stack is told.
fn told() -> String {
    format!("{:?} {:?}", exeunt::ending(), exeunt::returned_value())
}

/// Registers a handler, and sets a value, which note what they are told.
fn arm(log: &Log) {
    assert_eq!((exeunt::ending(), exeunt::returned_value()), (None, None));
    let theirs = log.clone();
    exeunt::set("value", common::OnDrop(move || theirs.note(format!("value {}", told())))).unwrap();
    let theirs = log.clone();
    exeunt::at_exit(move || theirs.note(format!("handler {}", told()))).unwrap();
}

/// The lines of [`arm`].
fn lines(told: &str) -> [String; 2] {
    [format!("handler {told}"), format!("value {told}")]
}

#[test]
fn a_thread_of_rust_s_that_panics_returns() {
    let log = Log::new();
    let theirs = log.clone();
    let thread = std::thread::spawn(move || {
        arm(&theirs);
        panic!("caught by std");
    });
    assert!(thread.join().is_err());
    assert!(log.take()[0].starts_with("handler Some(Returned) Some("));
}

#[test]
fn enter_tells_a_return_from_unwinding() {
    let log = Log::new();
    let theirs = log.clone();
    on_a_thread(move || {
        exeunt::enter(|| arm(&theirs)).unwrap();
        assert_eq!(theirs.take(), lines("Some(Returned) None"));
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            exeunt::enter(|| {
                arm(&theirs);
                panic!("out of here");
            })
        }));
        assert!(panicked.is_err());
        assert_eq!(theirs.take(), lines("Some(Unwound) None"));
        assert_eq!(exeunt::ending(), None);
    });
}

#[test]
fn what_is_registered_while_a_stack_drains_is_told_the_same() {
    let log = Log::new();
    let theirs = log.clone();
    on_a_thread(move || exeunt::at_exit(move || arm_in_a_handler(theirs)).unwrap());
    assert_eq!(log.take(), ["Some(Returned)"; 2]);

    fn arm_in_a_handler(log: Log) {
        log.note(format!("{:?}", exeunt::ending()));
        exeunt::at_exit(move || log.note(format!("{:?}", exeunt::ending()))).unwrap();
    }
}

#[test]
fn code_after_the_drain_is_told_of_no_end() {
    thread_local! {
        static LAST: std::cell::RefCell<Option<Box<dyn std::any::Any>>> = const { std::cell::RefCell::new(None) };
    }
    let log = Log::new();
    let theirs = log.clone();
    on_a_thread(move || {
        let after = theirs.clone();
        LAST.set(Some(Box::new(common::OnDrop(move || after.note(format!("{:?}", exeunt::ending()))))));
        exeunt::at_exit(theirs.noting("handler")).unwrap();
    });
    assert_eq!(log.take(), ["handler", "None"]);
}

#[test]
fn endings_are_found_on_many_threads_at_once() {
    let threads: Vec<_> = (0..64)
        .map(|_| {
            std::thread::spawn(|| {
                let (sender, receiver) = std::sync::mpsc::channel();
                exeunt::at_exit(move || sender.send(exeunt::ending()).unwrap()).unwrap();
                receiver
            })
        })
        .collect();
    for thread in threads {
        let receiver = thread.join().unwrap();
        assert_eq!(receiver.recv(), Ok(Some(Ending::Returned)));
    }
}

#[cfg(target_env = "gnu")]
mod fibers {
    use super::*;
    use common::fiber::{Fiber, Pages};

    const ROOM: usize = 256 * 1024;

    #[test]
    fn a_fiber_that_returns_is_told_so() {
        let log = Log::new();
        let pages = Pages::new(ROOM);
        let theirs = log.clone();
        // SAFETY: the pages are this fiber's, and it runs to its end.
        unsafe { Fiber::new(pages.range(), move |_| arm(&theirs)) }.finish();
        assert_eq!(log.take(), lines("Some(Returned) None"));
    }

    /// Abandons a fiber that has called `arm`.
    fn abandon(pages: &Pages, log: &Log) {
        let theirs = log.clone();
        // SAFETY: the pages are this fiber's, which is not resumed.
        let fiber = unsafe {
            Fiber::new(pages.range(), move |fiber| {
                arm(&theirs);
                fiber.suspend();
                unreachable!("it is abandoned");
            })
        };
        fiber.abandon();
    }

    #[test]
    fn a_discarded_fiber_is_told_so_on_a_stack_that_goes_on() {
        let log = Log::new();
        let theirs = log.clone();
        on_a_thread(move || {
            let pages = Pages::new(ROOM);
            for is_armed in [false, true] {
                if is_armed {
                    exeunt::id().unwrap();
                }
                abandon(&pages, &theirs);
                // SAFETY: the fiber is not resumed.
                assert_eq!(unsafe { exeunt::discard(pages.range()) }, 1);
                assert_eq!(theirs.take(), lines("Some(Discarded) None"));
                assert_eq!(exeunt::ending(), None);
            }
        });
    }

    #[test]
    fn a_discarded_fiber_is_told_so_in_a_handler_of_another_stack_which_is_told_its_own() {
        let log = Log::new();
        let theirs = log.clone();
        on_a_thread(move || {
            let pages = Pages::new(ROOM);
            abandon(&pages, &theirs);
            exeunt::at_exit(move || {
                theirs.note(format!("{:?}", exeunt::ending()));
                // SAFETY: the fiber is not resumed.
                assert_eq!(unsafe { exeunt::discard(pages.range()) }, 1);
                theirs.note(format!("{:?}", exeunt::ending()));
            })
            .unwrap();
        });
        let [handler, value] = lines("Some(Discarded) None");
        assert_eq!(log.take(), ["Some(Returned)", &handler, &value, "Some(Returned)"]);
    }

    #[test]
    fn an_abandoned_fiber_is_told_so_and_the_next_one_there_is_told_its_own() {
        let log = Log::new();
        let pages = Pages::new(ROOM);
        abandon(&pages, &log);
        let theirs = log.clone();
        // SAFETY: the pages are this fiber's now, and it runs to its end.
        let next = unsafe {
            Fiber::new(pages.range(), move |_| {
                exeunt::id().unwrap();
                assert_eq!(theirs.take(), lines("Some(Abandoned) None"));
                arm(&theirs);
            })
        };
        next.finish();
        assert_eq!(log.take(), lines("Some(Returned) None"));
    }

    /// Runs a fiber that notes what it is told before its end, and calls `arm`.
    fn run_to_its_end(pages: &Pages, log: &Log) {
        let theirs = log.clone();
        // SAFETY: the pages are this fiber's, and it runs to its end.
        let fiber = unsafe {
            Fiber::new(pages.range(), move |_| {
                theirs.note(format!("{:?}", exeunt::ending()));
                arm(&theirs);
            })
        };
        fiber.finish();
    }

    #[test]
    fn a_fiber_that_a_discarded_one_s_handler_resumes_is_told_its_own() {
        let log = Log::new();
        let theirs = log.clone();
        on_a_thread(move || {
            let (pages, other) = (Pages::new(ROOM), Pages::new(ROOM));
            let inner = theirs.clone();
            // SAFETY: the pages are this fiber's, which is not resumed.
            let fiber = unsafe {
                Fiber::new(pages.range(), move |fiber| {
                    exeunt::at_exit(move || {
                        run_to_its_end(&other, &inner);
                        inner.note(told());
                    })
                    .unwrap();
                    fiber.suspend();
                })
            };
            fiber.abandon();
            // SAFETY: it is not resumed.
            assert_eq!(unsafe { exeunt::discard(pages.range()) }, 1);
        });
        let [handler, value] = lines("Some(Returned) None");
        assert_eq!(log.take(), ["None", &handler, &value, "Some(Discarded) None"]);
    }
}
