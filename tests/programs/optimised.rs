//! Properties that must hold however the program is compiled. `tests/tags.rs` and `tests/enter.rs`
//! build it optimised, and as a whole with link-time optimisation. It panics where a property does
//! not hold, and prints what it has checked.

use exeunt::tag;
use std::cell::Cell;
use std::hint::black_box;
use std::panic::AssertUnwindSafe;

/// Numbers of every length, with every digit at both ends.
fn numbers() -> impl Iterator<Item = u64> {
    let edges = (0..64).flat_map(|shift| [1 << shift, u64::MAX >> shift, !(1_u64 << shift)]);
    let digits = (0..16).flat_map(|digit: u64| [digit, digit * 0x1111_1111_1111_1111, digit << 60]);
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let random = (0..1000).map(move |shift| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state >> (shift % 64)
    });
    edges.chain(digits).chain(random)
}

#[inline(always)]
fn inlined(number: u64) -> Option<u64> {
    tag::run(number, tag::current)
}

#[inline(never)]
fn deep(frames: usize) -> Option<u64> {
    if frames == 0 { tag::current() } else { black_box(deep(black_box(frames - 1))) }
}

/// A tail call, where an optimiser can reuse the frame.
#[inline(never)]
fn tail(frames: usize) -> Option<u64> {
    if frames == 0 { tag::current() } else { tail(frames - 1) }
}

fn tags() {
    assert_eq!(tag::current(), None);
    let mut count = 0;
    for number in numbers() {
        assert_eq!(inlined(number), Some(number));
        assert_eq!(tag::run(!number, || inlined(number)), Some(number));
        assert_eq!(tag::run(number, || (inlined(!number), tag::current())), (Some(!number), Some(number)));
        count += 1;
    }
    for frames in [1, 10, 100, 1000] {
        assert_eq!(tag::run(0xfeed_face, || deep(frames)), Some(0xfeed_face));
        assert_eq!(tag::run(0xfeed_face, || tail(frames)), Some(0xfeed_face));
    }
    // A constant, known to the optimiser from end to end.
    assert_eq!(tag::run(7, || tag::run(0x70, tag::current)), Some(0x70));
    let made = tag::ensure(|outer| tag::ensure(|inner| (outer, inner)));
    assert_eq!(made.0, made.1);
    assert_eq!(tag::current(), None);
    println!("tags: {count} numbers");
}

/// Counts itself when it is dropped.
struct Counted<'a>(&'a Cell<u32>);

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() + 1);
    }
}

/// A panic unwinds this frame, which has something to drop, and so goes on from a landing pad.
#[inline(never)]
fn unwound(frames: usize, dropped: &Cell<u32>) {
    let _counted = Counted(black_box(dropped));
    if frames == 0 {
        std::panic::resume_unwind(Box::new(()));
    }
    unwound(black_box(frames - 1), dropped);
}

/// Panics come through frames that have something to drop, on a stack that is armed.
fn panics() {
    let dropped = Cell::new(0);
    let inside = || {
        exeunt::at_exit(|| ()).expect("it can be armed");
        std::panic::catch_unwind(AssertUnwindSafe(|| unwound(10, &dropped))).expect_err("it panics");
    };
    exeunt::enter(inside).expect("this thread is not armed");
    assert_eq!(dropped.get(), 11);
    println!("panics: {} frames", dropped.get());
}

/// Return addresses of this place, outermost first.
#[inline(never)]
fn return_addresses() -> Vec<usize> {
    let mut addresses = Vec::new();
    backtrace::trace(|frame| {
        addresses.push(frame.ip() as usize);
        true
    });
    addresses.reverse();
    addresses
}

/// The test harness does not use the main thread's stack, so this can.
fn enter_on_main() {
    let plain = return_addresses();
    let (unarmed, armed) = exeunt::enter(|| {
        let unarmed = return_addresses();
        exeunt::set("a value", 1).expect("it can be armed");
        (unarmed, return_addresses())
    })
    .expect("the main thread is not armed");
    // The outermost frames, up to `main` and its callers, are the same: `_start` is among them.
    let same = |other: &[usize]| plain.iter().zip(other).take_while(|(a, b)| a == b).count();
    assert!(same(&unarmed) >= 3, "{plain:x?} {unarmed:x?}");
    assert!(same(&armed) >= 3, "{plain:x?} {armed:x?}");
    println!("enter on main: {} frames in common", same(&armed));
}

fn main() {
    tags();
    panics();
    enter_on_main();
}
