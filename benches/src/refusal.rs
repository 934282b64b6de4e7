//! What an error costs where a stack cannot be armed.

use crate::sample::{Samples, Stopwatch};
use corosensei::Coroutine;
use std::hint::black_box;

const TURNS: u32 = 300;

/// The processor time of one refusal on the running stack, in nanoseconds: the median of some
/// rounds.
pub fn refusal() -> f64 {
    let mut samples = Samples::default();
    let refused = || black_box(exeunt::at_exit(|| ())).expect_err("this stack cannot be armed");
    // The first one learns the walk and the exit trampolines.
    refused();
    for _ in 0..21 {
        let start = Stopwatch::start();
        for _ in 0..TURNS {
            refused();
        }
        samples.push(start.elapsed().as_nanos() as f64 / f64::from(TURNS));
    }
    samples.median()
}

/// Runs `measure` inside `depth` frames of a coroutine that exeunt does not recognise.
pub fn on_a_coroutine(depth: u32, measure: fn() -> f64) -> f64 {
    #[inline(never)]
    fn deep(depth: u32, measure: fn() -> f64) -> f64 {
        black_box(if depth == 0 { measure() } else { deep(depth - 1, measure) })
    }
    Coroutine::<(), (), f64>::new(move |_, ()| deep(depth, measure)).resume(()).as_return().expect("it does not yield")
}
