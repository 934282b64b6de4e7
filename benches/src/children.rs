//! What happens once in a process, or would change the other figures: measured in child processes.

use crate::fiber::{Fiber, Memory, on_fiber};
use crate::sample::{Samples, since};
use std::process::Command;
use std::time::Instant;

const ROLE: &str = "EXEUNT_BENCH_CHILD";

/// Plays the role that a parent has given to this process. Returns whether there is one.
pub fn run_if_child() -> bool {
    let Ok(role) = std::env::var(ROLE) else { return false };
    match role.split_once(' ') {
        Some(("first", "main")) => print_first(),
        Some(("first", _)) => std::thread::spawn(print_first).join().expect("the thread does not panic"),
        Some((_, size)) => print_memory(size.parse().expect("a size")),
        None => panic!("unknown role {role}"),
    }
    true
}

/// The numbers that a child in this role prints.
fn ask(role: &str) -> Vec<f64> {
    let program = std::env::current_exe().expect("this program has a path");
    let output = Command::new(program).env(ROLE, role).output().expect("this program runs");
    assert!(output.status.success(), "child {role}: {}", String::from_utf8_lossy(&output.stderr));
    let output = String::from_utf8(output.stdout).expect("numbers are text");
    output.split_whitespace().map(|number| number.parse().expect("a number")).collect()
}

fn print_first() {
    let start = Instant::now();
    exeunt::at_exit(|| ()).expect("this stack can be armed");
    println!("{}", since(start));
}

/// What the process's first `at_exit` takes, which recognises the exit trampolines: on a thread and
/// on the main thread.
pub fn recognition() -> (f64, f64) {
    let median = |role| {
        let mut samples = Samples::new();
        for _ in 0..30 {
            samples.push(ask(role)[0]);
        }
        samples.median()
    };
    (median("first thread"), median("first main"))
}

/// How many fibers are armed at once.
pub const FIBERS: usize = 100_000;

/// Bytes of memory that [`FIBERS`] armed fibers need.
pub struct Memories {
    /// From one fiber's stack to the next.
    pub stack: usize,
    /// Resident memory of the stack map, and the address space that it reserves.
    pub map: f64,
    pub reserved: f64,
    /// Resident memory of the records, and the size of one.
    pub records: f64,
    pub record: f64,
}

pub fn memory(stack: usize) -> Memories {
    let numbers = ask(&format!("memory {stack}"));
    let [map, reserved, records, record] = numbers[..] else { panic!("four numbers: {numbers:?}") };
    Memories { stack, map, reserved, records, record }
}

fn resident() -> usize {
    let rollup = std::fs::read_to_string("/proc/self/smaps_rollup").expect("Linux tells");
    let line = rollup.lines().find(|line| line.starts_with("Rss:")).expect("it has this line");
    line.split_whitespace().nth(1).and_then(|number| number.parse::<usize>().ok()).expect("a number") * 1024
}

fn print_memory(stack: usize) {
    let mut memories: Vec<_> = (0..FIBERS).map(|_| Memory::new(stack)).collect();
    for memory in &mut memories {
        memory.touch_top(8 * 1024);
    }
    // One after the other: this uses every entry of the stack map, but few records, the cached
    // ones.
    on_fiber(&mut memories[0], || exeunt::id().expect("a fiber can be armed"));
    let before = resident();
    for memory in &mut memories {
        on_fiber(memory, || exeunt::id().expect("a fiber can be armed"));
    }
    let map = resident() - before;
    // All at once: only the records are new.
    let mut fibers: Vec<_> = memories
        .iter_mut()
        .map(|memory| {
            Fiber::new(memory, |inside| {
                inside.suspend();
                exeunt::id().expect("a fiber can be armed");
                inside.suspend();
            })
        })
        .collect();
    let step = |fibers: &mut Vec<Fiber>, done| {
        for fiber in fibers {
            assert_eq!(fiber.resume(), done);
        }
    };
    step(&mut fibers, false);
    let before = resident();
    step(&mut fibers, false);
    let records = resident() - before;
    let survey = exeunt::survey().expect("it was recognised");
    assert_eq!(survey.armed, FIBERS);
    step(&mut fibers, true);
    assert_eq!(exeunt::survey().expect("it was recognised").armed, 0);
    println!("{map} {} {records} {}", survey.map_reserved, survey.record_size);
}
