//! The goals: what a user pays, each beside its peer, with a bar.
//!
//! A *pass* is one process that measures every figure once (`pass.rs`). Processes differ in where
//! their memory happens to lie, so the table has the median over many passes, and the range of the
//! middle eight tenths. `compare.rs` has passes of two builds in turns.

mod compare;
mod pass;

use crate::sample::Samples;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The variable that tells a process which pass it is: `slot`, `code`, `floor`.
const PASS: &str = "EXEUNT_BENCH_PASS";

/// Nanoseconds by the figure's name.
type Figures = BTreeMap<String, f64>;

/// What to reach.
enum Bar {
    /// So many times the peer.
    OfPeer(f64),
    /// Nanoseconds.
    Within(f64),
}

/// A line of the table.
struct Goal {
    what: &'static str,
    /// The names of figures; `""` is none.
    own: &'static str,
    peer: &'static str,
    floor: &'static str,
    bar: Bar,
}

const fn goal(what: &'static str, own: &'static str, peer: &'static str, floor: &'static str, bar: Bar) -> Goal {
    Goal { what, own, peer, floor, bar }
}

const GOALS: &[Goal] = &[
    goal(
        "keyed `set` over a key that is there",
        "keyed set",
        "HashMap of Box<dyn Any>, set",
        "keyed set, floor",
        Bar::OfPeer(1.2),
    ),
    goal("keyed `get`", "keyed get", "HashMap of Box<dyn Any>, get", "keyed get, floor", Bar::OfPeer(0.6)),
    goal(
        "a thread's first `at_exit` and its drain, one processor",
        "life, one",
        "thread_local with a destructor, one",
        "life floor, one",
        Bar::OfPeer(1.5),
    ),
    goal(
        "the same, two processors kept awake",
        "life, awake",
        "thread_local with a destructor, awake",
        "life floor, awake",
        Bar::OfPeer(1.5),
    ),
    goal(
        "the same, processors halted in between",
        "life, halted",
        "thread_local with a destructor, halted",
        "life floor, halted",
        Bar::OfPeer(1.5),
    ),
    goal(
        "a thread from create to join, armed",
        "create to join, armed",
        "create to join, unarmed",
        "",
        Bar::OfPeer(1.02),
    ),
    goal("first use 100 frames deep, a thread", "thread, 100 deep", "", "", Bar::Within(300.0)),
    goal("the same, 1,000 frames", "thread, 1000 deep", "", "thread, 1000 deep, floor", Bar::Within(300.0)),
    goal(
        "first use 100 frames deep, a fiber: each frame",
        "fiber, each of 100 frames",
        "",
        "frame, floor",
        Bar::Within(12.0),
    ),
    goal("the same, 1,000 frames: each frame", "fiber, each of 1000 frames", "", "frame, floor", Bar::Within(12.0)),
    goal("the process's first use, slot redirect", "first use, slot", "", "first use, slot, floor", Bar::Within(200e3)),
    goal("the process's first use, code redirect", "first use, code", "", "first use, code, floor", Bar::Within(1e6)),
    goal(
        "`at_exit` and `unload`, over and over",
        "at_exit and unload",
        "",
        "at_exit and unload, floor",
        Bar::Within(120.0),
    ),
    goal("a refusal", "refusal", "", "", Bar::Within(20e3)),
    goal("`stack_local!` `get` in a loop", "get, loop", "thread_local with a destructor, loop", "", Bar::OfPeer(2.1)),
    goal("the same", "get, loop", "pthread_getspecific, loop", "", Bar::OfPeer(0.4)),
    goal("`stack_local!` `with` in a loop", "with, loop", "thread_local with a destructor, loop", "", Bar::OfPeer(2.1)),
    goal("the same", "with, loop", "pthread_getspecific, loop", "", Bar::OfPeer(0.4)),
    goal(
        "`stack_local!` `get`, once per call",
        "get, call",
        "thread_local with a destructor, call",
        "",
        Bar::OfPeer(1.15),
    ),
    goal(
        "`stack_local!` `with`, once per call",
        "with, call",
        "thread_local with a destructor, call",
        "",
        Bar::OfPeer(1.15),
    ),
];

const USAGE: &str = "usage: goals [--passes N] | goals --against PROGRAM [PAIRS]";

/// Prints the table, or compares this build with another one's program, or is one of the passes.
pub fn run() {
    if let Ok(way) = std::env::var(PASS) {
        return pass::print(&way);
    }
    let arguments: Vec<_> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    let number = |text: &str| text.parse().ok().filter(|&number| number > 0).expect(USAGE);
    match arguments[..] {
        [] => print(15),
        ["--passes", passes] => print(number(passes)),
        ["--against", other] => compare::print(Path::new(other), 15),
        ["--against", other, pairs] => compare::print(Path::new(other), number(pairs)),
        // `--test` and its kind, which Cargo passes to all benchmarks, ask for the build only.
        _ => {}
    }
}

fn this_program() -> PathBuf {
    std::env::current_exe().expect("this program has a path")
}

/// The figures of one pass of a build: a process for each redirect, and one for the floors.
fn measure(program: &Path) -> Figures {
    let mut figures = Figures::new();
    for way in ["slot", "code", "floor"] {
        let mut command = Command::new(program);
        command.env(PASS, way).env("EXEUNT_REDIRECT", if way == "code" { "code" } else { "slot" });
        let output = command.output().expect("the program runs");
        assert!(output.status.success(), "{way}: {}", String::from_utf8_lossy(&output.stderr));
        let output = String::from_utf8(output.stdout).expect("figures are text");
        figures.extend(output.lines().map(|line| {
            let (name, figure) = line.split_once('\t').expect("a name and a figure");
            (name.to_owned(), figure.parse().expect("a number"))
        }));
    }
    figures
}

/// A time in the unit that suits it.
fn time(nanoseconds: f64) -> String {
    match nanoseconds {
        small if small < 100.0 => format!("{small:.2} ns"),
        middle if middle < 10e3 => format!("{middle:.0} ns"),
        large if large < 1e6 => format!("{:.1} µs", large / 1e3),
        huge => format!("{:.2} ms", huge / 1e6),
    }
}

fn range(samples: &Samples) -> String {
    format!("{:.2} to {:.2}", samples.quantile(0.1), samples.quantile(0.9))
}

fn print(passes: usize) {
    let program = this_program();
    let passes: Vec<_> = (0..passes).map(|_| measure(&program)).collect();
    let all = |name: &str| Samples::of(passes.iter().map(|figures| figures[name]));
    println!("\n## Goals\n");
    println!("Medians over {} processes. A ratio is the median of the processes' ratios;", passes.len());
    println!("in brackets the range of the middle eight tenths.\n");
    println!("| what | exeunt | peer | ratio | floor | to reach | reached |\n|---|---|---|---|---|---|---|");
    for Goal { what, own, peer, floor, bar } in GOALS {
        let median = all(own).median();
        let floor = if floor.is_empty() { String::new() } else { time(all(floor).median()) };
        let (theirs, ratio) = if peer.is_empty() {
            (String::new(), String::new())
        } else {
            let ratios = Samples::of(passes.iter().map(|figures| figures[*own] / figures[*peer]));
            (format!("{peer}: {}", time(all(peer).median())), format!("{:.2} ({})", ratios.median(), range(&ratios)))
        };
        let (bar, reached) = match bar {
            Bar::Within(most) => (time(*most), median <= *most),
            Bar::OfPeer(most) => {
                let ratios = Samples::of(passes.iter().map(|figures| figures[*own] / figures[*peer]));
                (format!("{most}"), ratios.median() <= *most)
            }
        };
        let reached = if reached { "yes" } else { "**no**" };
        println!("| {what} | {} | {theirs} | {ratio} | {floor} | {bar} | {reached} |", time(median));
    }
}
