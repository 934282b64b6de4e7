//! What exeunt costs, beside what else one would use.
//!
//! `cargo bench -p exeunt-benches` measures everything in one run and ends with a Markdown table of ratios. Loops that
//! can be repeated at will are criterion's (`reads.rs`, `keyed.rs`, `pairs`). What happens once in a stack's life
//! is sampled, life by life, with and without exeunt in turns (`lives.rs`, `functions.rs`, `deeper.rs`). What happens
//! once in a process is asked of child processes (`children.rs`).

mod children;
mod deeper;
mod fiber;
mod functions;
mod keyed;
mod lives;
mod processors;
mod reads;
mod report;
mod sample;

use criterion::Criterion;
use std::time::Duration;

/// Runs all benchmarks, or in a child process the one that it was started for.
pub fn run() {
    if children::run_if_child() {
        return;
    }
    let mut criterion = Criterion::default()
        .without_plots()
        .warm_up_time(Duration::from_millis(150))
        .measurement_time(Duration::from_millis(700))
        .sample_size(50)
        .configure_from_args();
    reads::measure(&mut criterion);
    keyed::measure(&mut criterion);
    lives::measure_pairs(&mut criterion);
    criterion.final_summary();
    // With arguments (a filter, `--test`, `--list`) only criterion's part is asked for.
    if std::env::args().skip(1).any(|argument| argument != "--bench") {
        return;
    }
    report::print();
}
