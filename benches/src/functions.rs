//! Arming in turns from many functions, each on a new thread: the walk that exeunt remembers of one
//! function must not replace another function's.

use crate::sample::{Samples, since};
use std::hint::black_box;
use std::time::Instant;

/// Different functions of one size: compilers lay them out at equal distances.
#[inline(never)]
fn arm<const NUMBER: usize>() -> f64 {
    let start = Instant::now();
    exeunt::at_exit(|| _ = black_box(NUMBER)).expect("a thread can be armed");
    since(start)
}

macro_rules! functions {
    ($($tens:literal)*) => { [$(
        arm::<$tens>, arm::<{ $tens + 1 }>, arm::<{ $tens + 2 }>, arm::<{ $tens + 3 }>, arm::<{ $tens + 4 }>,
        arm::<{ $tens + 5 }>, arm::<{ $tens + 6 }>, arm::<{ $tens + 7 }>, arm::<{ $tens + 8 }>, arm::<{ $tens + 9 }>,
    )*] };
}

const FUNCTIONS: [fn() -> f64; 60] = functions!(0 10 20 30 40 50);

/// What a thread's first `at_exit` takes from each of the functions, less `clock`: the median of
/// them, and the worst.
pub fn in_turns(clock: f64) -> (f64, f64) {
    let mut samples = vec![Samples::new(); FUNCTIONS.len()];
    for _ in 0..200 {
        for (samples, function) in samples.iter_mut().zip(FUNCTIONS) {
            samples.push(std::thread::spawn(function).join().expect("it does not panic") - clock);
        }
    }
    let mut medians = Samples::new();
    samples.iter().for_each(|samples| medians.push(samples.median()));
    (medians.median(), medians.quantile(1.0))
}
