//! `exeunt doctor`: what this machine allows, and whether every kind of stack and every end works here.

mod child;
mod outermost;
mod report;
mod self_tests;
mod stacks;

use child::Side;
use report::Report;
use std::process::ExitCode;

/// Runs all self-tests and prints what was found. Successful only if all of them passed.
pub fn run(json: bool) -> ExitCode {
    // First, so that every child starts with a process that has recognised nothing yet, as a program does.
    let mut results = Vec::new();
    for test in self_tests::all() {
        match child::run(test) {
            Side::Parent(result) => results.push(result),
            // A child ends as a program does: main returns.
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
