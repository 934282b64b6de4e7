//! Coroutines under `enter` that move between threads, and end by return, by a panic, or by being
//! dropped while suspended.

use crate::unwinding::{Thrown, panic_once, throw_once};
use crate::{life, threads};
use corosensei::stack::DefaultStack;
use corosensei::{Coroutine, Yielder};
use std::panic::{AssertUnwindSafe, catch_unwind, panic_any};
use std::sync::{Mutex, PoisonError};

struct Fiber(Coroutine<(), (), ()>);

// SAFETY: while it is suspended a fiber has numbers and values of the crate's on its stack, which
// may move.
unsafe impl Send for Fiber {}

/// The suspended fibers.
static SUSPENDED: Mutex<Vec<Fiber>> = Mutex::new(Vec::new());

/// How many may be suspended at a time.
const ROOM: usize = 64;

fn new(mut random: fastrand::Rng) -> Fiber {
    let stack = DefaultStack::new(1 << 18).expect("memory for a fiber");
    Fiber(Coroutine::with_stack(stack, move |yielder: &Yielder<(), ()>, ()| {
        exeunt::enter(|| inside(yielder, &mut random)).expect("a fresh stack");
    }))
}

fn inside(yielder: &Yielder<(), ()>, random: &mut fastrand::Rng) {
    let life = life::begin();
    for _ in 0..random.u32(..10) {
        match random.u32(..8) {
            0 => panic_once(life, random),
            1 => throw_once(life, random),
            2 => threads::act(life, random),
            _ => {
                life::expect(0);
                yielder.suspend(());
                life::expect(life);
            }
        }
        life::check(life);
    }
    if random.u32(..4) == 0 {
        panic_any(Thrown);
    }
}

/// One thread that resumes fibers.
pub fn lives(random: &mut fastrand::Rng) {
    let mut mine = random.fork();
    threads::run("fibers", 1 << 18, random.bool(), move || {
        let life = life::begin();
        for _ in 0..mine.u32(1..40) {
            let taken = {
                let mut suspended = SUSPENDED.lock().unwrap_or_else(PoisonError::into_inner);
                let count = suspended.len();
                (count > 0 && (count >= ROOM || mine.bool())).then(|| suspended.swap_remove(mine.usize(..count)))
            };
            let mut fiber = taken.unwrap_or_else(|| new(mine.fork()));
            life::expect(0);
            let resumed = catch_unwind(AssertUnwindSafe(|| fiber.0.resume(())));
            if mine.u32(..8) == 0 {
                drop(fiber);
            } else if resumed.is_ok() && !fiber.0.done() {
                SUSPENDED.lock().unwrap_or_else(PoisonError::into_inner).push(fiber);
            }
            life::expect(life);
            life::check(life);
        }
    });
}

/// Drops the fibers that are still suspended.
pub fn end() {
    SUSPENDED.lock().unwrap_or_else(PoisonError::into_inner).clear();
}
