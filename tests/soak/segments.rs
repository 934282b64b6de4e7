//! Stacks that continue in segments elsewhere (`stacker`), mostly right below the thread's own
//! memory.

use crate::{life, signals, threads};
use std::hint::black_box;
use std::mem::MaybeUninit;

/// The lowest address of the running thread's stack.
fn lowest() -> usize {
    let (mut attributes, mut low, mut size) = (MaybeUninit::uninit(), std::ptr::null_mut(), 0);
    // SAFETY: of the running thread; initialised by the first call, destroyed by the last.
    unsafe {
        assert_eq!(libc::pthread_getattr_np(libc::pthread_self(), attributes.as_mut_ptr()), 0);
        libc::pthread_attr_getstack(attributes.as_ptr(), &raw mut low, &raw mut size);
        libc::pthread_attr_destroy(attributes.as_mut_ptr());
    }
    low.addr()
}

/// Calls `code` with less stack left than down to `limit`.
#[inline(never)]
fn near_the_end(limit: usize, code: &mut dyn FnMut()) {
    let frame = [0_u8; 256];
    if black_box(&frame).as_ptr().addr() > limit {
        near_the_end(limit, code)
    } else {
        code()
    }
    black_box(&frame);
}

/// Continues in a segment, and in a segment of that one.
fn in_segments(life: u64, random: &mut fastrand::Rng, nested: u32) {
    stacker::grow(1 << 16, || {
        signals::with(|| {
            threads::act(life, random);
            if nested > 0 {
                stacker::grow(1 << 16, || threads::act(life, random));
            }
        });
    });
}

pub fn lives(random: &mut fastrand::Rng) {
    let mut mine = random.fork();
    // Of any size, so that segments lie anywhere.
    let stack = (1 << 17) + random.usize(..64) * 4096;
    threads::run("segments", stack, random.bool(), move || {
        let life = life::begin();
        let limit = lowest() + mine.usize(3000..20000);
        // A signal's frame has no room at the end of the thread's own memory.
        signals::without(|| near_the_end(limit, &mut || in_segments(life, &mut mine, 1)));
        life::check(life);
    });
}
