//! The faces beside their peers: `cargo bench -p exeunt-benches --bench faces`. With `-- switching`
//! it prints the last tables alone.
//!
//! It answers three questions: what one read costs, what `enter_on` costs over a plain call, and
//! what a read costs right after a switch, with so many fibers that the cache holds nothing of the
//! next one.

#[path = "../src/sample.rs"]
#[allow(dead_code, reason = "the other benchmarks use more of it")]
mod sample;

use corosensei::stack::Stack;
use corosensei::{Coroutine, Yielder};
use criterion::Criterion;
use exeunt::{Slot, context};
use sample::{Samples, bench, loop_time};
use std::cell::Cell;
use std::collections::HashMap;
use std::hint::black_box;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{LazyLock, OnceLock, RwLock};
use std::thread::ThreadId;
use std::time::Duration;

exeunt::stack_local! {
    static LOCAL: Cell<u64> = const { Cell::new(1) };
}

may::coroutine_local!(static OF_COROUTINE: Cell<u64> = Cell::new(1));

static SLOT: LazyLock<Slot<u64>> = LazyLock::new(|| Slot::new().expect("there is a free one"));
static RAW: LazyLock<u32> = LazyLock::new(|| {
    // SAFETY: no destructor.
    unsafe { exeunt::slots::alloc(None) }.expect("there is a free one")
});
static BY_THREAD: LazyLock<RwLock<HashMap<ThreadId, u64>>> = LazyLock::new(RwLock::default);

fn key() -> libc::pthread_key_t {
    static KEY: OnceLock<libc::pthread_key_t> = OnceLock::new();
    *KEY.get_or_init(|| {
        let mut key = 0;
        // SAFETY: no destructor.
        assert_eq!(unsafe { libc::pthread_key_create(&raw mut key, None) }, 0);
        key
    })
}

/// A name, and one read to measure.
type Read = (&'static str, fn() -> u64);

fn specific() -> u64 {
    // SAFETY: `on_this_stack` stored the address of a number on this thread.
    unsafe { *libc::pthread_getspecific(key()).cast::<u64>() }
}

const SLOT_GET: &str = "Slot::get";
const RAW_GET: &str = "slots::get";
const CONTEXT: &str = "context::get";
const STACK_LOCAL: &str = "stack_local! get";
const SPECIFIC: &str = "pthread_getspecific";
const BY_THREAD_ID: &str = "HashMap by thread id";
const MAY: &str = "may::coroutine_local!";

const READS: [Read; 6] = [
    (SLOT_GET, || SLOT.get().unwrap_or(0)),
    (RAW_GET, || exeunt::slots::get(*RAW).map_or(0, |value| value.addr() as u64)),
    (CONTEXT, || context::get::<u64>()),
    (STACK_LOCAL, || LOCAL.get()),
    (SPECIFIC, specific),
    (BY_THREAD_ID, || BY_THREAD.read().expect("nobody panics")[&std::thread::current().id()]),
];

/// Runs `body` with a value for each of the reads.
fn with_values<R>(body: impl FnOnce() -> R) -> R {
    static NUMBER: u64 = 1;
    // SAFETY: the key exists, and the number is a static.
    unsafe { libc::pthread_setspecific(key(), (&raw const NUMBER).cast()) };
    BY_THREAD.write().expect("nobody panics").insert(std::thread::current().id(), 1);
    LOCAL.set(1);
    SLOT.set(1).expect("this stack can be armed");
    // SAFETY: a number.
    unsafe { exeunt::slots::set(*RAW, std::ptr::without_provenance_mut(1)) }.expect("this stack can be armed");
    context::with(1_u64, body)
}

/// The processor time of this thread: other work on the machine does not count.
fn now() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: fills in the structure.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn time<R>(count: u64, mut read: impl FnMut() -> R) -> Duration {
    let start = now();
    for _ in 0..count {
        black_box(read());
    }
    now() - start
}

/// A macro, so that each loop is compiled for its own read.
macro_rules! measure {
    ($criterion:expr, $($name:expr => $read:expr;)*) => {$(
        bench($criterion, &format!("faces/{}", $name), |count| {
            let body = move || with_values(|| time(count, || $read));
            std::thread::spawn(body).join().expect("the loop does not panic")
        });
    )*};
}

fn reads(criterion: &mut Criterion) {
    measure! { criterion,
        SLOT_GET => SLOT.get();
        RAW_GET => exeunt::slots::get(*RAW);
        CONTEXT => context::get::<u64>();
        STACK_LOCAL => LOCAL.get();
        SPECIFIC => specific();
        BY_THREAD_ID => BY_THREAD.read().expect("nobody panics")[&std::thread::current().id()];
    }
    bench(criterion, &format!("faces/{MAY}"), |count| {
        // SAFETY: it uses no thread local and little stack.
        let coroutine = unsafe { may::coroutine::spawn(move || time(count, || OF_COROUTINE.with(Cell::get))) };
        coroutine.join().expect("the loop does not panic")
    });
}

#[inline(never)]
fn callee(number: u64) -> u64 {
    black_box(number)
}

fn entering(criterion: &mut Criterion) {
    let on_thread = |body: fn(std::ops::Range<usize>, u64) -> Duration, count| {
        let run = move || body(exeunt::Stack::current().bounds().expect("a thread's bounds are known"), count);
        std::thread::spawn(run).join().expect("the loop does not panic")
    };
    bench(criterion, "faces/call", |count| on_thread(|_, count| time(count, || callee(black_box(1))), count));
    bench(criterion, "faces/enter_on", |count| {
        on_thread(
            |range, count| {
                // SAFETY: the range is this thread's stack, and nothing arms it.
                time(count, || unsafe { exeunt::enter_on(range.clone(), || callee(black_box(1))) })
            },
            count,
        )
    });
    bench(criterion, "faces/enter", |count| {
        on_thread(|_, count| time(count, || exeunt::enter(|| callee(black_box(1)))), count)
    });
}

/// Bytes of a fiber's stack: enough for what it does here, and few enough for 100,000 fibers.
const STACK: usize = 16 * 1024;

/// Memory for many stacks in one mapping: Linux does not allow a hundred thousand mappings with
/// guard pages.
struct Stacks {
    start: usize,
    count: usize,
}

impl Stacks {
    fn new(count: usize) -> Self {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        let (size, access) = (count * STACK, libc::PROT_READ | libc::PROT_WRITE);
        // SAFETY: a new mapping touches nothing that exists.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), size, access, flags, -1, 0) };
        assert_ne!(start, libc::MAP_FAILED, "no memory for {count} stacks");
        // SAFETY: advice on our own mapping.
        unsafe { libc::madvise(start, size, libc::MADV_NOHUGEPAGE) };
        Self { start: start as usize, count }
    }

    fn stack(&self, number: usize) -> Piece {
        assert!(number < self.count);
        // Real stacks do not all begin at the same place in their page and in the processor's
        // caches.
        let colour = number % 32 * 64;
        Piece { start: self.start + number * STACK, end: self.start + (number + 1) * STACK - colour }
    }
}

impl Drop for Stacks {
    fn drop(&mut self) {
        // SAFETY: from `new`; the fibers are gone before their memory.
        unsafe { libc::munmap(self.start as *mut libc::c_void, self.count * STACK) };
    }
}

struct Piece {
    start: usize,
    end: usize,
}

// SAFETY: aligned memory of more than the least size. There is no guard page; the fibers here need
// a part of it only.
unsafe impl Stack for Piece {
    fn base(&self) -> NonZeroUsize {
        NonZeroUsize::new(self.end).expect("not at zero")
    }
    fn limit(&self) -> NonZeroUsize {
        NonZeroUsize::new(self.start).expect("not at zero")
    }
}

/// The index of the read in [`READS`] that fibers do after a switch; any other number is no read.
static MODE: AtomicUsize = AtomicUsize::new(usize::MAX);

fn fiber_body(yielder: &Yielder<(), u64>, range: std::ops::Range<usize>) {
    let body = || {
        with_values(|| {
            let mut last = 0;
            loop {
                yielder.suspend(last);
                last = match MODE.load(Ordering::Relaxed) {
                    0 => READS[0].1(),
                    1 => READS[1].1(),
                    2 => READS[2].1(),
                    3 => READS[3].1(),
                    4 => READS[4].1(),
                    5 => READS[5].1(),
                    _ => 0,
                };
            }
        })
    };
    // SAFETY: the fiber's own memory, and nothing has armed it.
    let never: Result<(), _> = unsafe { exeunt::enter_on(range, body) };
    never.expect("a fresh fiber");
}

/// Nanoseconds that a read costs right after a switch: a switch with the read, less one without it.
fn after_a_switch(count: usize) -> (f64, Vec<f64>) {
    let stacks = Stacks::new(count);
    let mut fibers: Vec<_> = (0..count)
        .map(|number| {
            let stack = stacks.stack(number);
            let range = stack.start..stack.end;
            Coroutine::<(), u64, (), Piece>::with_stack(stack, move |yielder, ()| fiber_body(yielder, range))
        })
        .collect();
    MODE.store(usize::MAX, Ordering::Relaxed);
    fibers.iter_mut().for_each(|fiber| assert!(fiber.resume(()).as_yield().is_some()));
    let turns = count.max(100_000);
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut samples = vec![Samples::new(); READS.len()];
    let mut bare = Samples::new();
    let order: Vec<usize> = (0..turns)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as usize % count
        })
        .collect();
    let mut round = |mode: usize, offset: usize| {
        MODE.store(mode, Ordering::Relaxed);
        let start = now();
        for &number in order[offset..].iter().chain(&order[..offset]) {
            black_box(fibers[number].resume(()).as_yield());
        }
        (now() - start).as_nanos() as f64 / turns as f64
    };
    for turn in 0..15 {
        let before = round(usize::MAX, turn * 1000);
        let with: Vec<f64> = (0..READS.len()).map(|mode| round(mode, turn * 1000 + mode * 100)).collect();
        let without = (before + round(usize::MAX, turn * 1000 + 700)) / 2.0;
        bare.push(without);
        samples.iter_mut().zip(with).for_each(|(samples, with)| samples.push(with - without));
    }
    (bare.median(), samples.iter().map(Samples::median).collect())
}

/// The same for `may`. Its own scheduler resumes the coroutines in the order in which they yielded,
/// so they run one round after the other. There is one worker, as switches between workers cost
/// more.
fn may_after_a_switch(count: usize) -> (f64, f64) {
    let turns = (200_000 / count).max(4);
    let run = |reading: bool| {
        let start = std::sync::Arc::new(AtomicUsize::new(0));
        let coroutines: Vec<_> = (0..count)
            .map(|_| {
                let start = std::sync::Arc::clone(&start);
                let body = move || {
                    OF_COROUTINE.with(|number| number.set(1));
                    start.fetch_add(1, Ordering::Relaxed);
                    // It sleeps, as a worker whose own queue is never empty takes no new coroutine.
                    while start.load(Ordering::Relaxed) < count {
                        may::coroutine::sleep(Duration::from_millis(1));
                    }
                    let clock = now();
                    for _ in 0..turns {
                        may::coroutine::yield_now();
                        if reading {
                            black_box(OF_COROUTINE.with(Cell::get));
                        }
                    }
                    now() - clock
                };
                // SAFETY: it uses no thread local across a switch and little stack.
                unsafe { may::coroutine::spawn(body) }
            })
            .collect();
        let longest = coroutines.into_iter().map(|coroutine| coroutine.join().expect("no panic")).max();
        longest.expect("at least one").as_nanos() as f64 / (turns * count) as f64
    };
    let (mut bare, mut more) = (Samples::new(), Samples::new());
    for _ in 0..9 {
        let without = run(false);
        more.push(run(true) - without);
        bare.push(without);
    }
    (bare.median(), more.median())
}

fn main() {
    may::config().set_workers(1).set_stack_size(0x1000);
    let mut criterion = Criterion::default()
        .without_plots()
        .warm_up_time(Duration::from_millis(150))
        .measurement_time(Duration::from_millis(700))
        .sample_size(50)
        .configure_from_args();
    let arguments: Vec<_> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    if arguments.is_empty() {
        reads(&mut criterion);
        entering(&mut criterion);
        println!("\n| a read in a loop, on a thread | ns | of pthread_getspecific | bar |\n|---|---|---|---|");
        let time = |name: &str| loop_time(&format!("faces/{name}"));
        for name in [SLOT_GET, RAW_GET, CONTEXT, STACK_LOCAL, SPECIFIC, MAY, BY_THREAD_ID] {
            let bar = if name == SLOT_GET { "1.5" } else { "" };
            println!("| `{name}` | {:.2} | {:.2} | {bar} |", time(name), time(name) / time(SPECIFIC));
        }
        println!("\n| entering a scope that stores nothing | ns | over the call | bar |\n|---|---|---|---|");
        for (name, bar) in [("call", ""), ("enter_on", "30"), ("enter", "")] {
            println!("| `{name}` | {:.1} | {:.1} | {bar} |", time(name), time(name) - time("call"));
        }
    } else if arguments != ["switching"] {
        reads(&mut criterion);
        entering(&mut criterion);
        return;
    }
    println!("\n| live fibers, switched in random order | switch, ns | {} |", READS.map(|read| read.0).join(" | "));
    println!("|---|---|{}", "---|".repeat(READS.len()));
    for count in [1, 1_000, 100_000] {
        let (bare, reads) = after_a_switch(count);
        let reads: Vec<_> = reads.iter().map(|read| format!("{read:.1}")).collect();
        println!("| {count} | {bare:.0} | {} |", reads.join(" | "));
    }
    println!("\n| live coroutines of may, one worker, in turns | switch, ns | {MAY} |\n|---|---|---|");
    // Each has two mappings; more than about 30,000 exceed Linux's default for one process.
    for count in [1, 1_000, 25_000] {
        let (bare, read) = may_after_a_switch(count);
        println!("| {count} | {bare:.0} | {read:.1} |");
    }
}
