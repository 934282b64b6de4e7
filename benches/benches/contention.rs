//! Two threads at full speed beside one: `cargo bench -p exeunt-benches --bench contention`.
//!
//! Each thread works on a processor of its own. On a machine with other work the wall clock shows
//! how much of a processor a thread got. So the throughput is also computed from processor time,
//! user's and system's: twice what one operation takes alone, over what it takes while the other
//! thread works too. Two processors of one core, and two caches behind one bus, disturb each other
//! without any shared line: a loop that shares nothing shows how much.

use exeunt_benches::fiber::{Memory, on_fiber};
use exeunt_benches::processors::{count, on_one_of};
use exeunt_benches::sample::{Samples, Stopwatch};
use std::cell::Cell;
use std::hint::black_box;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How long threads work in each turn.
const TURN: Duration = Duration::from_millis(100);
const TURNS: usize = 21;
/// Operations between two looks at the clock.
const BATCH: u64 = 100;

exeunt::stack_local! {
    static LOCAL: Cell<u64> = const { Cell::new(1) };
}

/// One operation; the memory is a fiber's stack.
type Operation = fn(&mut Memory);

struct Row {
    what: &'static str,
    operation: Operation,
    bar: &'static str,
}

const ROWS: [Row; 7] = [
    Row {
        what: "a loop that shares nothing, and allocates",
        operation: |_| {
            for number in 0..20_u64 {
                drop(black_box(Box::new(number)));
            }
        },
        bar: "",
    },
    Row { what: "a fiber from creation to its end, not armed", operation: |memory| on_fiber(memory, || ()), bar: "" },
    Row {
        what: "the same, armed by `at_exit`, which drains at its end",
        operation: |memory| on_fiber(memory, || exeunt::at_exit(|| ()).expect("a fiber can be armed")),
        bar: "1.9",
    },
    Row {
        what: "the same, with a `stack_local!` too",
        operation: |memory| {
            on_fiber(memory, || {
                exeunt::at_exit(|| ()).expect("a fiber can be armed");
                LOCAL.set(2);
            });
        },
        bar: "1.9",
    },
    Row {
        what: "`at_exit` and `unload` on a thread, over and over",
        operation: |_| {
            exeunt::at_exit(|| ()).expect("a thread can be armed");
            exeunt::unload().expect("no value is lent");
        },
        bar: "1.9",
    },
    Row {
        what: "100 reads of one `stack_local!` on a thread",
        operation: |_| (0..100).for_each(|_| _ = black_box(LOCAL.get())),
        bar: "1.9",
    },
    Row {
        what: "10 keyed reads of one key on a thread",
        operation: |_| (0..10).for_each(|_| _ = black_box(exeunt::get::<u64>(&"key"))),
        bar: "1.9",
    },
];

/// What one thread did in a turn.
struct Work {
    operations: u64,
    processor: Duration,
    wall: Duration,
}

impl Work {
    /// Nanoseconds of processor time for one operation.
    fn each(&self) -> f64 {
        self.processor.as_nanos() as f64 / self.operations as f64
    }

    /// Operations in a nanosecond of wall clock.
    fn speed(&self) -> f64 {
        self.operations as f64 / self.wall.as_nanos() as f64
    }
}

/// Has so many threads repeat the operation until the turn is over.
fn turn(threads: usize, operation: Operation) -> Vec<Work> {
    let begin = Barrier::new(threads);
    let over = AtomicBool::new(false);
    let work = |number: usize| {
        on_one_of(number, || {
            let mut memory = Memory::new(256 * 1024);
            memory.touch_top(64 * 1024);
            exeunt::set("key", 1_u64).expect("a thread can be armed");
            LOCAL.get();
            (0..BATCH).for_each(|_| operation(&mut memory));
            begin.wait();
            let (start, clock) = (Instant::now(), Stopwatch::start());
            let mut operations = 0;
            while !over.load(Ordering::Relaxed) {
                (0..BATCH).for_each(|_| operation(&mut memory));
                operations += BATCH;
                if start.elapsed() > TURN {
                    over.store(true, Ordering::Relaxed);
                }
            }
            Work { operations, processor: clock.elapsed(), wall: start.elapsed() }
        })
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|number| scope.spawn(move || work(number))).collect();
        threads.into_iter().map(|thread| thread.join().expect("it does not panic")).collect()
    })
}

fn main() {
    // `--test` and its kind ask for the build only.
    if std::env::args().skip(1).any(|argument| argument != "--bench") {
        return;
    }
    if count() < 2 {
        println!("contention: not measured, as there is one processor");
        return;
    }
    println!("\n## Two threads beside one\n\nMedians of {TURNS} turns, and the middle eight tenths.\n");
    println!("| at full speed | one thread, each | two, each | throughput by processor time | by wall clock | bar |");
    println!("|---|---|---|---|---|---|");
    for Row { what, operation, bar } in ROWS {
        let mut samples = [const { Samples::new() }; 4];
        for number in 0..TURNS {
            let alone = &turn(1, operation)[0];
            let both = turn(2, operation);
            let together = both.iter().map(Work::each).sum::<f64>() / 2.0;
            let speed: f64 = both.iter().map(Work::speed).sum();
            // The first turn warms up.
            if number > 0 {
                let figures = [alone.each(), together, 2.0 * alone.each() / together, speed / alone.speed()];
                samples.iter_mut().zip(figures).for_each(|(samples, figure)| samples.push(figure));
            }
        }
        let [alone, together, throughput, wall] = samples;
        let range = |samples: &Samples| {
            format!("{:.2} ({:.2} to {:.2})", samples.median(), samples.quantile(0.1), samples.quantile(0.9))
        };
        let (alone, together) = (alone.median(), together.median());
        let (throughput, wall) = (range(&throughput), range(&wall));
        println!("| {what} | {alone:.1} ns | {together:.1} ns | {throughput} | {wall} | {bar} |");
    }
}
