//! A function that is called at the end of every thread and of `main`.
#![cfg(all(target_os = "linux", target_env = "gnu", feature = "code"))]

#[path = "c/harness.rs"]
mod harness;

mod common;

use common::{Log, on_a_thread, process};
use exeunt::{Builder, Ending, Error, Kind, Redirect};
use harness::{Build, Program};
use std::ffi::c_void;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

fn program() -> &'static Program {
    static PROGRAM: OnceLock<Program> = OnceLock::new();
    PROGRAM.get_or_init(|| Build::linked("every_end.c", &["-O2"]).build())
}

/// Runs the case of `tests/c/every_end.c`, with the function registered on each of two threads.
#[track_caller]
fn expect(case: &str, status: i32, lines: &[&str]) {
    program().run(&[case, "on main"]).expect(status, lines);
    let registers: &[&str] = &["registers: thread Returned 0"];
    program().run(&[case, "on a thread"]).expect(status, &[registers, lines].concat());
}

/// Since glibc 2.34 `main` ends by `pthread_exit` through a call that threads make as well.
fn pthread_exit_of_main_meets_a_call() -> bool {
    // SAFETY: glibc returns a string that is never freed.
    let version = unsafe { std::ffi::CStr::from_ptr(libc::gnu_get_libc_version()) }.to_str().unwrap();
    let mut numbers = version.split('.').map(|number| number.parse::<u32>().unwrap());
    (numbers.next(), numbers.next()) >= (Some(2), Some(34))
}

const KEY: &str = "key of it destroyed";

#[test]
fn a_thread_s_ends_are_reported_before_its_keys_are_destroyed() {
    expect("thread returns", 0, &["it: thread Returned 0x1234", KEY, "atexit"]);
    expect("thread exits", 0, &["it: thread Exited 0x1234", KEY, "atexit"]);
    expect("thread is cancelled", 0, &["it: thread Cancelled", KEY, "atexit"]);
    expect("thread is there already", 0, &["it: thread Returned 0x8", KEY, "atexit"]);
}

#[test]
fn a_c11_thread_s_end_is_reported() {
    expect("C11 thread returns", 0, &["it: thread Returned 0xfffffffffffffff9", KEY, "atexit"]);
}

#[test]
fn main_s_end_is_reported_once_although_main_was_never_armed() {
    expect("main returns", 256 - 42, &["main: main Returned 0xffffffffffffffd6", "atexit"]);
    if pthread_exit_of_main_meets_a_call() {
        expect("main exits its thread", 0, &["main: main Exited 0x7", "atexit"]);
        let lines = ["main: main Exited 0x7", "joins: thread Returned 0", "atexit"];
        expect("main exits its thread first", 0, &lines);
    }
}

#[test]
fn an_end_of_the_process_is_not_reported() {
    expect("main exits", 43, &["atexit"]);
}

#[test]
fn the_end_of_an_armed_stack_is_reported_before_its_handlers_run() {
    expect("thread is armed", 0, &["it: thread Returned 0x1234, armed", "handler of it", KEY, "atexit"]);
    expect("main is armed", 3, &["main: main Returned 0x3, armed", "handler of main", "atexit"]);
}

#[test]
fn a_function_that_is_taken_back_leaves_libc_s_code_as_it_was() {
    let lines = [KEY, "restored", KEY, "handler of it", KEY, "it: thread Returned 0x1234", KEY, "atexit"];
    expect("taken back", 0, &lines);
}

#[test]
fn under_slot_redirect_it_is_refused_and_nothing_is_patched() {
    process::alone("under_slot_redirect_it_is_refused_and_nothing_is_patched", || {
        Builder::new().redirect(Redirect::Slot).install().unwrap();
        let error = exeunt::on_every_end(|_| unreachable!()).unwrap_err();
        assert_eq!(error, Error::RedirectChosen { chosen: Redirect::Slot, wanted: Redirect::Code });
        on_a_thread(|| ());
        assert!(exeunt::code_sites().unwrap().iter().all(|site| !site.applied));
    });
}

/// Ends of threads, armed and not, with `on_every_thread_end` under this redirect.
fn ends_of_threads(redirect: Redirect) {
    unsafe extern "C-unwind" {
        fn pthread_exit(value: *mut c_void) -> !;
    }
    extern "C-unwind" fn leaves(log: *mut c_void) -> *mut c_void {
        // SAFETY: the log of the caller below, which joins this thread.
        let log = unsafe { &*log.cast::<Log>() };
        exeunt::at_exit(log.clone().noting("handler")).unwrap();
        // SAFETY: nothing on this stack needs to be dropped.
        unsafe { pthread_exit(std::ptr::without_provenance_mut(9)) }
    }
    type Start = extern "C" fn(*mut c_void) -> *mut c_void;

    Builder::new().redirect(redirect).install().unwrap();
    let log = Log::new();
    let theirs = log.clone();
    let every_end = exeunt::on_every_thread_end(move |end| {
        assert_eq!(end.kind, Kind::Thread);
        theirs.note(format!("{:?}, {}", end.ending, end.is_armed));
    })
    .unwrap();
    assert_eq!(exeunt::on_every_thread_end(|_| unreachable!()).unwrap_err(), Error::EveryEndTaken);
    on_a_thread(|| ());
    assert_eq!(log.take(), ["Returned, false"]);

    // An armed stack's own end is as without it.
    let own = log.clone();
    on_a_thread(move || exeunt::at_exit(own.noting("handler")).unwrap());
    let armed = match redirect {
        Redirect::Slot => ["handler", "Returned, false"],
        _ => ["Returned, true", "handler"],
    };
    assert_eq!(log.take(), armed);
    // SAFETY: `leaves` takes the log, and the thread is joined.
    unsafe {
        let start = std::mem::transmute::<extern "C-unwind" fn(*mut c_void) -> *mut c_void, Start>(leaves);
        let (mut thread, mut result) = (0, std::ptr::null_mut());
        assert_eq!(libc::pthread_create(&mut thread, std::ptr::null(), start, (&raw const log).cast_mut().cast()), 0);
        assert_eq!(libc::pthread_join(thread, &mut result), 0);
        assert_eq!(result.addr(), 9);
    }
    assert_eq!(log.take(), armed.map(|line| line.replace("Returned", "Exited")));

    let of_main = |site: &exeunt::CodeSite| site.kind == Kind::Main;
    assert!(exeunt::code_sites().unwrap().iter().all(|site| !(of_main(site) && site.applied)));
    every_end.stop();
    exeunt::restore_code_sites().unwrap();
    on_a_thread(|| ());
    assert!(log.take().is_empty());
    assert!(exeunt::code_sites().unwrap().iter().all(|site| !site.applied));
}

#[test]
fn ends_of_threads_alone_are_reported_under_slot_redirect() {
    process::alone("ends_of_threads_alone_are_reported_under_slot_redirect", || ends_of_threads(Redirect::Slot));
}

#[test]
fn ends_of_threads_alone_are_reported_under_code_redirect() {
    process::alone("ends_of_threads_alone_are_reported_under_code_redirect", || ends_of_threads(Redirect::Code));
}

#[test]
fn a_panic_in_the_function_leaves_the_thread_s_end_as_it_is() {
    process::alone("a_panic_in_the_function_leaves_the_thread_s_end_as_it_is", || {
        let log = Log::new();
        let theirs = log.clone();
        let every_end = exeunt::on_every_end(|_| panic!("caught by exeunt")).unwrap();
        assert_eq!(on_a_thread(move || exeunt::at_exit(theirs.noting("handler")).map(|()| 5)), Ok(5));
        every_end.stop();
        assert_eq!(log.take(), ["handler"]);
    });
}

#[test]
fn every_end_of_many_threads_is_reported_while_stacks_are_armed_and_code_is_restored() {
    const NAME: &str = "every_end_of_many_threads_is_reported_while_stacks_are_armed_and_code_is_restored";
    const ROUNDS: usize = if cfg!(target_arch = "aarch64") { 9 } else { 30 };
    static ENDS: AtomicUsize = AtomicUsize::new(0);
    static HANDLERS: AtomicUsize = AtomicUsize::new(0);
    static GO_ON: AtomicBool = AtomicBool::new(true);
    process::alone(NAME, || {
        Builder::new().redirect(Redirect::Code).install().unwrap();
        // Stacks are armed whose trampoline is being restored at that moment.
        let restoring = std::thread::spawn(|| {
            let mut restored = 0;
            while GO_ON.load(Ordering::Relaxed) {
                match exeunt::restore_code_sites() {
                    Ok(()) => restored += 1,
                    Err(Error::CodeSitesInUse { .. }) => {}
                    Err(other) => panic!("{other}"),
                }
                std::thread::yield_now();
            }
            restored
        });
        let mut armed = 0;
        for round in 0..ROUNDS {
            let every_end = (round % 3 == 0).then(|| {
                exeunt::on_every_end(|end| {
                    assert_eq!((end.kind, end.ending), (Kind::Thread, Ending::Returned));
                    ENDS.fetch_add(1, Ordering::Relaxed);
                })
                .unwrap()
            });
            let before = ENDS.load(Ordering::Relaxed);
            let threads: Vec<_> = (0..4)
                .map(|number| {
                    std::thread::spawn(move || {
                        if number < 2 {
                            exeunt::at_exit(|| {
                                HANDLERS.fetch_add(1, Ordering::Relaxed);
                            })
                            .unwrap();
                        }
                    })
                })
                .collect();
            threads.into_iter().for_each(|thread| thread.join().unwrap());
            armed += 2;
            assert_eq!(HANDLERS.load(Ordering::Relaxed), armed, "in round {round}");
            let expected = before + 4 * usize::from(every_end.is_some());
            assert_eq!(ENDS.load(Ordering::Relaxed), expected, "in round {round}");
            if let Some(every_end) = every_end {
                every_end.stop();
            }
        }
        GO_ON.store(false, Ordering::Relaxed);
        assert!(restoring.join().unwrap() > 0);
    });
}

#[test]
fn a_child_of_fork_restores_the_code_although_its_parent_has_armed_threads() {
    const NAME: &str = "a_child_of_fork_restores_the_code_although_its_parent_has_armed_threads";
    process::alone(NAME, || {
        Builder::new().redirect(Redirect::Code).install().unwrap();
        let (ready, is_ready) = std::sync::mpsc::channel();
        let (go, goes) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            exeunt::at_exit(|| ()).unwrap();
            ready.send(()).unwrap();
            goes.recv().unwrap();
        });
        is_ready.recv().unwrap();
        // SAFETY: glibc's allocator works in the child, and the child ends without returning.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let restored = exeunt::restore_code_sites();
            // SAFETY: it ends the child.
            unsafe { libc::_exit(i32::from(restored.is_err())) };
        }
        let mut status = -1;
        // SAFETY: this process's child.
        assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
        assert_eq!(status, 0, "the child's exit status");
        assert_eq!(exeunt::restore_code_sites(), Err(Error::CodeSitesInUse { armed: 1, every_end: false }));
        go.send(()).unwrap();
        thread.join().unwrap();
    });
}

#[test]
fn the_words_of_redirected_feet_are_own_trampolines() {
    let (before, armed) = on_a_thread(|| {
        let before = exeunt::Stack::current().foot().unwrap().word;
        exeunt::id().unwrap();
        (before, exeunt::Stack::current().foot().unwrap().word)
    });
    assert!(!exeunt::is_own_trampoline(before) && !exeunt::is_own_trampoline(0));
    assert_eq!(exeunt::is_own_trampoline(armed), exeunt::survey().unwrap().redirect == Redirect::Slot);
}
