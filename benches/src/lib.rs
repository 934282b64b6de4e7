//! What exeunt costs, beside its peers.
//!
//! `cargo bench -p exeunt-benches --bench peers` measures everything in one run and ends with a
//! Markdown table of ratios. criterion runs the loops that can be repeated at will (`reads.rs`,
//! `keyed.rs`, `lives::measure_pairs`). What happens once in a stack's life is sampled, life by
//! life, with and without exeunt in turns (`lives.rs`, `functions.rs`, `deeper.rs`). What happens
//! once in a process is measured in child processes (`children.rs`).

mod children;
mod deeper;
pub mod fiber;
mod floors;
mod functions;
pub mod goals;
mod keyed;
mod lives;
pub mod processors;
mod reads;
pub mod refusal;
mod report;
pub mod sample;

use criterion::Criterion;
use std::time::Duration;

/// Runs all benchmarks, or in a child process the one that the parent started it for.
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
    // Arguments (a filter, `--test`, `--list`) ask for criterion's part only.
    if std::env::args().skip(1).any(|argument| argument != "--bench") {
        return;
    }
    report::print();
}
