//! A global allocator that itself uses storage.

#![cfg(target_os = "linux")]

mod common;

use common::process;
use exeunt::Slot;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

thread_local! {
    /// What the allocator does first when this thread calls it, but not recursively.
    static FIRST: Cell<Option<fn()>> = const { Cell::new(None) };
}

struct Busy;

// SAFETY: passes everything on to the system's allocator.
unsafe impl GlobalAlloc for Busy {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if let Some(first) = FIRST.take() {
            first();
            FIRST.set(Some(first));
        }
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(place, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Busy = Busy;

/// Runs `code` with an allocator that calls `first` first, and returns the result of `code`.
fn with_allocator<R>(first: fn(), code: impl FnOnce() -> R) -> R {
    FIRST.set(Some(first));
    let result = code();
    FIRST.set(None);
    result
}

static MADE: AtomicUsize = AtomicUsize::new(0);
static DROPPED: AtomicUsize = AtomicUsize::new(0);

/// Counts how many are made and dropped, and panics where one is dropped twice.
struct Counted(u32);

impl Counted {
    fn new() -> Self {
        MADE.fetch_add(1, Ordering::Relaxed);
        Self(1234)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        assert_eq!(std::mem::replace(&mut self.0, 0), 1234, "dropped twice");
        DROPPED.fetch_add(1, Ordering::Relaxed);
    }
}

fn counts() -> (usize, usize) {
    (MADE.load(Ordering::Relaxed), DROPPED.load(Ordering::Relaxed))
}

fn slot() -> &'static Slot<Counted> {
    static SLOT: OnceLock<Slot<Counted>> = OnceLock::new();
    SLOT.get_or_init(|| Slot::new().expect("there is a free one"))
}

exeunt::stack_local! {
    static LOCAL: (Cell<usize>, Counted) = (Cell::new(0), Counted::new());
}

/// Makes the allocations that a process makes once, for its first stack.
fn probed() {
    std::thread::spawn(|| exeunt::id().map(drop)).join().expect("no panic").expect("it is armed");
}

#[test]
fn each_value_is_dropped_once_where_the_allocator_sets_the_same_slot() {
    process::alone("each_value_is_dropped_once_where_the_allocator_sets_the_same_slot", || {
        probed();
        for is_set_before in [true, false] {
            let (made, dropped) = counts();
            std::thread::spawn(move || {
                let slot = slot();
                if is_set_before {
                    slot.set(Counted::new()).expect("it is armed");
                }
                let set = || slot.set(Counted::new());
                with_allocator(|| self::slot().set(Counted::new()).expect("it is armed"), set).expect("it is armed");
                assert!(slot.share().is_some());
            })
            .join()
            .expect("no panic in the thread");
            let (made, dropped) = (counts().0 - made, counts().1 - dropped);
            assert!(made >= 2, "the allocator has made some");
            assert_eq!(made, dropped);
        }
    });
}

/// The allocator uses a stack local. So it may arm the stack while the stack is being armed, and
/// make the value while the value is being made.
fn count() {
    LOCAL.try_with(|local| local.0.set(local.0.get() + 1)).expect("it is armed");
}

#[test]
fn a_stack_is_armed_once_where_the_allocator_arms_it_meanwhile() {
    process::alone("a_stack_is_armed_once_where_the_allocator_arms_it_meanwhile", || {
        probed();
        static RUN: AtomicUsize = AtomicUsize::new(0);
        static USES: AtomicUsize = AtomicUsize::new(0);
        const WAYS: [fn(); 4] = [
            || exeunt::at_exit(|| _ = RUN.fetch_add(1, Ordering::Relaxed)).expect("it is armed"),
            || exeunt::set(String::from("key"), 7).expect("it is armed"),
            || LOCAL.with(|_| ()),
            || exeunt::context::with(5_u8, || assert_eq!(exeunt::context::get::<u8>(), 5)),
        ];
        for way in WAYS {
            for depth in 0..30 {
                let (made, dropped) = counts();
                std::thread::spawn(move || {
                    // A different walk to the foot each time, which allocates memory to be
                    // remembered.
                    in_inner_frame(depth, way);
                    exeunt::at_exit(|| _ = RUN.fetch_add(1, Ordering::Relaxed)).expect("it is armed");
                    USES.fetch_add(LOCAL.with(|local| local.0.get()), Ordering::Relaxed);
                })
                .join()
                .expect("no panic in the thread");
                assert_eq!(counts(), (made + 1, dropped + 1), "made once, dropped once");
                assert_eq!(exeunt::survey().map(|survey| survey.armed), Ok(0));
            }
        }
        assert_eq!(RUN.load(Ordering::Relaxed), 30 * 5, "each handler once");
        assert!(USES.load(Ordering::Relaxed) > 30 * 3, "the allocator was there");
    });
}

#[inline(never)]
fn in_inner_frame(depth: usize, way: fn()) {
    if depth == 0 {
        with_allocator(count, way)
    } else {
        in_inner_frame(depth - 1, way)
    }
    std::hint::black_box(depth);
}
