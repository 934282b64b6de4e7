//! Stacks of several segments: functions that continue on other memory, with the old stack under
//! their frame pointer, as `stacker` does it.
//!
//! The segment lies right below its thread's stack, with an unreadable page between, within a
//! distance that a frame could have.
#![cfg(target_os = "linux")]

mod common;

use std::cell::Cell;
use std::ffi::c_void;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;

exeunt::stack_local! { static LOCAL: Cell<u64> = const { Cell::new(7) }; }

const PAGE: usize = 4096;
const SEGMENT: usize = 128 * 1024;
/// Enough for a thread, emulated or not.
const STACK: usize = 512 * 1024;

/// A segment, a guard page and a stack, in this order.
#[derive(Clone, Copy)]
struct Memory(usize);

impl Memory {
    fn new() -> Self {
        let (size, protection) = (SEGMENT + 16 * PAGE + STACK, libc::PROT_READ | libc::PROT_WRITE);
        // SAFETY: a new mapping touches nothing that exists.
        let memory = unsafe {
            libc::mmap(std::ptr::null_mut(), size, protection, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0)
        };
        assert_ne!(memory, libc::MAP_FAILED);
        // SAFETY: a part of it.
        let done = unsafe { libc::mprotect(memory.wrapping_byte_add(SEGMENT), PAGE, libc::PROT_NONE) };
        assert_eq!(done, 0);
        Self(memory.addr())
    }

    fn segment(self) -> usize {
        self.0
    }

    fn stack(self) -> usize {
        self.0 + SEGMENT + PAGE
    }
}

/// Runs `code` on a thread whose stack is this memory.
fn on_memory(low: usize, size: usize, code: impl FnOnce() + Send + 'static) {
    extern "C" fn run(code: *mut c_void) -> *mut c_void {
        // SAFETY: boxed below.
        let code = unsafe { Box::from_raw(code.cast::<Box<dyn FnOnce() + Send>>()) };
        code();
        std::ptr::null_mut()
    }
    let code: Box<Box<dyn FnOnce() + Send>> = Box::new(Box::new(code));
    // SAFETY: nothing else uses the memory, and the thread is joined.
    unsafe {
        let mut attributes = std::mem::zeroed();
        assert_eq!(libc::pthread_attr_init(&raw mut attributes), 0);
        assert_eq!(libc::pthread_attr_setstack(&raw mut attributes, low as *mut c_void, size), 0);
        let mut thread = std::mem::zeroed();
        let made = libc::pthread_create(&raw mut thread, &raw const attributes, run, Box::into_raw(code).cast());
        assert_eq!(made, 0);
        assert_eq!(libc::pthread_join(thread, std::ptr::null_mut()), 0);
        libc::pthread_attr_destroy(&raw mut attributes);
    }
}

/// Calls itself until so much of the stack is left, and continues in the segment there.
#[inline(never)]
fn near_the_end(memory: Memory, left: usize, code: fn()) {
    let padding = std::hint::black_box([0_u8; 128]);
    if (&raw const padding).addr() > memory.stack() + left {
        near_the_end(memory, left, code);
    } else {
        // SAFETY: memory of this test's own, which nothing else uses.
        unsafe { psm::on_stack(memory.segment() as *mut u8, SEGMENT, code) };
    }
    std::hint::black_box(&padding);
}

/// Reads at many places.
#[inline(never)]
fn read_deep(depth: usize) -> usize {
    let padding = std::hint::black_box([0_u8; 16]);
    let found = usize::from(exeunt::get::<i32>(&"k").is_some());
    let deeper = if depth > 0 { read_deep(depth - 1) } else { 0 };
    std::hint::black_box(&padding);
    found + deeper
}

const DEPTH: usize = 100;

/// Near enough for a frame of usual size, including the guard page.
const LEFT: usize = 8 * 1024;

#[test]
fn reset_in_a_segment_right_below_its_stack_reads_no_guard_page() {
    on_memory_of("reset_in_a_segment_right_below_its_stack_reads_no_guard_page", || {
        LOCAL.set(LOCAL.get() + 1);
        exeunt::set("k", 1).expect("armed");
        exeunt::reset().unwrap();
        assert_eq!((LOCAL.get(), exeunt::get::<i32>(&"k")), (7, None));
    });
}

#[test]
fn unload_in_a_segment_right_below_its_stack_reads_no_guard_page() {
    on_memory_of("unload_in_a_segment_right_below_its_stack_reads_no_guard_page", || {
        LOCAL.set(LOCAL.get() + 1);
        exeunt::set("k", 1).expect("armed");
        let before = exeunt::id();
        exeunt::unload().unwrap();
        // An outer frame may have borrowed the stack local, on memory that cannot be searched. So
        // the value stays until the end, and cannot be read again.
        assert_eq!((LOCAL.get(), exeunt::get::<i32>(&"k")), (7, None));
        assert_ne!(exeunt::id(), before);
    });
}

/// Runs `code` in a segment below an armed thread's stack, and below one that it arms itself, in a
/// process of its own, because a failure would be a fault.
fn on_memory_of(test: &str, code: fn()) {
    common::process::alone(test, || {
        for armed in [true, false, false] {
            let memory = Memory::new();
            on_memory(memory.stack(), STACK, move || {
                if armed {
                    exeunt::set("k", 0).expect("armed");
                }
                near_the_end(memory, LEFT, code);
            });
        }
    });
}

#[test]
fn a_thread_on_memory_that_was_another_thread_s_segment_finds_nothing_of_it() {
    static FOUND: AtomicUsize = AtomicUsize::new(0);
    for arms_inside in [false, true] {
        let memory = Memory::new();
        let (is_used, wait_used) = channel();
        let (go_on, wait) = channel::<()>();
        let first = std::thread::spawn(move || {
            on_memory(memory.stack(), STACK, move || {
                if !arms_inside {
                    exeunt::set("k", 1).expect("armed");
                }
                near_the_end(memory, LEFT, || {
                    exeunt::set("k", 1).expect("armed");
                    FOUND.store(read_deep(DEPTH), Ordering::SeqCst);
                });
                is_used.send(()).expect("the test waits");
                wait.recv().expect("the test continues");
            });
        });
        wait_used.recv().expect("the thread comes there");
        assert_eq!(FOUND.load(Ordering::SeqCst), DEPTH + 1, "in the segment the thread's values are found");
        // The first thread stays alive, armed. The segment is free.
        on_memory(memory.segment(), SEGMENT, || FOUND.store(read_deep(DEPTH), Ordering::SeqCst));
        assert_eq!(FOUND.load(Ordering::SeqCst), 0, "another thread finds none of them");
        go_on.send(()).expect("it waits");
        first.join().expect("no panic");
    }
}
