//! Many fibers at once, and what reads share. `benches/` has the figures, for a million fibers.
#![cfg(target_env = "gnu")]

mod common;

use common::fiber::{Fiber, Pages};
use common::{on_a_thread, process, resident, scaled};
use std::cell::Cell;
use std::ffi::c_void;
use std::hint::black_box;
use std::ops::Range;
use std::rc::Rc;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering};

exeunt::stack_local! {
    static NUMBER: Cell<usize> = const { Cell::new(0) };
}

/// Bytes of a fiber's stack: enough for unoptimised code.
const STACK: usize = 64 * 1024;
/// Bytes at the base of a suspended fiber's stack that are in use.
const OUTERMOST: usize = 8 * 1024;

#[test]
fn thousands_of_fibers_armed_at_once_keep_their_values_and_run_each_handler_at_returns_and_discards() {
    process::alone(
        "thousands_of_fibers_armed_at_once_keep_their_values_and_run_each_handler_at_returns_and_discards",
        || {
            on_a_thread(|| {
                exeunt::id().unwrap();
                let count = scaled(6_000, 600);
                let first = many(count);
                assert!(first < 3 * 1024, "{first} bytes of each fiber, for its record, its values and the map");
                // The second lot finds the records and the map of the first one.
                let second = many(count);
                assert!(second < 512, "{second} bytes of each fiber more");
            });
        },
    );
}

/// Arms so many fibers at once, has them read in another order, and ends them: half of them return,
/// the others are discarded. Returns the bytes of memory that arming took for each.
fn many(count: usize) -> usize {
    let pages = Pages::new(count * STACK);
    let stack = |number: usize| {
        let start = pages.range().start + number * STACK;
        start..start + STACK
    };
    for number in 0..count {
        // Pages that are there already do not count.
        // SAFETY: no fiber uses the memory yet.
        unsafe { ((stack(number).end - OUTERMOST) as *mut u8).write_bytes(0, OUTERMOST) };
    }
    let ended = Rc::new(AtomicUsize::new(0));
    let fibers: Vec<_> = (0..count)
        .map(|number| {
            let ended = Rc::clone(&ended);
            let entry = move |inside: common::fiber::Inside| {
                inside.suspend();
                exeunt::at_exit(move || _ = ended.fetch_add(1, Ordering::Relaxed)).unwrap();
                NUMBER.set(number);
                inside.suspend();
                assert_eq!(NUMBER.get(), number);
                inside.suspend();
                assert_eq!(NUMBER.get(), number);
            };
            // SAFETY: this fiber alone is on that part of the pages, which outlive it.
            unsafe { Fiber::new(stack(number), entry) }
        })
        .collect();
    fibers.iter().for_each(|fiber| assert!(fiber.resume()));
    let before = resident();
    for (number, fiber) in fibers.iter().enumerate() {
        assert!(fiber.resume());
        let unused = stack(number).start as *mut c_void;
        // SAFETY: the fiber is suspended in its outermost functions, which use less than that.
        assert_eq!(unsafe { libc::madvise(unused, STACK - OUTERMOST, libc::MADV_DONTNEED) }, 0);
    }
    let memory = resident().saturating_sub(before) / count;
    let armed = || exeunt::survey().unwrap().armed;
    let others = armed() - count;
    // 7,919 is a prime, so this visits all of them.
    (0..count).for_each(|turn| assert!(fibers[turn * 7919 % count].resume()));
    fibers[..count / 2].iter().for_each(|fiber| assert!(!fiber.resume()));
    assert_eq!(ended.load(Ordering::Relaxed), count / 2);
    let rest = stack(count / 2).start..pages.range().end;
    // SAFETY: none of them is resumed any more, and none has lent anything.
    assert_eq!(unsafe { exeunt::discard(rest) }, count - count / 2);
    assert_eq!(ended.load(Ordering::Relaxed), count);
    assert_eq!(armed(), others);
    memory
}

/// What can be written now, but for `own`.
fn writable(own: &[Range<usize>]) -> Vec<Range<usize>> {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let mut ranges = Vec::with_capacity(1000);
    for line in maps.lines() {
        let mut words = line.split_whitespace();
        let (start, end) = words.next().unwrap().split_once('-').unwrap();
        if !words.next().unwrap().starts_with("rw") {
            continue;
        }
        let mut start = usize::from_str_radix(start, 16).unwrap();
        let end = usize::from_str_radix(end, 16).unwrap();
        for own in own {
            if own.start < end && own.end > start {
                if own.start > start {
                    ranges.push(start..own.start);
                }
                start = own.end;
            }
        }
        if start < end {
            ranges.push(start..end);
        }
    }
    ranges
}

/// Sets the access of all of them, without any write of its own.
fn protect(ranges: &[Range<usize>], access: i32) {
    for range in ranges {
        // SAFETY: mapped memory, whose contents stay.
        if unsafe { libc::mprotect(range.start as *mut c_void, range.end - range.start, access) } != 0 {
            // SAFETY: always safe.
            unsafe { libc::_exit(90) };
        }
    }
}

/// The running thread's stack, which holds its thread-locals: the kernel writes there itself
/// (restartable sequences).
fn own_stack() -> Range<usize> {
    exeunt::Stack::current().bounds().expect("a thread's bounds are known")
}

static SLOT: LazyLock<exeunt::Slot<u64>> = LazyLock::new(|| exeunt::Slot::new().unwrap());

static SHARED: AtomicUsize = AtomicUsize::new(0);

/// Repeats the reads, from the second time on with nothing writable but the own stacks.
#[inline(never)]
fn repeat(ranges: &[Range<usize>], reads: fn()) {
    for turn in 0..1000 {
        reads();
        if turn == 0 {
            protect(ranges, libc::PROT_READ);
        }
    }
    protect(ranges, libc::PROT_READ | libc::PROT_WRITE);
}

/// A keyed read is not among them: while it compares keys, it sets a flag in the record of its own
/// stack. A record has its cache lines to itself, but not its page.
#[test]
fn reads_write_to_no_memory_but_their_own_stack_s() {
    if process::is_emulated() {
        return eprintln!("NOT RUN: that reads write to no shared memory: the emulator's own memory is not told apart");
    }
    if cfg!(debug_assertions) {
        return eprintln!(
            "NOT RUN: that reads write to no shared memory: in unoptimised code each kind of read has a frame of its \
             own, and an inline cache keeps the last one's place; the optimised tests have it"
        );
    }
    process::alone("reads_write_to_no_memory_but_their_own_stack_s", || {
        on_a_thread(|| {
            let thread = own_stack();
            let pages = Pages::new(1 << 20);
            let mut own = [thread, pages.range()];
            own.sort_by_key(|range| range.start);
            let entry = move |_| {
                NUMBER.set(1);
                SLOT.set(1).unwrap();
                let ranges = writable(&own);
                repeat(&ranges, || {
                    assert_eq!(black_box(NUMBER.get()), 1);
                    assert_eq!(black_box(NUMBER.with(Cell::get)), 1);
                    assert_eq!(black_box(SLOT.get()), Some(1));
                });
                // A write elsewhere is noticed.
                // SAFETY: the child makes system calls, and the write that ends it.
                let child = unsafe { libc::fork() };
                if child == 0 {
                    repeat(&ranges, || _ = SHARED.fetch_add(1, Ordering::Relaxed));
                    // SAFETY: always safe.
                    unsafe { libc::_exit(0) };
                }
                let mut status = 0;
                // SAFETY: fills in `status`.
                assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
                assert!(libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGSEGV, "{status:#x}");
            };
            // In a child process, where this thread is the only one: others would write to their stacks.
            // SAFETY: this thread holds no lock, and what the child does is not cut short.
            let child = unsafe { libc::fork() };
            if child == 0 {
                // SAFETY: the pages outlive the fiber.
                let run = || unsafe { Fiber::new(pages.range(), entry) }.finish();
                let has_passed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).is_ok();
                // SAFETY: always safe.
                unsafe { libc::_exit((!has_passed).into()) };
            }
            let mut status = 0;
            // SAFETY: fills in `status`.
            assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
            assert_eq!(status, 0, "{status:#x}");
        });
    });
}
