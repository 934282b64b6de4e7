//! Stacks that are armed by the address of their foot, from another thread or from their own.
#![cfg(all(target_os = "linux", target_env = "gnu"))]

#[path = "c/harness.rs"]
mod harness;

mod common;

use common::{Log, on_a_thread, process};
use exeunt::{Error, Kind};
use harness::{Build, Program};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, Sender, channel};

fn program() -> &'static Program {
    static PROGRAM: OnceLock<Program> = OnceLock::new();
    PROGRAM.get_or_init(|| Build::linked("armed_by_foot.c", &["-O2"]).build())
}

/// Runs the case of `tests/c/armed_by_foot.c`.
#[track_caller]
fn expect(case: &str, status: i32, lines: &[&str]) {
    program().run_first_and_later(&[case]).expect(status, lines);
}

const KEY: &str = "key of it destroyed";

#[test]
fn a_thread_s_handler_runs_at_each_of_its_ends() {
    let returns = ["it: Returned 0x1234", KEY];
    expect("thread returns", 0, &[returns, returns, returns].concat());
    expect("thread exits", 0, &["it: Exited 0x1234", KEY]);
    expect("thread is cancelled", 0, &["it: Cancelled", KEY]);
    expect("C11 thread returns", 0, &["it: Returned 0xfffffffffffffff9", KEY]);
}

#[test]
fn main_s_handler_runs_at_each_of_its_ends() {
    expect("main returns", 256 - 42, &["main: Returned 0xffffffffffffffd6"]);
    expect("main exits", 43, &["main: ProcessExit"]);
    expect("main exits its thread", 0, &["main: Exited 0x7", KEY]);
}

#[test]
fn main_is_not_armed_when_exit_has_run_the_last_function_that_would_drain_it() {
    expect("main is armed after its last net", 44, &["late: refused"]);
}

/// Where no thread was armed before, a reservation starts threads and joins them.
#[test]
#[cfg(target_arch = "x86_64")]
fn a_cancellation_that_is_due_does_not_act_in_a_reservation() {
    expect("cancellation is due", 0, &["main goes on", "it: Returned 0x1234"]);
}

#[test]
fn the_stack_s_own_code_uses_it_as_any_armed_one() {
    expect("thread unloads", 0, &[KEY]);
    expect("thread adds a handler", 0, &["added: Returned 0x1234", "it: Returned 0x1234", KEY]);
}

/// Allocates as the system does, unless this thread has forbidden it.
struct Forbidding;

thread_local! {
    static IS_FORBIDDEN: Cell<bool> = const { Cell::new(false) };
}

// SAFETY: it calls the system's allocator, or ends the process.
unsafe impl GlobalAlloc for Forbidding {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if IS_FORBIDDEN.get() {
            std::process::abort();
        }
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        if IS_FORBIDDEN.get() {
            std::process::abort();
        }
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Forbidding = Forbidding;

/// Runs code that must neither allocate nor free.
fn without_memory<R>(code: impl FnOnce() -> R) -> R {
    IS_FORBIDDEN.set(true);
    let result = code();
    IS_FORBIDDEN.set(false);
    result
}

/// The foot and the base of the running stack, which is not armed.
fn place() -> (usize, usize) {
    let id = exeunt::id().unwrap();
    let this = exeunt::stacks().find(|stack| stack.id == id).unwrap();
    exeunt::unload().unwrap();
    (this.foot, this.base)
}

/// A thread that waits for a message: what it has sent, the way to send it, and the thread.
fn waiting() -> ((usize, usize), Sender<()>, std::thread::JoinHandle<()>) {
    let (ready, places): (_, Receiver<(usize, usize)>) = channel();
    let (go, goes) = channel();
    let thread = std::thread::spawn(move || {
        ready.send(place()).unwrap();
        goes.recv().unwrap();
    });
    (places.recv().unwrap(), go, thread)
}

#[test]
fn arming_a_reserved_stack_needs_no_memory() {
    let log = Log::new();
    for round in 0..3 {
        let ((foot, base), go, thread) = waiting();
        let theirs = log.clone();
        // SAFETY: the thread waits for the message below.
        let reserved = unsafe { exeunt::reserve(foot, base, move || theirs.note("handler")) }.unwrap();
        assert!(!exeunt::stacks().any(|stack| stack.foot == foot), "in round {round}");
        // SAFETY: as above.
        let id = without_memory(|| unsafe { reserved.arm() }).unwrap();
        let stack = exeunt::stacks().find(|stack| stack.id == id).unwrap();
        assert_eq!((stack.kind, stack.foot, stack.base), (Kind::Thread, foot, base));
        // SAFETY: as above.
        let again = unsafe { exeunt::reserve(foot, base, || unreachable!()) };
        assert_eq!(again.map(drop), Err(Error::AlreadyArmed(id)));
        go.send(()).unwrap();
        thread.join().unwrap();
        assert_eq!(log.take(), ["handler"], "in round {round}");
    }
}

#[test]
fn a_reservation_that_is_dropped_drops_its_handler_and_leaves_the_stack_alone() {
    let log = Log::new();
    let ((foot, base), go, thread) = waiting();
    let owned = log.loud("what the handler owns");
    // SAFETY: the thread waits for the message below.
    let reserved = unsafe { exeunt::reserve(foot, base, move || unreachable!("{}", owned.name)) }.unwrap();
    drop(reserved);
    assert_eq!(log.take(), ["drop what the handler owns"]);
    go.send(()).unwrap();
    thread.join().unwrap();
}

#[test]
fn a_reserved_stack_that_was_armed_meanwhile_is_refused_and_nothing_changes() {
    let (ready, places) = channel();
    let (go, goes) = channel();
    let log = Log::new();
    let theirs = log.clone();
    let thread = std::thread::spawn(move || {
        ready.send(place()).unwrap();
        goes.recv().unwrap();
        exeunt::at_exit(theirs.noting("its own handler")).unwrap();
        ready.send(place_of_armed()).unwrap();
        goes.recv().unwrap();
    });
    fn place_of_armed() -> (usize, usize) {
        let id = exeunt::id().unwrap();
        let this = exeunt::stacks().find(|stack| stack.id == id).unwrap();
        (this.foot, this.base)
    }
    let (foot, base) = places.recv().unwrap();
    // SAFETY: the thread waits for a message.
    let reserved = unsafe { exeunt::reserve(foot, base, || unreachable!()) }.unwrap();
    go.send(()).unwrap();
    assert_eq!(places.recv().unwrap(), (foot, base));
    // SAFETY: as above.
    let (error, reserved) = without_memory(|| unsafe { reserved.arm() }).unwrap_err();
    assert!(matches!(error, Error::AlreadyArmed(_)), "{error}");
    go.send(()).unwrap();
    thread.join().unwrap();
    drop(reserved);
    assert_eq!(log.take(), ["its own handler"]);
}

#[test]
fn a_word_that_is_no_foot_is_refused_with_what_was_found() {
    let words = [0x1234_5678_usize; 128];
    let foot = (&raw const words).addr().next_multiple_of(16) + 8;
    // SAFETY: memory of this function.
    let refused = |foot, base| unsafe { exeunt::reserve(foot, base, || unreachable!()) }.map(drop).unwrap_err();
    let error = refused(foot, foot + 8);
    assert!(matches!(error, Error::NoFoot { found: 0x1234_5678, .. }), "{error}");
    assert!(error.to_string().contains("0x12345678") && error.to_string().contains("no exit trampoline"), "{error}");
    assert!(refused(8, 16).to_string().contains("cannot be read"));
    assert!(refused(foot + 1, foot + 9).to_string().contains("do not belong together"));
}

#[test]
fn a_thread_arms_its_own_stack_by_its_foot() {
    let log = Log::new();
    let theirs = log.clone();
    on_a_thread(move || {
        let (foot, base) = place();
        let log = theirs.clone();
        // SAFETY: the running stack.
        let id = unsafe { exeunt::reserve(foot, base, move || log.note("handler")).unwrap().arm() }.unwrap();
        assert_eq!(exeunt::id(), Ok(id));
        exeunt::set("value", theirs.loud("value")).unwrap();
    });
    assert_eq!(log.take(), ["handler", "drop value"]);
}

#[test]
fn a_start_routine_that_knows_its_foot_arms_its_stack_without_a_walk() {
    let log = Log::new();
    for round in 0..3 {
        let theirs = log.clone();
        on_a_thread(move || {
            let (foot, base) = place();
            for name in ["first", "second"] {
                // The second one finds the stack armed.
                let theirs = theirs.clone();
                let note = move |end: &exeunt::StackEnd| {
                    assert_eq!((Some(end.ending), end.value), (exeunt::ending(), exeunt::returned_value()));
                    theirs.note(format!("{name}: {:?} {:?}", end.kind, end.ending));
                };
                // SAFETY: the running stack.
                assert_eq!(unsafe { exeunt::at_exit_at_foot(foot, base, note) }, Ok(()));
            }
            let id = exeunt::id().unwrap();
            let stack = exeunt::stacks().find(|stack| stack.id == id).unwrap();
            assert_eq!((stack.foot, stack.base, stack.armed_from), (foot, base, None));
        });
        let lines = ["second: Thread Returned", "first: Thread Returned"];
        assert_eq!(log.take(), lines, "in round {round}");
    }
}

#[test]
fn a_thread_that_no_other_was_armed_before_is_armed_by_its_foot() {
    process::alone("a_thread_that_no_other_was_armed_before_is_armed_by_its_foot", || {
        let log = Log::new();
        let (ready, places) = channel();
        let (go, goes) = channel::<()>();
        let thread = std::thread::spawn(move || {
            // By a walk alone.
            ready.send(exeunt::Stack::current().foot().unwrap().address).unwrap();
            goes.recv().unwrap();
        });
        let foot = places.recv().unwrap();
        if cfg!(target_arch = "x86_64") {
            let theirs = log.clone();
            // SAFETY: the thread waits for the message below.
            let reserved = unsafe { exeunt::reserve(foot, foot + 8, move || theirs.note("handler")) }.unwrap();
            // SAFETY: as above.
            unsafe { reserved.arm() }.unwrap();
        }
        go.send(()).unwrap();
        thread.join().unwrap();
        assert_eq!(log.take(), ["handler"; 1][..usize::from(cfg!(target_arch = "x86_64"))]);
    });
}
