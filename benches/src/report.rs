//! The table.

use crate::children;
use crate::deeper::deeper;
use crate::functions;
use crate::lives::{self, Threads};
use crate::processors;
use crate::reads;
use crate::sample::{clock, loop_time};

/// Measures what criterion does not, and prints all tables.
pub fn print() {
    println!("\n## exeunt and its peers, one run\n");
    println!(
        "Ratios above 1 are losses. Reads: the best of short batches, all peers in turns; keyed: lower quartile; lives: medians.\n"
    );
    println!("| a read | exeunt | peer | ratio | bar |");
    println!("|---|---|---|---|---|");
    let reads = reads::in_turns(100, |_| true);
    let read = |name: &str| reads[name];
    for shape in ["tight", "called"] {
        let how = if shape == "tight" { "in a loop" } else { "one per call" };
        for place in ["thread", "fiber"] {
            for own in ["with", "get"] {
                for (peer, bar) in [
                    ("thread_local with destructor", "1.25"),
                    ("pthread_getspecific", "1.0"),
                    ("thread_local const", ""),
                ] {
                    let mine = read(&format!("{place} {shape} stack_local {own}"));
                    let bar = if place == "thread" { bar } else { "" };
                    let label = format!("`stack_local!` `{own}`, {place}, {how}");
                    row(&label, mine, peer, read(&format!("{place} {shape} {peer}")), bar);
                }
            }
        }
        for own in ["with", "get"] {
            let mine = read(&format!("fiber {shape} stack_local {own}"));
            let thread = read(&format!("thread {shape} stack_local {own}"));
            row(&format!("`stack_local!` `{own}`, fiber, {how}"), mine, "the same on a thread", thread, "1.1");
        }
    }
    for what in ["get", "set"] {
        for peer in ["thread_local HashMap", "thread_local HashMap of any"] {
            let mine = loop_time(&format!("keyed/{what} exeunt"));
            row(&format!("keyed `{what}`"), mine, peer, loop_time(&format!("keyed/{what} {peer}")), "");
        }
    }
    lives();
    places();
    memory();
}

fn row(what: &str, mine: f64, peer: &str, theirs: f64, bar: &str) {
    println!("| {what} | {mine:.2} ns | {peer}: {theirs:.2} ns | {:.2} | {bar} |", mine / theirs);
}

fn lives() {
    println!("\n| a life | ns | bar |");
    println!("|---|---|---|");
    let line = |what: &str, took: f64, bar: &str| println!("| {what} | {took:.0} | {bar} |");
    const TURNS: usize = 10_000;
    let threads = lives::threads(TURNS);
    let on_one = processors::on_one(|| lives::threads(TURNS));
    let kept_awake = processors::kept_awake(|| lives::threads(TURNS));
    for (where_to, bar, threads) in [
        ("all on one processor", "300", &on_one),
        ("processors kept awake", "300", &kept_awake),
        ("processors that sleep in between", "", &threads),
    ] {
        let Threads { at_exit, thread_local, .. } = threads;
        line(&format!("thread, {where_to}: `at_exit`, the stack's first"), at_exit.beginning, "");
        line(&format!("thread, {where_to}: drain"), at_exit.end, "");
        line(&format!("thread, {where_to}: `at_exit` and drain"), at_exit.both(), bar);
        let peer = format!("thread, {where_to}: first use of a `thread_local!` with a destructor, and its end");
        line(&peer, thread_local.both(), "");
        println!("| ratio to that | {:.2} | |", at_exit.both() / thread_local.both());
    }
    let (median, worst) = functions::in_turns(clock());
    line("thread: `at_exit`, the stack's first, from 60 functions in turns: the median", median, "");
    line("thread: the same, from the worst of the 60", worst, "");
    line("thread: `at_exit` and `unload`, over and over", loop_time("arm/at_exit and unload"), "");
    line("`at_exit` on a stack that is armed", loop_time("arm/at_exit, one more"), "");
    line("thread from create to join, without", threads.without, "");
    let more = 100.0 * (threads.with / threads.without - 1.0);
    println!("| the same, armed | {:.0} ({more:+.1}%) | +5% |", threads.with);
    for depth in [1, 10, 100, 1000] {
        let pooled = lives::pooled(depth, 4000);
        let bar = if depth == 1 { "500" } else { "500 and unwinding" };
        line(&format!("pooled fiber, {depth} frames deep: `at_exit`"), pooled.arming, "");
        line(&format!("pooled fiber, {} frames deep: what its life takes longer", pooled.depth), pooled.life, bar);
    }
    let (thread, main) = children::recognition();
    line("once in a process: the first `at_exit`, on a thread", thread, "");
    line("once in a process: the first `at_exit`, on the main thread", main, "");
}

fn places() {
    println!("\n| a read at a new place, ns | frames | first | second | in every frame on the way, each |");
    println!("|---|---|---|---|---|");
    let rows = [
        deeper::<0>(10),
        deeper::<0>(100),
        deeper::<0>(1000),
        deeper::<1024>(10),
        deeper::<1024>(100),
        deeper::<1024>(1000),
    ];
    for row in rows {
        let frames = if row.room == 0 { "small frames" } else { "1 KiB frames" };
        println!("| {frames} | {} | {:.0} | {:.0} | {:.0} |", row.depth, row.first, row.second, row.on_the_way);
    }
}

fn memory() {
    let fibers = children::FIBERS as f64;
    println!(
        "\n| {fibers} armed fibers at once, bytes for each | resident map | reserved map | records | one record |"
    );
    println!("|---|---|---|---|---|");
    for stack in [16 << 10, 64 << 10, 256 << 10] {
        let memory = children::memory(stack);
        println!(
            "| stacks of {} KiB | {:.0} | {:.0} | {:.0} | {} |",
            memory.stack >> 10,
            memory.map / fibers,
            memory.reserved / fibers,
            memory.records / fibers,
            memory.record
        );
    }
}
