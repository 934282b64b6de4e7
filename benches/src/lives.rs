//! What arming and draining cost in the life of a thread and of a pooled fiber, beside a life without them.

use crate::deeper::descend;
use crate::fiber::{Memory, on_fiber};
use crate::sample::{Samples, Stopwatch, bench, clock, since};
use criterion::{Criterion, measurement::WallTime};
use std::cell::Cell;
use std::ffi::c_void;
use std::time::Instant;

/// Arming and taking it back, which can be repeated on one stack.
pub fn measure_pairs(criterion: &mut Criterion<WallTime>) {
    bench(criterion, "arm/at_exit and unload", |count| {
        let body = move || {
            exeunt::at_exit(|| ()).expect("a thread can be armed");
            exeunt::unload();
            let start = Stopwatch::start();
            for _ in 0..count {
                exeunt::at_exit(|| ()).expect("a thread can be armed");
                exeunt::unload();
            }
            start.elapsed()
        };
        std::thread::spawn(body).join().expect("the loop does not panic")
    });
    bench(criterion, "arm/at_exit, one more", |count| {
        let body = move || {
            exeunt::at_exit(|| ()).expect("a thread can be armed");
            let mut left = count;
            let mut total = std::time::Duration::ZERO;
            while left > 0 {
                // Not so many that the list of handlers is what is measured.
                let turn = left.min(1000);
                let start = Stopwatch::start();
                for _ in 0..turn {
                    exeunt::at_exit(|| ()).expect("a thread can be armed");
                }
                total += start.elapsed();
                exeunt::unload();
                exeunt::at_exit(|| ()).expect("a thread can be armed");
                left -= turn;
            }
            total
        };
        std::thread::spawn(body).join().expect("the loop does not panic")
    });
}

/// When things happened in a thread's life, in nanoseconds.
#[derive(Default)]
struct Stamps {
    arm: bool,
    /// What `at_exit` took.
    arming: Cell<f64>,
    /// When the entry function was about to return.
    returning: Cell<Option<Instant>>,
    /// From there to the thread's last `thread_local!` destructor.
    ending: Cell<f64>,
}

/// Stops the clock at the end of the thread: the first destructor to be registered runs last.
struct Stop(Cell<*const Stamps>);

impl Drop for Stop {
    fn drop(&mut self) {
        // SAFETY: the stamps outlive the thread, which `life` joins.
        if let Some(stamps) = unsafe { self.0.get().as_ref() }
            && let Some(returning) = stamps.returning.get()
        {
            stamps.ending.set(since(returning));
        }
    }
}

thread_local! {
    static STOP: Stop = const { Stop(Cell::new(std::ptr::null())) };
}

extern "C" fn start(stamps: *mut c_void) -> *mut c_void {
    let stamps = stamps as *const Stamps;
    STOP.with(|stop| stop.0.set(stamps));
    // SAFETY: `life` keeps them until it has joined this thread, and does not touch them before.
    let stamps = unsafe { &*stamps };
    if stamps.arm {
        let start = Instant::now();
        exeunt::at_exit(|| ()).expect("a thread can be armed");
        stamps.arming.set(since(start));
    }
    stamps.returning.set(Some(Instant::now()));
    std::ptr::null_mut()
}

/// One thread from create to join.
fn life(stamps: &Stamps) -> f64 {
    let begin = Instant::now();
    let mut thread = 0;
    // SAFETY: the thread uses `stamps` only while it lives, which ends here.
    unsafe {
        let argument = std::ptr::from_ref(stamps) as *mut c_void;
        assert_eq!(libc::pthread_create(&raw mut thread, std::ptr::null(), start, argument), 0);
        assert_eq!(libc::pthread_join(thread, std::ptr::null_mut()), 0);
    }
    since(begin)
}

/// The medians of a thread's life.
pub struct Threads {
    /// From create to join, without and with `at_exit`.
    pub without: f64,
    pub with: f64,
    /// `at_exit` alone.
    pub arming: f64,
    /// What the end takes longer: the drain, its empty handler, and the safety net's destructor.
    pub draining: f64,
}

/// Thread lives with and without, in turns.
pub fn threads() -> Threads {
    let lives = 10_000;
    let mut all = [const { Samples::new() }; 5];
    let [without, with, arming, ending_without, ending_with] = &mut all;
    for turn in 0..lives {
        for arm in [turn % 2 == 0, turn % 2 != 0] {
            let stamps = Stamps { arm, ..Stamps::default() };
            let took = life(&stamps);
            if arm {
                with.push(took);
                arming.push(stamps.arming.get());
                ending_with.push(stamps.ending.get());
            } else {
                without.push(took);
                ending_without.push(stamps.ending.get());
            }
        }
    }
    Threads {
        without: without.median(),
        with: with.median(),
        arming: arming.median() - clock(),
        draining: ending_with.median() - ending_without.median(),
    }
}

/// The medians of a pooled fiber's life.
pub struct Pooled {
    pub depth: usize,
    /// `at_exit` alone, which unwinds as many frames.
    pub arming: f64,
    /// What the whole life takes longer.
    pub life: f64,
}

/// Fiber lives on the same memory over and over, armed at a depth of so many frames.
pub fn pooled(depth: usize) -> Pooled {
    let mut memory = Memory::new(1 << 20);
    memory.touch_top(1 << 19);
    let (mut arming, mut with, mut without) = (Samples::new(), Samples::new(), Samples::new());
    for turn in 0..4000 {
        for arm in [turn % 2 == 0, turn % 2 != 0] {
            let begin = Instant::now();
            let took = on_fiber(&mut memory, move || {
                let mut took = 0.0;
                descend::<0>(depth, &mut || {
                    if arm {
                        let start = Instant::now();
                        exeunt::at_exit(|| ()).expect("a fiber can be armed");
                        took = since(start);
                    } else {
                        took = since(Instant::now());
                    }
                });
                took
            });
            let life = since(begin);
            if arm {
                arming.push(took);
                with.push(life);
            } else {
                without.push(life);
            }
        }
    }
    Pooled { depth, arming: arming.median() - clock(), life: with.median() - without.median() }
}
