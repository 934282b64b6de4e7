//! A panic of the library names the line of the wrong call, and no line of the library's own.
#![cfg(target_os = "linux")]

mod common;

use common::process;
use corosensei::{Coroutine, CoroutineResult};
use exeunt::context;
use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};

exeunt::stack_local! {
    static CELL: Cell<u32> = const { Cell::new(1) };
    static LIST: RefCell<Vec<u32>> = const { RefCell::new(Vec::new()) };
    static OF_ITSELF: Cell<u32> = Cell::new(OF_ITSELF.get());
}

thread_local! { static PLACE: RefCell<Option<(String, u32)>> = const { RefCell::new(None) } }

/// The place where `panics` panics, as the panic hook receives it.
fn place_of(panics: impl FnOnce()) -> Option<(String, u32)> {
    static HOOK: std::sync::Once = std::sync::Once::new();
    HOOK.call_once(|| {
        std::panic::set_hook(Box::new(|info| {
            let place = info.location().map(|place| (place.file().to_owned(), place.line()));
            PLACE.set(place);
        }));
    });
    PLACE.take();
    assert!(catch_unwind(AssertUnwindSafe(panics)).is_err(), "it panics");
    PLACE.take()
}

/// Asserts that the call panics, at the line where this macro is used.
macro_rules! is_blamed {
    ($call:expr) => {
        let place = place_of(|| _ = $call);
        // The test runner may use a longer path of the file.
        assert_eq!(
            place.as_ref().map(|(file, line)| (file.ends_with("tests/callers.rs"), *line)),
            Some((true, line!())),
            "{place:?}"
        );
    };
}

/// Runs `code` in a process of its own, as it changes the panic hook.
fn alone(test: &str, code: fn()) {
    process::alone(test, || std::thread::spawn(code).join().unwrap());
}

#[test]
fn where_the_stack_cannot_be_armed_the_caller_is_named() {
    alone("where_the_stack_cannot_be_armed_the_caller_is_named", || {
        let captured = context::with(7_u8, context::capture);
        let mut coroutine = Coroutine::<(), (), ()>::new(move |_, ()| {
            is_blamed!(CELL.with(Cell::get));
            is_blamed!(CELL.get());
            is_blamed!(CELL.set(2));
            is_blamed!(CELL.take());
            is_blamed!(CELL.replace(2));
            is_blamed!(LIST.with_borrow(Vec::len));
            is_blamed!(LIST.with_borrow_mut(Vec::pop));
            is_blamed!(LIST.set(Vec::new()));
            is_blamed!(LIST.take());
            is_blamed!(LIST.replace(Vec::new()));
            is_blamed!(context::with(7_u8, || ()));
            is_blamed!(captured.enter(|| ()));
        });
        assert!(matches!(coroutine.resume(()), CoroutineResult::Return(())));
    });
}

#[test]
fn where_a_value_is_borrowed_or_initialized_recursively_the_caller_is_named() {
    alone("where_a_value_is_borrowed_or_initialized_recursively_the_caller_is_named", || {
        LIST.with_borrow_mut(|_| {
            is_blamed!(LIST.with_borrow(Vec::len));
            is_blamed!(LIST.with_borrow_mut(Vec::pop));
            is_blamed!(LIST.set(Vec::new()));
            is_blamed!(LIST.take());
            is_blamed!(LIST.replace(Vec::new()));
        });
        LIST.with_borrow(|_| {
            is_blamed!(LIST.with_borrow_mut(Vec::pop));
        });
        // The initialiser makes the wrong call.
        let place = place_of(|| _ = OF_ITSELF.get());
        let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/callers.rs")).unwrap();
        let line = text.lines().position(|line| line.contains("Cell::new(OF_ITSELF")).map(|before| before as u32 + 1);
        assert_eq!(place.map(|(_, line)| line), line);
    });
}

#[test]
fn where_there_is_no_context_the_caller_is_named() {
    alone("where_there_is_no_context_the_caller_is_named", || {
        is_blamed!(context::get::<u8>());
        context::with(7_u8, || {
            is_blamed!(context::get::<u16>());
        });
    });
}

#[test]
fn where_no_thread_can_be_started_the_caller_is_named() {
    if process::is_emulated() {
        return println!("not under QEMU: its own memory counts as well");
    }
    alone("where_no_thread_can_be_started_the_caller_is_named", || {
        // The hook is set, and threads have been started, before the memory for more is used up.
        assert!(place_of(|| panic!("known")).is_some());
        context::go(|| ()).join().unwrap();
        // Less than a new thread's stack takes, and enough for what std maps on a thread that has
        // begun: where that fails, std ends the process.
        let room = 1 << 20;
        // SAFETY: sets a limit that is lifted again.
        let limit = |most| unsafe {
            let mut limit: libc::rlimit = std::mem::zeroed();
            assert_eq!(libc::getrlimit(libc::RLIMIT_AS, &raw mut limit), 0);
            limit.rlim_cur = if most { limit.rlim_max } else { address_space() + room };
            assert_eq!(libc::setrlimit(libc::RLIMIT_AS, &raw const limit), 0);
        };
        // Stacks of ended threads serve the next ones, until none is left.
        let line = line!() + 3;
        let place = place_of(|| {
            limit(false);
            let threads: Vec<_> = (0..64).map(|_| context::go(std::thread::park)).collect();
            drop(threads);
        });
        limit(true);
        assert_eq!(place.map(|(_, line)| line), Some(line));
    });
}

/// Bytes of address space that this process has mapped: the first number of proc(5)'s `statm`.
fn address_space() -> u64 {
    let told = std::fs::read_to_string("/proc/self/statm").expect("proc is mounted");
    let pages: u64 = told.split(' ').next().and_then(|pages| pages.parse().ok()).expect("a number");
    // SAFETY: only asks.
    pages * unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as u64
}
