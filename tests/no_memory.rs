//! Where there is no memory, calls return an error, and nothing has changed.
//!
//! In a child process the global allocator fails one allocation (the first, then the second, and so
//! on) until the call that is tried succeeds.

mod common;

use common::process;
use exeunt::{Error, Slot};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::{Cell, RefCell};
use std::ffi::c_void;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Fails the allocation that is due, on the thread that has requested it.
struct Failing;

thread_local! {
    /// How many allocations still succeed. While it is not set, none fails.
    static LEFT: Cell<Option<usize>> = const { Cell::new(None) };
}

fn is_due() -> bool {
    LEFT.with(|left| {
        let now = left.get();
        left.set(now.and_then(|now| now.checked_sub(1)));
        now == Some(0)
    })
}

// SAFETY: passes everything on to the system's allocator, or returns null, which an allocator may.
unsafe impl GlobalAlloc for Failing {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        if is_due() { std::ptr::null_mut() } else { unsafe { System.alloc(layout) } }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        if is_due() { std::ptr::null_mut() } else { unsafe { System.alloc_zeroed(layout) } }
    }

    unsafe fn realloc(&self, place: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller's promise.
        if is_due() { std::ptr::null_mut() } else { unsafe { System.realloc(place, layout, size) } }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(place, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Failing = Failing;

/// Runs `code`, in which allocation number `at` fails. Returns whether `code` reached that
/// allocation, and its result.
fn failing_at<R>(at: usize, code: impl FnOnce() -> R) -> (bool, R) {
    LEFT.set(Some(at));
    let result = code();
    (LEFT.take().is_none(), result)
}

/// Counts the instances that exist.
struct Counted;
static ALIVE: AtomicUsize = AtomicUsize::new(0);

impl Counted {
    fn new() -> Self {
        ALIVE.fetch_add(1, Ordering::Relaxed);
        Self
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        ALIVE.fetch_sub(1, Ordering::Relaxed);
    }
}

exeunt::stack_local! {
    static LOCAL: RefCell<(u64, Option<Counted>)> = RefCell::new((7, Some(Counted::new())));
    static NOTHING: () = ();
}

fn slot() -> &'static Slot<Counted> {
    static SLOT: OnceLock<Slot<Counted>> = OnceLock::new();
    SLOT.get_or_init(|| Slot::new().expect("there is a free one"))
}

/// A C slot, in another block than the typed one.
fn c_slot() -> u32 {
    static SLOT: OnceLock<u32> = OnceLock::new();
    *SLOT.get_or_init(|| {
        // SAFETY: without a destructor, any value will do.
        let alloc = || unsafe { exeunt::slots::alloc(None) }.expect("there is one");
        (1..100).fold(alloc(), |_, _| alloc())
    })
}

/// An attempt on a fresh stack, and a check that it has been done.
type Try = (&'static str, fn() -> Result<(), Error>, fn() -> bool);

const TRIES: &[Try] = &[
    (
        "a handler",
        || {
            let held = Counted::new();
            exeunt::at_exit(move || drop(held))
        },
        || true,
    ),
    (
        "a value",
        || exeunt::set(String::new(), Counted::new()),
        || exeunt::with(&String::new(), |value: Option<&Counted>| value.is_some()),
    ),
    (
        "an inheritable value",
        || exeunt::set_inheritable("key", [7_u64; 4]),
        || exeunt::get::<[u64; 4]>(&"key").is_some(),
    ),
    ("a stack local", || LOCAL.try_with(|local| assert_eq!(local.borrow().0, 7)), || true),
    ("a stack local of size zero", || NOTHING.try_with(|_| ()), || true),
    ("a typed slot", || slot().set(Counted::new()), || slot().share().is_some()),
    (
        "a slot",
        // SAFETY: a slot without a destructor takes any value.
        || unsafe { exeunt::slots::set(c_slot(), std::ptr::dangling_mut::<c_void>()) },
        || exeunt::slots::get(c_slot()).is_ok_and(|value| !value.is_null()),
    ),
    ("an identity", || exeunt::id().map(drop), || true),
    ("a context", || exeunt::context::try_with(Counted::new(), || ()), || true),
];

/// Makes each attempt on a thread of its own, with a fresh stack that no thread has used before.
/// Returns how many allocations failed.
fn try_all(attempt: Try) -> usize {
    let (name, code, is_done) = attempt;
    for at in 0.. {
        let life = move || {
            let alive = ALIVE.load(Ordering::Relaxed);
            let (has_failed, result) = failing_at(at, code);
            if let Err(error) = &result {
                assert!(has_failed, "{name}: {error}");
                assert_eq!(error, &Error::OutOfMemory, "{name}, allocation {at}");
                assert!(!exeunt::Stack::current().is_armed(), "{name}, allocation {at}: the stack is as it was");
                assert_eq!(ALIVE.load(Ordering::Relaxed), alive, "{name}, allocation {at}: it is dropped");
                assert_eq!(code(), Ok(()), "{name}, after allocation {at} has failed");
            }
            assert!(is_done(), "{name}, allocation {at}");
            has_failed
        };
        let has_failed = std::thread::spawn(life).join().expect("no panic in the thread");
        assert_eq!(ALIVE.load(Ordering::Relaxed), 0, "{name}, allocation {at}: all is dropped at the end");
        if !has_failed {
            return at;
        }
    }
    unreachable!("it succeeds some time")
}

#[test]
fn where_an_allocation_fails_the_stack_is_as_it_was_and_the_same_call_then_succeeds() {
    process::alone("where_an_allocation_fails_the_stack_is_as_it_was_and_the_same_call_then_succeeds", || {
        // A test of its own covers what a process allocates once, for its first stack.
        std::thread::spawn(|| exeunt::id().map(drop)).join().expect("no panic").expect("it is armed");
        slot();
        c_slot();
        for attempt in TRIES {
            let failures = try_all(*attempt);
            println!("{}: {failures} allocations", attempt.0);
            assert!(failures >= 2, "what is stored, and where, or the walk that led there");
        }
    });
}

#[test]
fn where_an_allocation_fails_on_a_stack_with_many_values_none_of_them_changes() {
    process::alone("where_an_allocation_fails_on_a_stack_with_many_values_none_of_them_changes", || {
        std::thread::spawn(|| {
            let mut failures = 0;
            let mut must = |at: &mut usize, code: &mut dyn FnMut() -> Result<(), Error>| {
                let before = ALIVE.load(Ordering::Relaxed);
                let (has_failed, result) = failing_at(*at, &mut *code);
                if result.is_err() {
                    assert_eq!(result, Err(Error::OutOfMemory));
                    assert_eq!(ALIVE.load(Ordering::Relaxed), before);
                    code().expect("there is memory again");
                    failures += 1;
                }
                *at = if has_failed { *at + 1 } else { 0 };
            };
            let (mut at_set, mut at_handler) = (0, 0);
            let stored = || exeunt::with(&0, |value: Option<&Counted>| value.is_some());
            for number in 0..2000 {
                must(&mut at_set, &mut || exeunt::set(number, Counted::new()));
                must(&mut at_handler, &mut || {
                    let held = Counted::new();
                    exeunt::at_exit(move || drop((held, number)))
                });
                assert!(stored());
                if number % 3 == 2 {
                    assert!(exeunt::del(&(number - 1)).unwrap());
                }
            }
            assert!(failures > 1000, "{failures}");
            for number in 0..2000 {
                assert_eq!(
                    exeunt::with(&number, |value: Option<&Counted>| value.is_some()),
                    number % 3 != 1 || number == 1999
                );
            }
        })
        .join()
        .expect("no panic in the thread");
        assert_eq!(ALIVE.load(Ordering::Relaxed), 0);
    });
}

#[test]
fn a_key_that_is_there_is_set_again_without_memory() {
    process::alone("a_key_that_is_there_is_set_again_without_memory", || {
        std::thread::spawn(|| {
            exeunt::set("another", 1).expect("there is memory");
            exeunt::set("key", 1).expect("there is memory");
            // In any order: the table has room for both.
            for number in 2..200 {
                let key = if number % 3 == 0 { "another" } else { "key" };
                let (_, result) = failing_at(0, || exeunt::set(key, number));
                if result == Err(Error::OutOfMemory) {
                    // The list of values grows until it is 32 gaps long.
                    assert!(number < 70, "{number}");
                    exeunt::set(key, number).expect("there is memory");
                }
                assert_eq!(exeunt::get(key), Some(number));
            }
        })
        .join()
        .expect("no panic in the thread");
    });
}

#[test]
fn a_reset_and_an_unload_without_memory_drop_everything() {
    process::alone("a_reset_and_an_unload_without_memory_drop_everything", || {
        for unloads in [false, true] {
            std::thread::spawn(move || {
                for number in 0..100 {
                    exeunt::set(number, Counted::new()).expect("it is armed");
                    let held = Counted::new();
                    exeunt::at_exit(move || drop(held)).expect("it is armed");
                }
                LOCAL.with(|_| ());
                assert_eq!(ALIVE.load(Ordering::Relaxed), 201);
                let (has_failed, result) = failing_at(0, if unloads { exeunt::unload } else { exeunt::reset });
                assert_eq!(result, Ok(()));
                assert!(has_failed, "there was something to allocate");
                assert_eq!(ALIVE.load(Ordering::Relaxed), if unloads { 0 } else { 100 });
                assert_eq!(exeunt::Stack::current().is_armed(), !unloads);
            })
            .join()
            .expect("no panic in the thread");
            assert_eq!(ALIVE.load(Ordering::Relaxed), 0);
        }
    });
}

#[test]
fn registering_a_wrapper_and_the_first_enter_report_that_there_is_no_memory() {
    extern "C" fn wrapper() {}
    process::alone("registering_a_wrapper_and_the_first_enter_report_that_there_is_no_memory", || {
        let start = wrapper as *const () as usize;
        // SAFETY: nothing returns there.
        let register = || unsafe { exeunt::register_trampoline("wrapper", start..start + 1) };
        let enter = || exeunt::enter(|| ());
        // The first `enter` allocates nothing; it only makes pages writable.
        for (code, allocates) in [(&register as &dyn Fn() -> Result<(), Error>, true), (&enter, false)] {
            let mut at = 0;
            loop {
                let (has_failed, result) = failing_at(at, code);
                match result {
                    Ok(()) if !has_failed => break,
                    result => assert_eq!(result, Err(Error::OutOfMemory), "allocation {at}"),
                }
                at += 1;
            }
            assert_eq!(at > 0, allocates, "{at} allocations");
        }
    });
}

#[test]
fn the_first_stack_of_a_process_is_armed_or_not_without_memory() {
    const ROLE: &str = "the_first_stack_of_a_process_is_armed_or_not_without_memory";
    if process::role().as_deref() == Some(ROLE) {
        let at = std::env::var("EXEUNT_TEST_FAILS_AT").expect("the parent sets it").parse().expect("a number");
        let (has_failed, result) = failing_at(at, || exeunt::at_exit(|| ()));
        println!("failed {has_failed}, {result:?}");
        assert_eq!(exeunt::at_exit(|| ()), Ok(()));
        return;
    }
    // Code redirect decodes and patches code for the first stack, and decoding allocates as std
    // does.
    let mut failures = 0;
    for at in 0.. {
        let output = process::this_program()
            .args(["--exact", ROLE, "--nocapture", "--test-threads=1"])
            .env("EXEUNT_TEST_ROLE", ROLE)
            .env("EXEUNT_REDIRECT", "slot")
            .env("EXEUNT_TEST_FAILS_AT", at.to_string())
            .output()
            .expect("it starts");
        let printed = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "allocation {at}: {printed}{}", String::from_utf8_lossy(&output.stderr));
        if printed.contains("failed false") {
            break;
        }
        failures += usize::from(printed.contains("no memory"));
    }
    assert!(failures >= 2, "{failures}: a handler, a record");
}
