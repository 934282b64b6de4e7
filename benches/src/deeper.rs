//! Reads on an armed stack at places where no read was before.

use crate::fiber::{Memory, on_fiber};
use crate::sample::{Samples, clock, since};
use std::cell::Cell;
use std::hint::black_box;
use std::time::Instant;

exeunt::stack_local! {
    static VALUE: Cell<u64> = const { Cell::new(1) };
}

/// Calls `leaf` inside `depth` frames, which are `ROOM` bytes larger than they need to be.
#[inline(never)]
pub fn descend<const ROOM: usize>(depth: usize, leaf: &mut dyn FnMut()) {
    let room = [0_u8; ROOM];
    black_box(&room);
    if depth > 1 {
        descend::<ROOM>(depth - 1, leaf);
    } else {
        leaf();
    }
    black_box(&room);
}

/// The same without a leaf; with `read`, reads in every frame on the way.
#[inline(never)]
fn descend_reading<const ROOM: usize>(depth: usize, read: bool) {
    let room = [0_u8; ROOM];
    black_box(&room);
    if read {
        black_box(VALUE.get());
    }
    if depth > 1 {
        descend_reading::<ROOM>(depth - 1, read);
    }
    black_box(&room);
}

/// Reads at places that are new to the stack map, in nanoseconds.
pub struct Deeper {
    pub depth: usize,
    /// Bytes that each frame is larger than it needs to be.
    pub room: usize,
    /// A read in the innermost of `depth` frames, none of which has read before.
    pub first: f64,
    /// The read after that one.
    pub second: f64,
    /// One of the reads that every frame makes on the way inwards.
    pub on_the_way: f64,
}

/// Measures these reads on fibers that are armed in their outermost frame and then grow.
pub fn deeper<const ROOM: usize>(depth: usize) -> Deeper {
    let mut memory = Memory::new(4 << 20);
    memory.touch_top(3 << 20);
    let (mut first, mut second) = (Samples::new(), Samples::new());
    let (mut reading, mut silent) = (Samples::new(), Samples::new());
    for _ in 0..2000 {
        let (one, two) = on_fiber(&mut memory, move || {
            VALUE.get();
            let mut took = (0.0, 0.0);
            descend::<ROOM>(depth, &mut || {
                for take in [&mut took.0, &mut took.1] {
                    let start = Instant::now();
                    black_box(VALUE.get());
                    *take = since(start);
                }
            });
            took
        });
        first.push(one);
        second.push(two);
        for (read, samples) in [(false, &mut silent), (true, &mut reading)] {
            samples.push(on_fiber(&mut memory, move || {
                VALUE.get();
                let start = Instant::now();
                descend_reading::<ROOM>(depth, read);
                since(start)
            }));
        }
    }
    let clock = clock();
    Deeper {
        depth,
        room: ROOM,
        first: first.median() - clock,
        second: (second.median() - clock).max(0.0),
        on_the_way: (reading.median() - silent.median()) / depth as f64,
    }
}
