//! A million armed fibers in one process, and thirty thousand armed threads:
//! `cargo bench -p exeunt-benches --bench scale`.
//!
//! `-- --fibers N` and `-- --threads N` set other largest numbers. Each number is measured in a
//! process of its own. Loops count the processor time of their thread, and threads' lives that of
//! the process, user's and system's, so that other work on the machine counts little.
//!
//! The fibers are `makecontext`'s (with musl corosensei's inside `enter`) on stacks of 16 KiB, all
//! in one mapping, as Linux allows 65,530 mappings in a process. Once a fiber is suspended, the
//! pages of its stack that are not in use are given back to the system: so a fiber's own memory is
//! one page, and its context.

use exeunt_benches::fiber::{Fiber, Inside, Memory};
use exeunt_benches::sample::{Samples, Stopwatch};
use std::cell::Cell;
use std::ffi::c_void;
use std::hint::black_box;
use std::process::Command;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

const ROLE: &str = "EXEUNT_BENCH_CHILD";
/// Bytes of a fiber's stack.
const STACK: usize = 16 << 10;
/// Bytes of a thread's stack.
const THREAD_STACK: usize = 32 << 10;
/// Bytes of memory that a fiber takes here at most, with its record, and its context of 2 KiB.
const EACH: usize = 9 << 10;
/// Bytes of memory that are left to the system.
const SPARE: usize = 2 << 30;
const PAGE: usize = 4096;

exeunt::stack_local! {
    static NUMBER: Cell<u64> = const { Cell::new(0) };
}

/// Handlers that have run.
static ENDED: AtomicU64 = AtomicU64::new(0);

fn main() {
    if let Ok(role) = std::env::var(ROLE) {
        let words: Vec<_> = role.split(' ').collect();
        let number = words[1].parse().expect("a number");
        let figures = match words[0] {
            "fibers" => fibers(number),
            "discard" => discard(number),
            "threads" => threads(number, words[2] == "armed"),
            other => panic!("unknown role {other}"),
        };
        let figures: Vec<_> = figures.iter().map(f64::to_string).collect();
        println!("{}", figures.join(" "));
        return;
    }
    let arguments: Vec<_> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    let number = |text: &str| text.parse().expect("usage: scale [--fibers N | --threads N]");
    match arguments[..] {
        [] => {
            table_of_fibers(1_000_000);
            table_of_threads(30_000);
        }
        ["--fibers", most] => table_of_fibers(number(most)),
        ["--threads", most] => table_of_threads(number(most)),
        // `--test` and its kind, which Cargo passes to all benchmarks, ask for the build only.
        _ => {}
    }
}

/// What a child process measures.
fn ask(role: &str) -> Vec<f64> {
    let program = std::env::current_exe().expect("this program has a path");
    let output = Command::new(program).env(ROLE, role).output().expect("this program runs");
    assert!(output.status.success(), "{role}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    let output = String::from_utf8(output.stdout).expect("figures are text");
    output.split_whitespace().map(|figure| figure.parse().expect("a number")).collect()
}

/// The numbers to measure: powers of ten from a thousand on, and the largest.
fn numbers(most: usize) -> Vec<usize> {
    let mut numbers: Vec<_> =
        std::iter::successors(Some(1000), |number| Some(number * 10)).take_while(|&number| number < most).collect();
    numbers.push(most);
    numbers
}

/// A value of `/proc/FILE` in bytes: the line NAME has kibibytes.
fn kibibytes(file: &str, name: &str) -> usize {
    let text = std::fs::read_to_string(file).expect("Linux tells");
    let line = text.lines().find_map(|line| line.strip_prefix(name)).expect("it has this line");
    line.split_whitespace().next().and_then(|number| number.parse::<usize>().ok()).expect("a number") << 10
}

fn resident() -> usize {
    kibibytes("/proc/self/smaps_rollup", "Rss:")
}

fn table_of_fibers(most: usize) {
    let room = kibibytes("/proc/meminfo", "MemAvailable:").saturating_sub(SPARE) / EACH;
    let fits = most.min(room);
    println!("\n## Many fibers at once\n");
    if fits < most {
        println!("**{most} fibers do not fit: the memory that is free suffices for {fits}.**\n");
    }
    println!("Nanoseconds of processor time for each fiber, or each read. A read comes right after a switch to a");
    println!("fiber by chance. The floor is two loads, from a table by the stack's number and from where that leads:");
    println!("they too miss the caches. Memory is what arming adds: record, values, and map.\n");
    println!(
        "| fibers | switch | arm | `stack_local!` `get` | keyed `get` | floor of a read | end | `discard` of all | bytes each |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    let mut all = Vec::new();
    for number in numbers(fits) {
        let mut figures = ask(&format!("fibers {number}"));
        figures.insert(6, ask(&format!("discard {number}"))[0]);
        let row: Vec<_> = figures.iter().map(|figure| format!("{figure:.0}")).collect();
        println!("| {number} | {} |", row.join(" | "));
        all.push(figures);
    }
    times("the largest, in times of the least", &all);
}

fn times(what: &str, all: &[Vec<f64>]) {
    let (Some(least), Some(largest)) = (all.first(), all.last()) else { return };
    let times: Vec<_> = least.iter().zip(largest).map(|(least, largest)| format!("{:.2}", largest / least)).collect();
    println!("| {what} | {} |", times.join(" | "));
}

/// What suspended fibers do when they are resumed.
static ACT: AtomicUsize = AtomicUsize::new(NOTHING);
const NOTHING: usize = 0;
const READ_LOCAL: usize = 1;
const READ_KEYED: usize = 2;
const READ_FLOOR: usize = 3;
const RETURN: usize = 4;

/// A page's worth of a map: a pointer to the value of the stack of this number.
#[repr(align(64))]
struct Place(Cell<*const Value>);

/// A value in as much memory as a record takes.
#[repr(align(64))]
struct Value([u64; 40]);

fn body(inside: &Inside, number: u64, top: usize, floor: *const Place) {
    inside.suspend();
    exeunt::at_exit(|| _ = ENDED.fetch_add(1, Ordering::Relaxed)).expect("a fiber can be armed");
    NUMBER.set(number);
    exeunt::set("number", number).expect("it is armed");
    let here = 0_u8;
    assert!(top - (&raw const here).addr() < PAGE - 512, "the fiber is suspended in its outermost page");
    loop {
        inside.suspend();
        let read = match ACT.load(Ordering::Relaxed) {
            READ_LOCAL => NUMBER.get(),
            READ_KEYED => exeunt::get(&"number").expect("it is stored"),
            // SAFETY: `floor` is null or leads to a place that outlives the fiber.
            READ_FLOOR => unsafe { (*(*floor).0.get()).0[7] },
            RETURN => return,
            _ => number,
        };
        assert_eq!(black_box(read), number, "a fiber reads its own value");
    }
}

/// Runs a fiber with much room. The first walk through a function reads its unwind tables, which
/// takes more stack than later walks.
fn warm_up() {
    let mut memory = Memory::new(1 << 20);
    let top = memory.range().end;
    let mut fiber = Fiber::new(&mut memory, move |inside| body(inside, 0, top, std::ptr::null()));
    assert!(!fiber.resume());
    assert!(!fiber.resume());
    ACT.store(RETURN, Ordering::Relaxed);
    assert!(fiber.resume());
    ACT.store(NOTHING, Ordering::Relaxed);
    ENDED.store(0, Ordering::Relaxed);
}

/// Fibers that have begun, and are not armed.
fn begun<'m>(memories: &'m mut [Memory], floors: &[Place]) -> Vec<Fiber<'m>> {
    let floors = floors.as_ptr();
    let mut fibers: Vec<_> = memories
        .iter_mut()
        .enumerate()
        .map(|(number, memory)| {
            let top = memory.range().end;
            let floor = floors.wrapping_add(number);
            Fiber::new(memory, move |inside| body(inside, number as u64, top, floor))
        })
        .collect();
    fibers.iter_mut().for_each(|fiber| assert!(!fiber.resume()));
    fibers
}

/// Arms all fibers. Returns the processor time for each.
fn arm(fibers: &mut [Fiber], first: usize) -> f64 {
    const CHUNK: usize = 500;
    let mut total = Duration::ZERO;
    let count = fibers.len();
    for (chunk, fibers) in fibers.chunks_mut(CHUNK).enumerate() {
        let clock = Stopwatch::start();
        fibers.iter_mut().for_each(|fiber| assert!(!fiber.resume()));
        total += clock.elapsed();
        for number in chunk * CHUNK..chunk * CHUNK + fibers.len() {
            let unused = (first + number * STACK) as *mut c_void;
            // SAFETY: the fiber is suspended in its outermost page, as it has checked, and nothing
            // inner to that is in use.
            assert_eq!(unsafe { libc::madvise(unused, STACK - PAGE, libc::MADV_DONTNEED) }, 0);
        }
    }
    each(total, count)
}

fn each(total: Duration, count: usize) -> f64 {
    total.as_nanos() as f64 / count as f64
}

/// The first address of the stacks.
fn first(memories: &[Memory]) -> usize {
    memories[0].range().start
}

fn fibers(count: usize) -> Vec<f64> {
    warm_up();
    let mut memories = Memory::many(count, STACK);
    let first = first(&memories);
    let mut values: Vec<Value> = (0..count as u64).map(|number| Value([number; 40])).collect();
    // In another order than the places: a record's place in memory does not follow the stack's.
    let mut random = random();
    for number in (1..count).rev() {
        values.swap(number, random() % (number + 1));
    }
    let places: Vec<Place> = (0..count).map(|_| Place(Cell::new(std::ptr::null()))).collect();
    values.iter().for_each(|value| places[value.0[7] as usize].0.set(value));
    let mut fibers = begun(&mut memories, &places);
    let before = resident();
    let arming = arm(&mut fibers, first);
    let memory = resident().saturating_sub(before) as f64 / count as f64;
    assert_eq!(exeunt::survey().expect("it was recognised").armed, count);
    let turns = count.clamp(100_000, 300_000);
    let mut samples = [const { Samples::new() }; 4];
    for _ in 0..7 {
        let order: Vec<u32> = (0..turns).map(|_| (random() % count) as u32).collect();
        let mut round = |act: usize| {
            ACT.store(act, Ordering::Relaxed);
            let clock = Stopwatch::start();
            order.iter().for_each(|&number| assert!(!fibers[number as usize].resume()));
            each(clock.elapsed(), turns)
        };
        // With few fibers, which the caches hold, the second round of an order is the faster one.
        round(NOTHING);
        let switch = round(NOTHING);
        samples[0].push(switch);
        for act in [READ_LOCAL, READ_KEYED, READ_FLOOR] {
            samples[act].push(round(act) - switch);
        }
    }
    ACT.store(RETURN, Ordering::Relaxed);
    let clock = Stopwatch::start();
    fibers.iter_mut().for_each(|fiber| assert!(fiber.resume()));
    let ending = each(clock.elapsed(), count);
    assert_eq!(ENDED.load(Ordering::Relaxed), count as u64, "each handler ran once");
    assert_eq!(exeunt::survey().expect("it was recognised").armed, 0);
    let [switch, local, keyed, floor] = samples.map(|samples| samples.median());
    vec![switch, arming, local, keyed, floor, ending, memory]
}

fn discard(count: usize) -> Vec<f64> {
    warm_up();
    let mut memories = Memory::many(count, STACK);
    let first = first(&memories);
    let mut fibers = begun(&mut memories, &[]);
    arm(&mut fibers, first);
    let clock = Stopwatch::start();
    // SAFETY: no fiber is resumed any more, and none has lent anything.
    let discarded = unsafe { exeunt::discard(first..first + count * STACK) };
    let took = each(clock.elapsed(), count);
    assert_eq!(discarded, count);
    assert_eq!(ENDED.load(Ordering::Relaxed), count as u64, "each handler ran once");
    assert_eq!(exeunt::survey().expect("it was recognised").armed, 0);
    // Suspended fibers have no end of their own.
    std::mem::forget(fibers);
    vec![took]
}

/// Random numbers by Marsaglia's xorshift.
fn random() -> impl FnMut() -> usize {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as usize
    }
}

fn table_of_threads(most: usize) {
    println!("\n## Many threads at once\n");
    println!("Microseconds of the process's processor time for each thread: until all live, and until all are");
    println!("joined. Memory is the process's own, without the kernel's.\n");
    println!(
        "| threads | begin, unarmed | begin, armed | end, unarmed | end, armed | bytes that arming adds to each |"
    );
    println!("|---|---|---|---|---|---|");
    let mut all = Vec::new();
    for number in numbers(most) {
        let (bare, armed) = (ask(&format!("threads {number} bare")), ask(&format!("threads {number} armed")));
        let alive = armed[0].min(bare[0]);
        if alive < number as f64 {
            println!("**The system allows {alive} threads here, not {number}.**");
        }
        let figures = vec![bare[1], armed[1], bare[2], armed[2], (armed[3] - bare[3]).max(0.0)];
        let [b, a, end, armed_end, memory] = figures[..] else { unreachable!("five figures") };
        println!("| {alive} | {b:.1} | {a:.1} | {end:.1} | {armed_end:.1} | {memory:.0} |");
        all.push(figures);
    }
    times("the largest, in times of the least", &all);
}

static ALIVE: AtomicU32 = AtomicU32::new(0);
static MAY_END: AtomicU32 = AtomicU32::new(0);

extern "C" fn thread(armed: *mut c_void) -> *mut c_void {
    if !armed.is_null() {
        exeunt::at_exit(|| _ = ENDED.fetch_add(1, Ordering::Relaxed)).expect("a thread can be armed");
        NUMBER.set(1);
    }
    ALIVE.fetch_add(1, Ordering::Release);
    while MAY_END.load(Ordering::Acquire) == 0 {
        // SAFETY: waits while the word, which lives for ever, is zero.
        unsafe {
            libc::syscall(libc::SYS_futex, MAY_END.as_ptr(), libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG, 0, 0, 0, 0)
        };
    }
    if !armed.is_null() {
        assert_eq!(NUMBER.get(), 1);
    }
    std::ptr::null_mut()
}

/// The processor time of the process in microseconds.
fn processor() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: fills in `time`.
    assert_eq!(unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) }, 0);
    time.tv_sec as f64 * 1e6 + time.tv_nsec as f64 / 1e3
}

fn threads(count: usize, armed: bool) -> Vec<f64> {
    // The process's first use is no part of this.
    exeunt::id().expect("main can be armed");
    let stacks = Memory::many(count, THREAD_STACK);
    let before = resident();
    let begin = processor();
    let mut threads = Vec::with_capacity(count);
    for stack in &stacks {
        // SAFETY: `attributes` is initialised before its use. The stack is not used otherwise, and
        // outlives the thread, which is joined.
        unsafe {
            let (mut attributes, mut thread_id) = std::mem::zeroed();
            assert_eq!(libc::pthread_attr_init(&raw mut attributes), 0);
            let start = stack.range().start as *mut c_void;
            assert_eq!(libc::pthread_attr_setstack(&raw mut attributes, start, THREAD_STACK), 0);
            let argument = std::ptr::without_provenance_mut(usize::from(armed));
            let created = libc::pthread_create(&raw mut thread_id, &raw const attributes, thread, argument);
            libc::pthread_attr_destroy(&raw mut attributes);
            if created == libc::EAGAIN {
                break;
            }
            assert_eq!(created, 0);
            threads.push(thread_id);
        }
    }
    while (ALIVE.load(Ordering::Acquire) as usize) < threads.len() {
        std::thread::sleep(Duration::from_millis(1));
    }
    let beginning = processor() - begin;
    let memory = resident().saturating_sub(before) as f64;
    if armed {
        let survey = exeunt::survey().expect("it was recognised");
        assert_eq!(survey.armed, threads.len() + 1, "all threads, and main");
    }
    let begin = processor();
    MAY_END.store(1, Ordering::Release);
    // SAFETY: wakes whoever waits for the word.
    unsafe {
        libc::syscall(libc::SYS_futex, MAY_END.as_ptr(), libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG, i32::MAX, 0, 0, 0)
    };
    for &thread in &threads {
        // SAFETY: it was created, and is joined once.
        assert_eq!(unsafe { libc::pthread_join(thread, std::ptr::null_mut()) }, 0);
    }
    let ending = processor() - begin;
    let alive = threads.len() as f64;
    if armed {
        assert_eq!(ENDED.load(Ordering::Relaxed), threads.len() as u64, "each handler ran once");
    }
    vec![alive, beginning / alive, ending / alive, memory / alive]
}
