//! The two redirects beside each other: `cargo bench -p exeunt-benches --bench modes`.
//!
//! A process has one redirect, so child processes of both kinds measure each figure, in turns.
//! Processes differ in where their memory happens to lie, so the median over them counts.

#[path = "../src/sample.rs"]
#[allow(dead_code, reason = "the other benchmarks use more of it")]
mod sample;

use sample::{Samples, Stopwatch, clock, since};
use std::cell::Cell;
use std::hint::black_box;
use std::process::Command;
use std::time::Instant;

exeunt::stack_local! {
    static LOCAL: Cell<u64> = const { Cell::new(1) };
}

const ROLE: &str = "EXEUNT_BENCH_CHILD";
/// Children of each kind.
const CHILDREN: usize = 15;
const THREADS: usize = 4000;

/// What a child measures, in nanoseconds.
const WHAT: [&str; 7] = [
    "the process's first `at_exit`",
    "`stack_local!` `get`, in a loop",
    "keyed `get`, in a loop",
    "`at_exit` and `unload`, over and over",
    "a thread's first `at_exit`",
    "a thread from create to join, armed",
    "a thread from create to join, not armed, while others are",
];

fn main() {
    if std::env::var_os(ROLE).is_some() {
        println!("{}", measure().map(|number| number.to_string()).join(" "));
        return;
    }
    // `--test` and its kind ask for the build only.
    if std::env::args().skip(1).any(|argument| argument != "--bench") {
        return;
    }
    let mut slot = [const { Samples::new() }; WHAT.len()];
    let mut code = slot.clone();
    for _ in 0..CHILDREN {
        for (way, samples) in [("slot", &mut slot), ("code", &mut code)] {
            for (sample, number) in samples.iter_mut().zip(ask(way)) {
                sample.push(number);
            }
        }
    }
    println!("\n## Slot redirect and code redirect\n\nMedians over {CHILDREN} processes of each.\n");
    println!("| what | slot | code | code / slot |\n|---|---|---|---|");
    for ((what, slot), code) in WHAT.iter().zip(&slot).zip(&code) {
        let (slot, code) = (slot.median(), code.median());
        println!("| {what} | {slot:.2} ns | {code:.2} ns | {:.2} |", code / slot);
    }
}

/// What a child process with this redirect measures.
fn ask(way: &str) -> Vec<f64> {
    let program = std::env::current_exe().expect("this program has a path");
    let output = Command::new(program).env(ROLE, "modes").env("EXEUNT_REDIRECT", way).output();
    let output = output.expect("this program runs");
    assert!(output.status.success(), "{way}: {}", String::from_utf8_lossy(&output.stderr));
    let output = String::from_utf8(output.stdout).expect("numbers are text");
    output.split_whitespace().map(|number| number.parse().expect("a number")).collect()
}

fn on_a_thread<R: Send + 'static>(code: impl FnOnce() -> R + Send + 'static) -> R {
    std::thread::spawn(code).join().expect("the thread does not panic")
}

/// Nanoseconds for one turn of a loop: the best of some, since other work on the machine only adds
/// time.
fn turns<R>(count: u32, mut turn: impl FnMut() -> R) -> f64 {
    let run = |turn: &mut dyn FnMut()| {
        let start = Stopwatch::start();
        (0..count).for_each(|_| turn());
        start.elapsed().as_nanos() as f64 / f64::from(count)
    };
    let mut turn = || _ = black_box(turn());
    (0..20).map(|_| run(&mut turn)).fold(f64::INFINITY, f64::min)
}

fn arm() {
    exeunt::at_exit(|| ()).expect("a thread can be armed");
}

fn measure() -> [f64; WHAT.len()] {
    let first = on_a_thread(|| {
        let start = Instant::now();
        arm();
        since(start)
    });
    let local = on_a_thread(|| turns(200_000, || LOCAL.get()));
    let keyed = on_a_thread(|| {
        exeunt::set("key", 1_u64).expect("a thread can be armed");
        turns(100_000, || exeunt::get::<u64>(&"key"))
    });
    let pair = on_a_thread(|| {
        turns(10_000, || {
            arm();
            exeunt::unload().unwrap();
        })
    });
    let (mut arming, mut armed, mut bare) = (Samples::new(), Samples::new(), Samples::new());
    for _ in 0..THREADS {
        let begin = Instant::now();
        arming.push(on_a_thread(|| {
            let start = Instant::now();
            arm();
            since(start)
        }));
        armed.push(since(begin));
        let begin = Instant::now();
        on_a_thread(|| ());
        bare.push(since(begin));
    }
    [first, local, keyed, pair, arming.median() - clock(), armed.median(), bare.median()]
}
