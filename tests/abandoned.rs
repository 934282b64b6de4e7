//! Fibers that are suspended for ever while another one uses their memory; and functions that find
//! a stack's foot after the entry function has jumped to another function. All of it concerns
//! aarch64, and holds on x86_64 as well.
#![cfg(target_env = "gnu")]

#[path = "c/harness.rs"]
mod harness;

use harness::{Build, Program};
use std::sync::OnceLock;

fn abandoned() -> &'static Program {
    static ABANDONED: OnceLock<Program> = OnceLock::new();
    ABANDONED.get_or_init(|| Build::linked("abandoned.c", &["-O2"]).build())
}

/// The lines up to where fiber 1 is suspended for ever, and up to where fiber 2 is armed.
const BEGINNING: [&str; 5] = [
    "fiber 1 is armed and reads 31",
    "back from fiber 1",
    "handler of fiber 1 while fiber 2 runs",
    "value of fiber 1 dropped while fiber 2 runs",
    "fiber 2 is armed and reads 32",
];
const END: [&str; 4] = [
    "fiber 2 reads 32 at its end",
    "handler of fiber 2 while fiber 2 runs",
    "value of fiber 2 dropped while fiber 2 runs",
    "back from fiber 2",
];

#[test]
fn a_fiber_with_the_function_of_an_abandoned_one_starts_empty_although_that_one_had_jumped() {
    abandoned().run(&["same function after a jump"]).expect(0, &[&BEGINNING[..], &END].concat());
}

#[test]
fn a_fiber_with_another_function_than_an_abandoned_one_starts_empty() {
    abandoned().run(&["another function"]).expect(0, &[&BEGINNING[..], &END].concat());
}

#[test]
fn an_unload_before_a_fiber_is_armed_does_not_affect_an_abandoned_one_s_storage() {
    let lines = [
        "fiber 1 is armed and reads 31",
        "back from fiber 1",
        "fiber 2 is armed 0, reads 0",
        "back from fiber 2",
        "handler of fiber 1 while fiber 3 runs",
        "value of fiber 1 dropped while fiber 3 runs",
        "fiber 3 is armed and reads 33",
        "fiber 3 reads 33 at its end",
        "handler of fiber 3 while fiber 3 runs",
        "value of fiber 3 dropped while fiber 3 runs",
        "back from fiber 3",
    ];
    abandoned().run(&["another function unloads"]).expect(0, &lines);
}

#[test]
fn a_fiber_on_the_memory_of_one_that_was_abandoned_in_a_handler_starts_empty() {
    let first = ["fiber 1 is armed and reads 31", "first handler of fiber 1"];
    abandoned().run(&["abandoned in a handler"]).expect(0, &[&first[..], &BEGINNING[1..], &END].concat());
}

#[test]
fn an_unload_after_a_jump_restores_the_foot_in_its_new_place() {
    let life = |number: u32| {
        let mut lines = vec![format!("fiber {number} is armed and reads 3{number}")];
        lines.push(format!("value of fiber {number} dropped while fiber {number} runs"));
        lines.push("unloaded, armed 0".to_owned());
        lines.push(format!("fiber {number} is armed and reads 3{number}"));
        lines.push(format!("handler of fiber {number} while fiber {number} runs"));
        lines.push(format!("value of fiber {number} dropped while fiber {number} runs"));
        lines
    };
    let mut lines = life(1);
    lines.push("back from fiber 1".to_owned());
    lines.extend(life(2));
    lines.push("thread gave 100".to_owned());
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    abandoned().run(&["unload after a jump"]).expect(0, &lines);
}

#[test]
fn stack_current_after_a_jump_shows_the_foot_in_its_new_place() {
    let lines = [
        "fiber 1 is armed and reads 31",
        "the foot is in this frame: 1",
        "handler of fiber 1 while fiber 1 runs",
        "value of fiber 1 dropped while fiber 1 runs",
        "back from fiber 1",
    ];
    abandoned().run(&["foot after a jump"]).expect(0, &lines);
}
