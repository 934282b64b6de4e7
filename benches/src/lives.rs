//! What arming and draining cost in the life of a thread and of a pooled fiber, beside a life
//! without them, and beside a `thread_local!` with a destructor.

use crate::deeper::descend;
use crate::fiber::{Memory, on_fiber};
use crate::floors;
use crate::sample::{Samples, Stopwatch, bench, clock, since};
use criterion::{Criterion, measurement::WallTime};
use std::cell::Cell;
use std::ffi::c_void;
use std::hint::black_box;
use std::time::Instant;

/// Arming and unloading, which can be repeated on one stack.
pub fn measure_pairs(criterion: &mut Criterion<WallTime>) {
    bench(criterion, "arm/at_exit and unload", |count| {
        let body = move || {
            exeunt::at_exit(|| ()).expect("a thread can be armed");
            exeunt::unload().unwrap();
            let start = Stopwatch::start();
            for _ in 0..count {
                exeunt::at_exit(|| ()).expect("a thread can be armed");
                exeunt::unload().unwrap();
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
                // Not so many that this measures the list of handlers.
                let turn = left.min(1000);
                let start = Stopwatch::start();
                for _ in 0..turn {
                    exeunt::at_exit(|| ()).expect("a thread can be armed");
                }
                total += start.elapsed();
                exeunt::unload().unwrap();
                exeunt::at_exit(|| ()).expect("a thread can be armed");
                left -= turn;
            }
            total
        };
        std::thread::spawn(body).join().expect("the loop does not panic")
    });
}

/// What a thread does in its life.
#[derive(Clone, Copy, Default, PartialEq)]
enum Act {
    #[default]
    Nothing,
    AtExit,
    /// The peer: a `thread_local!` whose destructor does what the handler would.
    ThreadLocal,
    /// The floor: the least that `at_exit` and the drain must do.
    Least,
}

/// When things happened in a thread's life, in nanoseconds.
#[derive(Default)]
struct Stamps {
    act: Act,
    /// What the act took, with one reading of the clock.
    acting: Cell<f64>,
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

/// Something to be done at the thread's end.
struct Last;

impl Drop for Last {
    fn drop(&mut self) {
        black_box(self);
    }
}

thread_local! {
    static STOP: Stop = const { Stop(Cell::new(std::ptr::null())) };
    static LAST: Last = const { Last };
}

extern "C" fn start(stamps: *mut c_void) -> *mut c_void {
    let stamps = stamps as *const Stamps;
    STOP.with(|stop| stop.0.set(stamps));
    // SAFETY: `life` keeps them until it has joined this thread, and does not touch them before.
    let stamps = unsafe { &*stamps };
    let mut foot = 1;
    let start = Instant::now();
    match stamps.act {
        Act::Nothing => {}
        Act::AtExit => exeunt::at_exit(|| drop(Last)).expect("a thread can be armed"),
        Act::ThreadLocal => LAST.with(|last| _ = black_box(last)),
        Act::Least => floors::arm(&mut foot),
    }
    stamps.acting.set(since(start));
    stamps.returning.set(Some(Instant::now()));
    if stamps.act == Act::Least {
        floors::end(&mut foot);
    }
    std::ptr::null_mut()
}

/// One thread from create to join.
fn life(stamps: &Stamps) -> f64 {
    let begin = Instant::now();
    // SAFETY: a number or a pointer.
    let mut thread = unsafe { std::mem::zeroed() };
    // SAFETY: the thread uses `stamps` only while it lives, which ends here.
    unsafe {
        let argument = std::ptr::from_ref(stamps) as *mut c_void;
        assert_eq!(libc::pthread_create(&raw mut thread, std::ptr::null(), start, argument), 0);
        assert_eq!(libc::pthread_join(thread, std::ptr::null_mut()), 0);
    }
    since(begin)
}

/// The medians of threads' lives.
pub struct Threads {
    /// From create to join, without and with `at_exit`.
    pub without: f64,
    pub with: f64,
    pub at_exit: Ends,
    pub thread_local: Ends,
    /// What the floor takes.
    pub least: Ends,
}

/// What something to be done at a thread's end takes.
pub struct Ends {
    /// Requesting it, as the first act of the thread.
    pub beginning: f64,
    /// What the end of the thread takes longer.
    pub end: f64,
}

impl Ends {
    pub fn both(&self) -> f64 {
        self.beginning + self.end
    }
}

/// Lives of threads that do each act, in turns: this many of each.
pub fn threads(turns: usize) -> Threads {
    #[derive(Default)]
    struct Taken {
        life: Samples,
        acting: Samples,
        ending: Samples,
    }
    const ACTS: [Act; 4] = [Act::Nothing, Act::AtExit, Act::ThreadLocal, Act::Least];
    let mut taken: [Taken; 4] = Default::default();
    for turn in 0..turns {
        for number in (0..4).map(|number| (number + turn) % 4) {
            let stamps = Stamps { act: ACTS[number], ..Stamps::default() };
            let life = life(&stamps);
            let taken = &mut taken[number];
            taken.life.push(life);
            taken.acting.push(stamps.acting.get());
            taken.ending.push(stamps.ending.get());
        }
    }
    let [nothing, at_exit, thread_local, least] = &taken;
    let ends = |with: &Taken| Ends {
        beginning: with.acting.middle() - nothing.acting.middle(),
        end: with.ending.middle() - nothing.ending.middle(),
    };
    Threads {
        without: nothing.life.median(),
        with: at_exit.life.median(),
        at_exit: ends(at_exit),
        thread_local: ends(thread_local),
        least: ends(least),
    }
}

/// The medians of a pooled fiber's life.
pub struct Pooled {
    pub depth: usize,
    /// `at_exit` alone, which unwinds that many frames.
    pub arming: f64,
    /// What the whole life takes longer.
    pub life: f64,
}

/// A new thread's first `at_exit`, `depth` frames deep, after other threads were armed there.
pub fn deep_thread(depth: usize) -> f64 {
    let mut arming = Samples::new();
    for _ in 0..400 {
        let body = move || {
            let mut took = 0.0;
            descend::<0>(depth, &mut || {
                let start = Instant::now();
                exeunt::at_exit(|| ()).expect("a thread can be armed");
                took = since(start);
            });
            took
        };
        arming.push(std::thread::spawn(body).join().expect("it does not panic"));
    }
    arming.middle() - clock()
}

/// Lives of fibers on the same memory, again and again, armed `depth` frames deep: this many turns.
pub fn pooled(depth: usize, turns: usize) -> Pooled {
    let mut memory = Memory::new(1 << 20);
    memory.touch_top(1 << 19);
    let (mut arming, mut with, mut without) = (Samples::new(), Samples::new(), Samples::new());
    for turn in 0..turns {
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
    Pooled { depth, arming: arming.middle() - clock(), life: with.median() - without.median() }
}
