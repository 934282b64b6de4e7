//! One pass: each figure of the goals, once.

use super::Figures;
use crate::floors;
use crate::lives;
use crate::processors;
use crate::reads;
use crate::refusal::{on_a_coroutine, refusal};
use crate::sample::{Samples, Stopwatch, since};
use std::any::Any;
use std::cell::RefCell;
use std::collections::HashMap;
use std::hint::black_box;
use std::time::Instant;

/// Prints the figures of this kind of pass.
pub fn print(way: &str) {
    let mut figures = Figures::new();
    match way {
        "slot" => {
            figures.insert("first use, slot".into(), on_a_thread(first_use));
            figures.extend(on_a_thread(loops));
            lifetimes(&mut figures);
            depths(&mut figures);
            figures.insert("refusal".into(), on_a_coroutine(1, refusal));
            read(&mut figures);
        }
        "code" => _ = figures.insert("first use, code".into(), on_a_thread(first_use)),
        "floor" => {
            // The first one, as it is about the process's first thread.
            figures.insert("first use, slot, floor".into(), floors::first_thread());
            figures.insert("first use, code, floor".into(), floors::patch_a_page());
            figures.insert("frame, floor".into(), floors::frame_of_a_walk());
            figures.insert("thread, 1000 deep, floor".into(), floors::known_return_addresses());
        }
        _ => panic!("unknown pass {way}"),
    }
    figures.iter().for_each(|(name, figure)| println!("{name}\t{figure}"));
}

fn on_a_thread<R: Send + 'static>(body: fn() -> R) -> R {
    std::thread::spawn(body).join().expect("it does not panic")
}

fn arm() {
    exeunt::at_exit(|| ()).expect("a thread can be armed");
}

fn first_use() -> f64 {
    let start = Instant::now();
    arm();
    since(start)
}

thread_local! {
    static BOXES: RefCell<HashMap<&'static str, Box<dyn Any>>> = RefCell::default();
}

fn key() -> &'static str {
    black_box("request")
}

type Loop = (&'static str, fn(u64));

/// What can be repeated at will on one stack.
const LOOPS: [Loop; 8] = [
    ("keyed set", |number| exeunt::set(key(), number).expect("a thread can be armed")),
    ("HashMap of Box<dyn Any>, set", |number| {
        black_box(BOXES.with_borrow_mut(|map| map.insert(key(), Box::new(number))));
    }),
    ("keyed set, floor", |number| floors::set(key(), number)),
    ("keyed get", |_| _ = black_box(exeunt::get::<u64>(&key()))),
    ("HashMap of Box<dyn Any>, get", |_| {
        black_box(BOXES.with_borrow(|map| map.get(key()).and_then(|value| value.downcast_ref::<u64>()).copied()));
    }),
    ("keyed get, floor", |_| _ = black_box(floors::get(key()))),
    ("at_exit and unload, floor", |_| {
        let mut foot = 1;
        floors::arm(&mut foot);
        floors::end(&mut foot);
    }),
    // The last one, since it drops the values.
    ("at_exit and unload", |_| {
        arm();
        exeunt::unload().expect("no value is lent");
    }),
];

/// All loops in turns, in short batches. The best tenth of the batches counts, as other work on the
/// machine only adds time.
fn loops() -> Figures {
    const BATCH: u64 = 2000;
    for (number, key) in ["one", "two", "three", "request", "user"].into_iter().enumerate() {
        let number = number as u64;
        exeunt::set(key, number).expect("a thread can be armed");
        floors::set(key, number);
        BOXES.with_borrow_mut(|map| map.insert(key, Box::new(number)));
    }
    let run = |code: fn(u64)| {
        let start = Stopwatch::start();
        (0..BATCH).for_each(code);
        start.elapsed().as_nanos() as f64 / BATCH as f64
    };
    let mut samples = vec![Samples::new(); LOOPS.len()];
    let (last, others) = LOOPS.split_last().expect("there are some");
    for _ in 0..150 {
        for ((_, code), samples) in others.iter().zip(&mut samples) {
            samples.push(run(*code));
        }
    }
    exeunt::unload().expect("no value is lent");
    (0..150).for_each(|_| samples[LOOPS.len() - 1].push(run(last.1)));
    LOOPS.iter().zip(samples).map(|((name, _), samples)| ((*name).into(), samples.quantile(0.1))).collect()
}

fn lifetimes(figures: &mut Figures) {
    const TURNS: usize = 1500;
    let one = processors::on_one(|| lives::threads(TURNS));
    let awake = processors::kept_awake(|| lives::threads(TURNS));
    let halted = lives::threads(TURNS);
    for (place, threads) in [("one", &one), ("awake", &awake), ("halted", &halted)] {
        figures.insert(format!("life, {place}"), threads.at_exit.both());
        figures.insert(format!("thread_local with a destructor, {place}"), threads.thread_local.both());
        figures.insert(format!("life floor, {place}"), threads.least.both());
    }
    figures.insert("create to join, unarmed".into(), halted.without);
    figures.insert("create to join, armed".into(), halted.with);
}

fn depths(figures: &mut Figures) {
    for depth in [100, 1000] {
        figures.insert(format!("thread, {depth} deep"), lives::deep_thread(depth));
        figures.insert(format!("fiber, each of {depth} frames"), lives::pooled(depth, 1000).arming / depth as f64);
    }
}

fn read(figures: &mut Figures) {
    let names = ["stack_local get", "stack_local with", "thread_local with destructor", "pthread_getspecific"];
    let short = ["get", "with", "thread_local with a destructor", "pthread_getspecific"];
    let wanted = |name: &str| name.starts_with("thread ") && names.iter().any(|wanted| name.ends_with(wanted));
    let reads = reads::in_turns(40, wanted);
    for (shape, place) in [("tight", "loop"), ("called", "call")] {
        for (name, short) in names.into_iter().zip(short) {
            figures.insert(format!("{short}, {place}"), reads[&format!("thread {shape} {name}")]);
        }
    }
}
