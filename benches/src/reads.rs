//! One read of a small value: in a tight loop, and once per call of a function that is not inlined;
//! on a thread and on a `makecontext` fiber.
//!
//! Every peer reads the same 8 bytes. `thread_local!` with a destructor is the peer that does the
//! same for its user: it too checks whether the value exists and is not dropped yet.

use crate::fiber::{Memory, on_fiber};
use crate::sample::{Samples, Stopwatch, bench};
use criterion::{Criterion, measurement::WallTime};
use std::arch::asm;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::OnceLock;
use std::time::Duration;

/// A value with a destructor.
pub struct Number(Cell<u64>);

impl Drop for Number {
    fn drop(&mut self) {
        black_box(self.0.get());
    }
}

exeunt::stack_local! {
    static STACK: Number = Number(Cell::new(1));
    static STACK_CELL: Cell<u64> = const { Cell::new(1) };
}

thread_local! {
    #[allow(clippy::missing_const_for_thread_local, reason = "the other way has a row of its own")]
    static THREAD: Number = Number(Cell::new(1));
    static THREAD_CONST: Cell<u64> = const { Cell::new(1) };
}

unsafe extern "C" fn free(value: *mut libc::c_void) {
    // SAFETY: the key only ever holds boxes of this type.
    drop(unsafe { Box::from_raw(value.cast::<Number>()) });
}

fn key() -> libc::pthread_key_t {
    static KEY: OnceLock<libc::pthread_key_t> = OnceLock::new();
    *KEY.get_or_init(|| {
        let mut key = 0;
        // SAFETY: the destructor fits what is stored.
        assert_eq!(unsafe { libc::pthread_key_create(&raw mut key, Some(free)) }, 0);
        key
    })
}

fn set_up() {
    STACK.with(|_| ());
    STACK_CELL.get();
    THREAD.with(|_| ());
    // SAFETY: the key exists, and its value is a box that `free` takes back.
    unsafe {
        if libc::pthread_getspecific(key()).is_null() {
            let value = Box::into_raw(Box::new(Number(Cell::new(1))));
            libc::pthread_setspecific(key(), value.cast());
        }
    }
}

/// One read, as a type, so that each loop is compiled for itself.
trait Read {
    const NAME: &'static str;
    fn read(key: libc::pthread_key_t) -> u64;
}

macro_rules! reads {
    ($($type:ident, $name:literal, $key:ident => $read:expr;)*) => {$(
        struct $type;
        impl Read for $type {
            const NAME: &'static str = $name;
            #[inline(always)]
            fn read($key: libc::pthread_key_t) -> u64 {
                $read
            }
        }
    )*};
}

reads! {
    StackWith, "stack_local with", _key => STACK.with(|number| number.0.get());
    StackGet, "stack_local get", _key => STACK_CELL.get();
    ThreadWith, "thread_local with destructor", _key => THREAD.with(|number| number.0.get());
    ThreadConst, "thread_local const", _key => THREAD_CONST.get();
    // SAFETY: `set_up` stored a number on this thread.
    Specific, "pthread_getspecific", key => unsafe { (*libc::pthread_getspecific(key).cast::<Number>()).0.get() };
}

/// The number of places in memory at which each loop is measured. So short a loop takes twice as
/// long where it happens to lie across a boundary of what the processor fetches at once, and then
/// its peer seems twice as good.
const PLACEMENTS: usize = 8;

/// Moves what follows in the function by `EIGHTHS` eighths of a cache line.
#[inline(always)]
fn moved<const EIGHTHS: usize>() {
    // SAFETY: these do nothing.
    unsafe {
        asm!(".rept {NOPS}", "nop", ".endr", NOPS = const EIGHTHS * 8 / NOP, options(nomem, nostack, preserves_flags));
    }
}

/// Bytes of an instruction that does nothing.
const NOP: usize = if cfg!(target_arch = "x86_64") { 1 } else { 4 };

#[inline(never)]
fn tight<R: Read, const EIGHTHS: usize>(key: libc::pthread_key_t, count: u64) -> Duration {
    moved::<EIGHTHS>();
    let start = Stopwatch::start();
    for _ in 0..count {
        black_box(R::read(key));
    }
    start.elapsed()
}

#[inline(never)]
fn in_a_call<R: Read>(key: libc::pthread_key_t) -> u64 {
    R::read(key)
}

#[inline(never)]
fn called<R: Read, const EIGHTHS: usize>(key: libc::pthread_key_t, count: u64) -> Duration {
    moved::<EIGHTHS>();
    let start = Stopwatch::start();
    for _ in 0..count {
        black_box(in_a_call::<R>(key));
    }
    start.elapsed()
}

fn on_thread(run: fn(libc::pthread_key_t, u64) -> Duration, count: u64) -> Duration {
    // A new thread for each sample: the main thread differs from others.
    std::thread::spawn(move || {
        set_up();
        run(key(), count)
    })
    .join()
    .expect("the loop does not panic")
}

fn on_a_fiber(run: fn(libc::pthread_key_t, u64) -> Duration, count: u64) -> Duration {
    thread_local! {
        static MEMORY: Cell<Option<Memory>> = const { Cell::new(None) };
    }
    let mut memory = MEMORY.take().unwrap_or_else(|| Memory::new(256 * 1024));
    let duration = on_fiber(&mut memory, move || {
        set_up();
        run(key(), count)
    });
    MEMORY.set(Some(memory));
    duration
}

type Where = fn(fn(libc::pthread_key_t, u64) -> Duration, u64) -> Duration;
type Run = fn(libc::pthread_key_t, u64) -> Duration;

const PLACES: [(&str, Where); 2] = [("thread", on_thread), ("fiber", on_a_fiber)];

macro_rules! placements {
    ($run:ident) => {
        [$run::<R, 0>, $run::<R, 1>, $run::<R, 2>, $run::<R, 3>, $run::<R, 4>, $run::<R, 5>, $run::<R, 6>, $run::<R, 7>]
    };
}

fn shapes<R: Read>() -> [(&'static str, [Run; PLACEMENTS], &'static str); 2] {
    [("tight", placements!(tight), R::NAME), ("called", placements!(called), R::NAME)]
}

fn all() -> impl Iterator<Item = (String, Where, [Run; PLACEMENTS])> {
    let reads = [
        shapes::<ThreadWith>(),
        shapes::<StackWith>(),
        shapes::<StackGet>(),
        shapes::<Specific>(),
        shapes::<ThreadConst>(),
    ];
    let named = move |(place, run_there): (&'static str, Where)| {
        reads.into_iter().flatten().map(move |(shape, run, name)| (format!("{place} {shape} {name}"), run_there, run))
    };
    PLACES.into_iter().flat_map(named)
}

/// Measures all of them.
pub fn measure(criterion: &mut Criterion<WallTime>) {
    for (name, run_there, run) in all() {
        bench(criterion, &format!("read/{name}"), |count| run_there(run[0], count));
    }
}

/// What a read takes, by its name. All reads run in turns, in short batches, so that other work on
/// the machine disturbs all alike. The best twentieth of the batches counts, as other work only
/// adds time; of the placements, the median counts. `batches` of each read run, of those whose
/// names `filter` lets pass.
pub fn in_turns(batches: usize, filter: impl Fn(&str) -> bool) -> BTreeMap<String, f64> {
    const BATCH: u64 = 10_000;
    let mut samples: BTreeMap<String, [Samples; PLACEMENTS]> = BTreeMap::new();
    for _ in 0..batches {
        for (name, run_there, placements) in all().filter(|(name, ..)| filter(name)) {
            let samples = samples.entry(name).or_default();
            for (run, samples) in placements.into_iter().zip(samples) {
                samples.push(run_there(run, BATCH).as_nanos() as f64 / BATCH as f64);
            }
        }
    }
    let middle = |placements: [Samples; PLACEMENTS]| {
        let mut best = Samples::new();
        placements.iter().for_each(|samples| best.push(samples.quantile(0.05)));
        best.median()
    };
    samples.into_iter().map(|(name, placements)| (name, middle(placements))).collect()
}
