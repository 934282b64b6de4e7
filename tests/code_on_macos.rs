//! Code redirect on macOS with an Intel processor: each end of a thread drains it once. The authors
//! have built and linked it, and never run it.
#![cfg(all(target_os = "macos", target_arch = "x86_64", feature = "code"))]

mod common;

use common::{Log, on_a_thread, process};
use exeunt::{Builder, Kind, Redirect, Stack};
use std::ffi::c_void;
use std::ptr;

fn choose_code() {
    Builder::new().redirect(Redirect::Code).install().unwrap();
}

fn load(log: &Log) {
    assert_eq!(exeunt::get::<i32>(&"k"), None, "a new thread starts empty");
    exeunt::set("k", 1).unwrap();
    exeunt::set("value", log.loud("value")).unwrap();
    exeunt::at_exit(log.noting("handler")).unwrap();
}

#[test]
fn a_thread_that_returns_is_drained_and_its_stack_is_as_it_was() {
    process::alone("a_thread_that_returns_is_drained_and_its_stack_is_as_it_was", || {
        choose_code();
        let log = Log::new();
        for _ in 0..3 {
            let theirs = log.clone();
            on_a_thread(move || {
                let bare = Stack::current();
                assert_eq!(bare.problem(), None);
                load(&theirs);
                assert_eq!(Stack::current().foot(), bare.foot());
            });
            assert_eq!(log.take(), ["handler", "drop value"]);
        }
        // A thread that stores nothing passes the hook.
        assert_eq!(on_a_thread(|| 7), 7);
        assert_eq!(exeunt::survey().unwrap().armed, 0);
        let sites = exeunt::code_sites().unwrap();
        let thread = sites.iter().find(|site| site.kind == Kind::Thread).unwrap();
        assert!(thread.applied && thread.before.contains("call") && thread.after.contains("call"), "{thread:#?}");
    });
}

extern "C-unwind" fn exits(log: *mut c_void) -> *mut c_void {
    unsafe extern "C-unwind" {
        fn pthread_exit(result: *mut c_void) -> !;
    }
    // SAFETY: the test below joins this thread before it reads the log, and keeps the log until
    // then.
    load(unsafe { &*log.cast::<Log>() });
    // SAFETY: this frame holds nothing to drop.
    unsafe { pthread_exit(ptr::without_provenance_mut(42)) }
}

#[test]
fn a_thread_that_calls_pthread_exit_is_drained_by_the_safety_net_and_the_next_one_starts_empty() {
    process::alone(
        "a_thread_that_calls_pthread_exit_is_drained_by_the_safety_net_and_the_next_one_starts_empty",
        || {
            unsafe extern "C" {
                fn pthread_create(
                    thread: *mut libc::pthread_t,
                    attributes: *const libc::pthread_attr_t,
                    start: extern "C-unwind" fn(*mut c_void) -> *mut c_void,
                    argument: *mut c_void,
                ) -> i32;
            }
            choose_code();
            let log = Log::new();
            for _ in 0..3 {
                let mut result = ptr::null_mut();
                // SAFETY: the function fits, and the log lives until the thread is joined.
                unsafe {
                    let mut thread = std::mem::zeroed();
                    let argument = (&raw const log).cast_mut().cast();
                    assert_eq!(pthread_create(&raw mut thread, ptr::null(), exits, argument), 0);
                    assert_eq!(libc::pthread_join(thread, &raw mut result), 0);
                }
                assert_eq!((result.addr(), log.take()), (42, vec!["handler".to_owned(), "drop value".to_owned()]));
                assert_eq!(exeunt::survey().unwrap().armed, 0);
            }
        },
    );
}
