//! Unloading the library's shared object: the trampoline stays where armed stacks need it.
#![cfg(target_os = "linux")]

#[path = "c/harness.rs"]
mod harness;

use harness::{Build, Outcome, Program, bridge};
use std::sync::OnceLock;

fn unload(case: &str) -> Outcome {
    static UNLOAD: OnceLock<Program> = OnceLock::new();
    let program = UNLOAD.get_or_init(|| Build { source: "unload.c", options: &["-O2"], linked: false }.build());
    let library = bridge().join("libexeunt_bridge.so");
    program.run(&[library.to_str().expect("a path in Unicode"), case])
}

#[test]
fn a_thread_drains_after_the_library_was_closed() {
    unload("thread").expect(0, &["closed", "handler", "value", "joined"]);
}

#[test]
fn a_thread_that_exits_drains_after_the_library_was_closed() {
    unload("thread exits").expect(0, &["closed", "handler", "value", "joined"]);
}

#[test]
fn main_drains_after_the_library_was_closed() {
    unload("main").expect(5, &["closed", "handler", "value"]);
    unload("main exits").expect(6, &["closed", "handler", "value"]);
}

#[test]
fn a_thread_drains_when_another_closes_the_library_meanwhile() {
    unload("another closes").expect(0, &["closed", "handler", "value", "joined"]);
}

#[test]
fn a_library_that_was_closed_can_be_loaded_and_used_again() {
    let once = ["closed", "handler", "value", "joined"];
    unload("twice").expect(0, &[once, once].concat());
}

#[test]
fn a_library_that_was_never_used_can_be_unloaded() {
    unload("unused").expect(0, &["gone"]);
}
