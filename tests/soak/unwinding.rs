//! Panics and C++ exceptions that pass frames which read.

use crate::{life, threads};
use std::ffi::{c_int, c_void};
use std::hint::black_box;
use std::panic::{catch_unwind, panic_any};

/// The payload of intended panics.
pub struct Thrown;

/// Reads when it is dropped.
struct Frame(u64);

impl Drop for Frame {
    fn drop(&mut self) {
        life::check(self.0);
    }
}

#[inline(never)]
fn down(depth: u32, life: u64) {
    let _frame = Frame(life);
    if depth == 0 {
        panic_any(Thrown);
    }
    down(black_box(depth - 1), life);
    black_box(depth);
}

/// Throws a panic through some frames, and catches it.
pub fn panic_once(life: u64, random: &mut fastrand::Rng) {
    let depth = random.u32(..12);
    let thrown = catch_unwind(|| down(depth, life)).expect_err("it panics");
    assert!(thrown.is::<Thrown>());
    life::check(life);
}

type Step = extern "C-unwind" fn(*mut c_void);

unsafe extern "C-unwind" {
    fn soak_throw(argument: *mut c_void);
    fn soak_catch(depth: c_int, inner: Step, step: Step, life: *mut c_void) -> c_int;
}

extern "C-unwind" fn check(life: *mut c_void) {
    life::check(life.addr() as u64);
}

/// A frame of Rust between those of C++.
extern "C-unwind" fn between(life: *mut c_void) {
    let _frame = Frame(life.addr() as u64);
    // SAFETY: its exception passes this frame, as the ABI's name says.
    unsafe { soak_throw(life) };
}

/// Throws an exception through some frames of C++ and one of Rust.
pub fn throw_once(life: u64, random: &mut fastrand::Rng) {
    let depth = random.i32(..12);
    let argument = std::ptr::without_provenance_mut(life as usize);
    // SAFETY: both functions expect a life's number.
    assert_eq!(unsafe { soak_catch(depth, between, check, argument) }, 7);
    life::check(life);
}

fn lives(part: &'static str, random: &mut fastrand::Rng, once: fn(u64, &mut fastrand::Rng)) {
    let mut mine = random.fork();
    threads::run(part, 1 << 18, random.bool(), move || {
        let life = life::begin();
        for _ in 0..mine.u32(1..30) {
            once(life, &mut mine);
        }
        threads::act(life, &mut mine);
    });
}

pub fn panics(random: &mut fastrand::Rng) {
    lives("panics", random, panic_once);
}

pub fn exceptions(random: &mut fastrand::Rng) {
    lives("exceptions", random, throw_once);
}
