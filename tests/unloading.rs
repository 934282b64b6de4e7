//! Unloads the library's shared object: the trampoline stays where armed stacks need it. And two
//! copies of the library in one process.
#![cfg(target_os = "linux")]

#[path = "c/harness.rs"]
mod harness;

mod common;

use common::{Log, on_a_thread, process};
use harness::{Build, Outcome, Program, bridge};
use std::ffi::{CString, c_int, c_void};
use std::sync::OnceLock;

fn unload(case: &str) -> Outcome {
    static UNLOAD: OnceLock<Program> = OnceLock::new();
    let program = UNLOAD.get_or_init(|| Build { source: "unload.c", options: &["-O2"], linked: false }.build());
    let library = bridge().join("libexeunt_bridge.so");
    program.run(&[library.to_str().expect("a path in Unicode"), case])
}

#[test]
fn a_thread_drains_after_the_library_was_closed() {
    unload("thread").expect(0, &["closed", "handler", "value", "joined"]);
}

#[test]
fn a_thread_that_exits_drains_after_the_library_was_closed() {
    unload("thread exits").expect(0, &["closed", "handler", "value", "joined"]);
}

#[test]
fn main_drains_after_the_library_was_closed() {
    unload("main").expect(5, &["closed", "handler", "value"]);
    unload("main exits").expect(6, &["closed", "handler", "value"]);
}

#[test]
fn a_thread_drains_when_another_closes_the_library_meanwhile() {
    unload("another closes").expect(0, &["closed", "handler", "value", "joined"]);
}

#[test]
fn a_library_that_was_closed_can_be_loaded_and_used_again() {
    let once = ["closed", "handler", "value", "joined"];
    unload("twice").expect(0, &[once, once].concat());
}

#[test]
fn a_library_that_was_never_used_can_be_unloaded() {
    unload("unused").expect(0, &["gone"]);
}

#[test]
fn two_copies_of_the_library_on_one_thread_both_drain_whichever_came_first() {
    type AtExit = unsafe extern "C" fn(extern "C" fn(*mut c_void), *mut c_void) -> c_int;
    extern "C" fn note(log: *mut c_void) {
        // SAFETY: the case's log, which exists until the thread is joined.
        unsafe { &*log.cast::<Log>() }.note("the copy's handler");
    }
    // Built before the time is limited.
    bridge();
    process::alone("two_copies_of_the_library_on_one_thread_both_drain_whichever_came_first", || {
        let library = CString::new(bridge().join("libexeunt_bridge.so").to_str().expect("a path in Unicode")).unwrap();
        // SAFETY: the library has no initialisers but the language's, and this function.
        let at_exit: AtExit = unsafe {
            let library = libc::dlopen(library.as_ptr(), libc::RTLD_NOW);
            assert!(!library.is_null(), "the copy is there");
            std::mem::transmute(libc::dlsym(library, c"bridge_at_exit".as_ptr()))
        };
        for order in ["own copy", "copy own", "own copy own", "copy own copy"] {
            let log = Log::new();
            let theirs = log.clone();
            on_a_thread(move || {
                let shared = Box::leak(Box::new(theirs.clone()));
                for who in order.split(' ') {
                    match who {
                        "own" => exeunt::at_exit(theirs.noting("our handler")).unwrap(),
                        // SAFETY: the log is leaked.
                        _ => assert_eq!(unsafe { at_exit(note, std::ptr::from_mut(shared).cast()) }, 0),
                    }
                }
                // Unwinding passes the trampolines of both.
                assert!(!std::backtrace::Backtrace::force_capture().to_string().is_empty());
            });
            let mut lines = log.take();
            lines.sort();
            let mut expected: Vec<_> =
                order.split(' ').map(|who| if who == "own" { "our handler" } else { "the copy's handler" }).collect();
            expected.sort_unstable();
            assert_eq!(lines, expected, "{order}");
        }
    });
}

#[test]
fn two_copies_of_the_library_on_the_main_thread_both_drain_or_the_second_one_is_refused() {
    let program = Build { source: "copies.c", options: &["-O2"], linked: false }.build();
    let first = bridge().join("libexeunt_bridge.so");
    // Another file, or the dynamic linker would take it for the same library.
    let second = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("copy-{}.so", std::process::id()));
    std::fs::copy(&first, &second).expect("cargo's directory for tests is writable");
    let run = |case| program.run(&[first.to_str().expect("Unicode"), second.to_str().expect("Unicode"), case]);
    let (returned, exited) = (run("returns"), run("exits its thread"));
    std::fs::remove_file(&second).expect("it was just written");
    if harness::is_code() {
        // The first copy has patched main's exit trampoline, so the second one does not recognise
        // its shape.
        let told = ["the second copy is refused", "handler of the first copy"];
        returned.expect(7, &told);
        return exited.expect(0, &[&told[..], &["key k destroyed", "main is gone"]].concat());
    }
    returned.expect(7, &["handler of the first copy", "handler of the second copy"]);
    // The landing is the first copy's. The second one's safety net is a key that was made before
    // the program's.
    let told = ["handler of the first copy", "handler of the second copy", "key k destroyed", "main is gone"];
    exited.expect(0, &told);
}
