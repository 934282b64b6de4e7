//! `exeunt doctor`: reports what this machine allows, and tests every kind of stack and every way
//! to end.

mod child;
mod outermost;
mod report;
mod self_tests;

use child::Side;
use report::Report;
use std::process::ExitCode;

/// Runs all self-tests and prints the report. Successful only if all of them passed.
pub fn run(json: bool) -> ExitCode {
    // First, so that every child starts in a process that has not recognised exit trampolines yet,
    // as a program does.
    let mut results = Vec::new();
    for test in self_tests::all() {
        match child::run(test) {
            Side::Parent(result) => results.push(result),
            // A child ends as a program does: `main` returns.
            Side::Child(status) => return status,
        }
    }
    let report = Report::make(results);
    if json {
        report.print_json();
    } else {
        report.print_text();
    }
    if report.passed { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
