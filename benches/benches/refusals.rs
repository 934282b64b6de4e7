//! What a refusal costs: `cargo bench -p exeunt-benches --bench refusals`. A program that tries to
//! arm every stack pays this for each that cannot be armed, so the bar is 20 µs. The error's text
//! is made when it is printed, and may take longer.

use exeunt_benches::refusal::{on_a_coroutine, refusal};
use exeunt_benches::sample::{Samples, Stopwatch};
use std::cell::RefCell;
use std::hint::black_box;
use std::sync::{Mutex, mpsc};

/// The processor time of making an error's text: the median of some rounds.
fn text() -> f64 {
    let error = exeunt::at_exit(|| ()).expect_err("this stack cannot be armed");
    black_box(error.to_string());
    let mut samples = Samples::default();
    for _ in 0..21 {
        let start = Stopwatch::start();
        black_box(error.to_string());
        samples.push(start.elapsed().as_nanos() as f64);
    }
    samples.median()
}

/// Runs `measure` on a thread whose function has returned.
fn after_a_thread(measure: fn() -> f64) -> f64 {
    type Measure = fn() -> f64;
    struct Late(Option<(mpsc::Sender<f64>, Measure)>);
    impl Drop for Late {
        fn drop(&mut self) {
            if let Some((sender, measure)) = self.0.take() {
                sender.send(measure()).expect("somebody waits");
            }
        }
    }
    thread_local! { static LATE: RefCell<Late> = const { RefCell::new(Late(None)) } }
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || LATE.with_borrow_mut(|late| late.0 = Some((sender, measure)))).join().expect("no panic");
    receiver.recv().expect("the destructor has run")
}

/// Runs `refusal` on as many threads as there are processors: they must not wait for each other.
fn on_many_threads() -> f64 {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let worst = Mutex::new(0.0_f64);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let took = on_a_coroutine(10, refusal);
                let mut worst = worst.lock().expect("nobody panics");
                *worst = worst.max(took);
            });
        }
    });
    worst.into_inner().expect("nobody panics")
}

fn main() {
    println!("\n| a refusal | µs | bar |\n|---|---|---|");
    let row = |what: &str, took: f64, bar: &str| println!("| {what} | {:.2} | {bar} |", took / 1000.0);
    row("on a coroutine that nobody knows, 1 frame deep", on_a_coroutine(1, refusal), "20");
    row("the same, 100 frames deep", on_a_coroutine(100, refusal), "");
    row("the same, 10 frames deep, on all processors at once", on_many_threads(), "20");
    row("after a thread's end", after_a_thread(refusal), "20");
    row("its text, on a coroutine", on_a_coroutine(1, text), "");
}
