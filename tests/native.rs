//! Stacks of C and C++ programs: their starts, their ends, and their entry functions.
#![cfg(target_os = "linux")]

#[path = "c/harness.rs"]
mod harness;

use harness::{Build, Outcome, Program};
use std::sync::OnceLock;

/// The lines of a stack's end, as `tests/c/common.h` arms it.
fn drained(name: &str) -> Vec<String> {
    vec![
        format!("handler of {name}, walk complete, values 1 1"),
        "value two dropped".to_owned(),
        "value one dropped".to_owned(),
    ]
}

/// The lines before a stack's end, those of it, and those after it.
#[track_caller]
fn expect(outcome: &Outcome, status: i32, before: &[&str], name: &str, after: &[&str]) {
    let middle = drained(name);
    let lines: Vec<&str> =
        before.iter().copied().chain(middle.iter().map(String::as_str)).chain(after.iter().copied()).collect();
    outcome.expect(status, &lines);
}

fn ends() -> &'static Program {
    static ENDS: OnceLock<Program> = OnceLock::new();
    ENDS.get_or_init(|| Build::linked("ends.c", &["-O2"]).build())
}

const VALUE: &str = "result 0x1234567890abcdef";
const KEY: &str = "key k destroyed";

#[test]
fn a_pthread_that_returns_drains_once_before_its_keys_and_its_result_arrives() {
    expect(&ends().run_first_and_later(&["thread returns"]), 0, &[], "thread", &[KEY, VALUE]);
}

#[test]
fn a_pthread_that_exits_deep_drains_once_after_its_cleanup_handlers_and_its_result_arrives() {
    let before = ["cleanup inner", "cleanup outer"];
    expect(&ends().run_first_and_later(&["thread exits"]), 0, &before, "thread", &[KEY, VALUE]);
}

#[test]
fn the_same_holds_where_c_unwinds_by_tables() {
    let program = Build::linked("ends.c", &["-O2", "-fexceptions"]).build();
    let before = ["cleanup inner", "cleanup outer"];
    expect(&program.run(&["thread exits"]), 0, &before, "thread", &[KEY, VALUE]);
}

#[test]
fn a_pthread_armed_inside_a_cleanup_region_that_it_leaves_drains_once_when_it_exits() {
    expect(&ends().run_first_and_later(&["thread exits after a region"]), 0, &[], "thread", &[VALUE]);
}

#[test]
fn a_pthread_that_uses_nothing_exits_as_without_exeunt() {
    expect(&ends().run_first_and_later(&["thread exits unarmed"]), 0, &[], "thread", &[KEY, VALUE]);
}

#[test]
fn a_pthread_that_unloads_drops_its_values_and_exits_as_without_exeunt() {
    let lines = ["value two dropped", "value one dropped", "foot of a thread", VALUE];
    ends().run_first_and_later(&["thread exits unloaded"]).expect(0, &lines);
}

#[test]
fn a_c11_thread_that_returns_drains_once_and_its_int_arrives() {
    expect(&ends().run_first_and_later(&["C11 thread returns"]), 0, &[], "C11 thread", &["result -7"]);
}

#[test]
fn a_c11_thread_that_exits_drains_once_and_its_int_arrives() {
    expect(&ends().run_first_and_later(&["C11 thread exits"]), 0, &[], "C11 thread", &["result -7"]);
}

#[test]
fn a_thread_that_libc_started_for_a_callback_drains_when_libc_ends_it() {
    expect(&ends().run_first_and_later(&["callback"]), 0, &[], "callback", &["the library's thread ends"]);
}

#[test]
fn a_c_main_that_returns_drains_once_before_atexit_and_its_status_arrives() {
    expect(&ends().run_first_and_later(&["main returns"]), 42, &[], "main", &["atexit"]);
}

#[test]
fn exit_deep_on_the_main_thread_drains_once_before_atexit_and_its_status_arrives() {
    expect(&ends().run_first_and_later(&["main exits"]), 43, &[], "main", &["atexit"]);
}

#[test]
fn a_handler_of_main_may_exit_and_the_rest_still_runs_once() {
    expect(&ends().run_first_and_later(&["main's handler exits"]), 44, &[], "main", &["atexit"]);
}

#[test]
fn a_main_thread_that_leaves_its_process_running_drains_once() {
    expect(&ends().run_first_and_later(&["main exits its thread"]), 0, &[], "main", &["main is gone"]);
}

#[test]
fn an_exit_that_another_thread_calls_runs_no_handler() {
    ends().run_first_and_later(&["thread exits the process"]).expect(45, &[]);
}

#[test]
fn a_process_that_ends_at_once_runs_no_handler() {
    ends().run_first_and_later(&["main exits at once"]).expect(46, &[]);
}

#[test]
fn handlers_that_panic_are_reported_and_the_others_still_run() {
    let outcome = ends().run_first_and_later(&["handlers panic"]);
    expect(&outcome, 47, &[], "main", &[]);
    assert_eq!(outcome.errors.matches("a handler panics").count(), 2, "{outcome}");
}

/// The entry functions of `tests/c/shapes.c`, and the result of each for its thread: 100, and 3
/// from the inner frames.
const SHAPES: [&str; 8] = ["plain", "realigned", "realigned_vla", "vla", "large", "busy", "tail", "early"];

/// All shapes, compiled with `options`: each drains once, and its result arrives; the feet are
/// `plain` or `signed`.
#[track_caller]
fn expect_shapes(options: &[&str], more: &[&str], foot: &str) {
    let program = Build::linked("shapes.c", options).build();
    let mut outcome = program.run(&[]);
    // A signature has as few as 7 bits. In one process of 128 all of them are zero: each process
    // has keys of its own.
    for _ in 0..4 {
        if foot == "signed" && outcome.output.contains("foot plain") {
            outcome = program.run(&[]);
        }
    }
    let mut lines = Vec::new();
    for shape in SHAPES.iter().chain(more) {
        lines.push(format!("foot {foot}"));
        lines.extend(drained("shape"));
        lines.push(format!("{shape} gave 103"));
    }
    // main is armed last.
    lines.push(format!("foot {foot}"));
    lines.extend(drained("shape"));
    outcome.expect(39, &lines.iter().map(String::as_str).collect::<Vec<_>>());
}

#[test]
fn entry_functions_of_all_shapes_drain_without_optimisation() {
    expect_shapes(&["-O0"], &[], "plain");
}

#[test]
fn entry_functions_of_all_shapes_drain_when_optimised() {
    expect_shapes(&["-O2"], &[], "plain");
}

#[test]
fn entry_functions_of_all_shapes_drain_when_optimised_hard() {
    expect_shapes(&["-O3", "-funroll-loops"], &[], "plain");
}

#[test]
fn entry_functions_of_all_shapes_drain_when_optimised_for_size() {
    expect_shapes(&["-Os"], &[], "plain");
}

#[test]
fn entry_functions_of_all_shapes_drain_without_frame_pointers() {
    expect_shapes(&["-O2", "-fomit-frame-pointer"], &[], "plain");
}

#[test]
fn entry_functions_of_all_shapes_drain_with_frame_pointers() {
    expect_shapes(&["-O2", "-fno-omit-frame-pointer", "-fno-optimize-sibling-calls"], &[], "plain");
}

#[test]
fn entry_functions_of_all_shapes_drain_with_stack_protectors_and_large_probes() {
    expect_shapes(&["-O2", "-fstack-protector-all", "-fstack-clash-protection"], &[], "plain");
}

#[test]
fn entry_functions_of_all_shapes_drain_in_a_static_program() {
    if !harness::has_static_libc() {
        return harness::not_run("entry functions in a static program", "there is no static libc to link");
    }
    expect_shapes(&["-O2", "-static"], &[], "plain");
}

#[test]
fn a_stack_whose_entry_function_jumps_to_another_one_keeps_its_storage_and_drains_once() {
    let onward = ["read 33, local 44, armed 1", "later handler, value 33"].map(str::to_owned);
    let mut lines = Vec::new();
    for (name, first) in [("reads", "read 33"), ("reads_local", "local 44"), ("registers", ""), ("asks", "armed 1")] {
        lines.extend((!first.is_empty()).then(|| first.to_owned()));
        lines.extend(onward.iter().cloned().chain(drained(name)));
        lines.push(format!("{name} gave 100"));
    }
    let tell = |lines: &mut Vec<String>, told: &[&str]| lines.extend(told.iter().map(|line| (*line).to_owned()));
    tell(&mut lines, &["value two dropped", "value one dropped", "unloaded, armed 0", "unloads gave 100"]);
    lines.extend(drained("exits"));
    tell(&mut lines, &["exits gave 100", "read 33"]);
    lines.extend(onward.iter().cloned());
    tell(&mut lines, &["handler of fiber, value 33", "value of the fiber dropped", "the fiber is over"]);
    if cfg!(target_arch = "x86_64") {
        // An abandoned stack is drained when the next one on its memory is armed.
        tell(&mut lines, &["read 33", "the next one reads 0, armed 0", "handler of abandoned, value 0"]);
        tell(&mut lines, &["value of the fiber dropped", "and is armed 1", "later handler, value 0"]);
    }
    let lines: Vec<_> = lines.iter().map(String::as_str).collect();
    let returns: Vec<_> =
        ["read 33".to_owned()].into_iter().chain(onward.iter().cloned()).chain(drained("main")).collect();
    for options in ["-O2", "-O2 -fno-omit-frame-pointer", "-O2 -fomit-frame-pointer"] {
        let options: Vec<_> = options.split(' ').collect();
        let program = Build::linked("onward.c", &options).build();
        program.run(&[]).expect(0, &lines);
        for (end, status, tells) in [("return", 62, &returns), ("exit", 61, &drained("main"))] {
            program.run(&[end]).expect(status, &tells.iter().map(String::as_str).collect::<Vec<_>>());
        }
    }
}

#[test]
fn a_thread_is_armed_whatever_another_one_recognises_during_its_walk() {
    let program = Build::linked("first.c", &["-O1"]).build();
    let mut held_up = 0;
    for look_up in 1..200 {
        let outcome = program.run(&[&look_up.to_string()]);
        if outcome.output.contains("not held up") {
            break;
        }
        outcome.expect(0, &["armed, meanwhile armed"]);
        held_up = look_up;
    }
    assert!((4..199).contains(&held_up), "the walk looks up a table for each frame, and there are {held_up}");
}

#[test]
#[cfg(target_arch = "x86_64")]
fn entry_functions_with_vectors_on_the_stack_drain() {
    if !is_x86_feature_detected!("avx") {
        return harness::not_run("entry functions with vectors on the stack", "this processor has no AVX");
    }
    expect_shapes(&["-O2", "-mavx"], &["vectors"], "plain");
    expect_shapes(&["-O0", "-mavx"], &["vectors"], "plain");
}

#[test]
#[cfg(target_arch = "aarch64")]
fn entry_functions_that_sign_their_return_address_drain_and_the_foot_stays_signed() {
    if !std::arch::is_aarch64_feature_detected!("paca") {
        return harness::not_run("entry functions that sign their return address", "this processor cannot sign");
    }
    expect_shapes(&["-O2", "-mbranch-protection=standard"], &[], "signed");
    expect_shapes(&["-O0", "-mbranch-protection=standard"], &[], "signed");
    expect_shapes(&["-O2", "-mbranch-protection=pac-ret+leaf+b-key"], &[], "signed");
}

#[test]
#[cfg(target_arch = "aarch64")]
fn a_program_that_signs_its_return_addresses_ends_its_stacks_in_all_ways() {
    for protection in ["-mbranch-protection=standard", "-mbranch-protection=pac-ret+b-key"] {
        let program = Build::linked("ends.c", &["-O2", protection]).build();
        expect(&program.run(&["thread returns"]), 0, &[], "thread", &[KEY, VALUE]);
        let before = ["cleanup inner", "cleanup outer"];
        expect(&program.run(&["thread exits"]), 0, &before, "thread", &[KEY, VALUE]);
        let lines = ["value two dropped", "value one dropped", "foot of a thread", VALUE];
        program.run(&["thread exits unloaded"]).expect(0, &lines);
        expect(&program.run(&["main returns"]), 42, &[], "main", &["atexit"]);
        expect(&program.run(&["main exits"]), 43, &[], "main", &["atexit"]);
    }
}

/// The lines of `tests/c/results.c` when all results arrive as they were returned.
const RESULTS: [&str; 10] = [
    "int -123456",
    "pointer 0xfedcba9876543210",
    "float 0x1.4p+0",
    "double -0x1.999999999999ap-4",
    "int128 1122334455667788 99aabbccddeeff00",
    "complex 1.5 -2.5",
    "pair 11 22",
    "mixed 3.5 33",
    "three 1.5 2.5 3.5",
    "large 123456789",
];

#[test]
fn an_entry_functions_result_arrives_unchanged_in_every_kind_of_register() {
    for options in [["-O0"], ["-O2"]] {
        Build::linked("results.c", &options).build().run(&[]).expect(0, &RESULTS);
    }
}

/// The C++ program, where there is a compiler for it. The tests require none but that for C.
fn frames() -> Option<&'static Program> {
    static FRAMES: OnceLock<Option<Program>> = OnceLock::new();
    let build = || {
        if !harness::has_cpp_compiler() {
            harness::not_run("stacks of C++ programs", "no C++ compiler is installed");
            return None;
        }
        Some(Build::linked("frames.cpp", &["-O2", "-std=c++17"]).build())
    };
    FRAMES.get_or_init(build).as_ref()
}

/// The lines after the drain of a thread in `tests/c/frames.cpp`: thread-locals, last made first,
/// and then keys.
const AFTER: [&str; 3] =
    ["thread_local made after arming destroyed", "thread_local made before arming destroyed", "key k destroyed"];

fn after<'a>(last: &[&'a str]) -> Vec<&'a str> {
    AFTER.iter().chain(last).copied().collect()
}

#[test]
fn a_std_thread_of_cpp_drains_before_its_thread_locals_and_keys() {
    let Some(frames) = frames() else { return };
    expect(&frames.run_first_and_later(&["std::thread returns"]), 0, &[], "thread", &after(&[]));
}

#[test]
fn pthread_exit_drains_after_the_frames_and_before_thread_locals_and_keys() {
    let Some(frames) = frames() else { return };
    let before = ["frame of pthread_exit destroyed", "entry function's frame destroyed"];
    expect(&frames.run_first_and_later(&["pthread_exit"]), 0, &before, "thread", &after(&["result 0x55"]));
}

#[test]
fn cancellation_drains_after_the_frames_and_before_thread_locals_and_keys() {
    let Some(frames) = frames() else { return };
    let before = ["frame of pause destroyed", "entry function's frame destroyed"];
    expect(&frames.run_first_and_later(&["pthread_cancel"]), 0, &before, "thread", &after(&["cancelled"]));
}

#[test]
fn the_unwinding_of_pthread_exit_can_be_seen_on_its_way_and_drains_once() {
    let Some(frames) = frames() else { return };
    let before = ["frame of pthread_exit destroyed", "passing by"];
    expect(&frames.run_first_and_later(&["pthread_exit seen"]), 0, &before, "thread", &after(&["result 0x55"]));
}

/// The lines of the same case on a stack that is not armed.
fn unarmed(frames: &Program, case: &str) -> Vec<String> {
    let outcome = frames.run_first_and_later(&[&format!("{case}, unarmed")]);
    assert!(outcome.status.success(), "{outcome}");
    assert!(!outcome.output.is_empty());
    outcome.output.lines().map(str::to_owned).collect()
}

#[test]
fn an_exception_that_the_entry_function_catches_unwinds_as_on_an_unarmed_stack_and_drains_once() {
    let Some(frames) = frames() else { return };
    let before = unarmed(frames, "exception to the outermost frame");
    let before: Vec<&str> = before.iter().map(String::as_str).collect();
    assert_eq!(before.last(), Some(&"caught thrown in the outermost frame"));
    expect(&frames.run_first_and_later(&["exception to the outermost frame"]), 0, &before, "thread", &after(&[]));
}

#[test]
fn exceptions_that_are_caught_half_way_unwind_as_on_an_unarmed_stack_and_drain_once() {
    let Some(frames) = frames() else { return };
    let before = unarmed(frames, "exceptions half-way");
    let before: Vec<&str> = before.iter().map(String::as_str).collect();
    assert_eq!(before.last(), Some(&"caught 5 again"));
    expect(&frames.run_first_and_later(&["exceptions half-way"]), 0, &before, "thread", &after(&[]));
}

#[test]
fn an_uncaught_exception_terminates_as_on_an_unarmed_stack() {
    let Some(frames) = frames() else { return };
    for case in ["uncaught", "uncaught on main"] {
        let armed = frames.run_first_and_later(&[case]);
        let unarmed = frames.run_first_and_later(&[&format!("{case}, unarmed")]);
        assert!(!unarmed.status.success(), "{unarmed}");
        assert!(unarmed.errors.contains("std::runtime_error"), "{unarmed}");
        assert_eq!(armed.status, unarmed.status, "{armed}");
        assert_eq!((armed.output, armed.errors), (unarmed.output, unarmed.errors));
    }
}

#[test]
fn a_rust_panic_passes_cpp_frames_to_the_outermost_frame_and_drains_once() {
    let Some(frames) = frames() else { return };
    let before = ["C++ frame destroyed", "caught: 1"];
    expect(&frames.run_first_and_later(&["panic"]), 0, &before, "thread", &after(&["result (nil)"]));
}
