//! `exeunt watch`: where threads waited when the process ended.
#![cfg(all(target_os = "linux", target_env = "gnu", target_arch = "x86_64"))]

mod common;

use common::{exeunt, text};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Output;

fn waits(name: &str) -> PathBuf {
    let name = format!("watched-waits-{name}-{}", std::process::id());
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let compiler = cc::Build::new().target(&target).host(&target).opt_level(0).cargo_metadata(false).get_compiler();
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/watched/waits.c");
    let status = compiler.to_command().args(["-pthread", "-o"]).arg(&program).arg(source).status();
    assert!(status.expect("a compiler").success());
    program
}

fn watch(program: &Path, option: &str) -> Output {
    exeunt().args(["watch", option, "--"]).arg(program).output().expect("the program starts")
}

#[test]
fn a_thread_that_waited_when_the_process_ended_has_its_call_and_its_functions() {
    let program = waits("all");
    let output = watch(&program, "--json");
    assert_eq!(text(&output), "");
    if output.status.code() == Some(2) {
        eprintln!("NOT RUN: this kernel does not say where a thread waits");
        return;
    }
    let rows = String::from_utf8(output.stderr).expect("UTF-8");
    let rows: Vec<Value> = rows.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let place = |entry: &str| {
        let row = rows.iter().find(|row| row["entry"] == entry).expect("a row");
        assert_eq!(row["end"]["how"], "alive", "{row}");
        let place = &row["end"]["where"];
        let frames: Vec<&str> =
            place["frames"].as_array().expect("frames").iter().filter_map(|frame| frame.as_str()).collect();
        (place["call"].clone(), place["caller"].clone(), frames)
    };
    let (call, caller, frames) = place("waits_for_a_condition");
    assert_eq!((call, caller), ("futex".into(), "waits_for_a_condition".into()), "{frames:?}");
    assert!(frames.iter().any(|frame| frame.contains("pthread_cond_wait")), "{frames:?}");
    let (call, caller, frames) = place("reads_from_a_pipe");
    assert_eq!((call, caller), ("read".into(), "reads".into()), "{frames:?}");
    let output = String::from_utf8(watch(&program, "--backtrace").stderr).expect("UTF-8");
    assert!(output.contains("alive when the process ended, in read of reads\n"), "{output}");
    assert!(output.contains("      in pthread_cond_wait"), "{output}");
    assert!(!output.contains("exeunt_trampoline"), "{output}");
}

#[test]
fn the_call_alone_is_known_where_a_filter_may_kill_the_process() {
    let output = exeunt().args(["watch", "--json", "--"]).arg(waits("filtered")).arg("filter").output();
    let output = output.expect("the program starts");
    if output.status.code() == Some(2) {
        eprintln!("NOT RUN: this kernel does not say where a thread waits");
        return;
    }
    let rows = String::from_utf8(output.stderr).expect("UTF-8");
    assert_eq!(output.status.code(), Some(0), "{rows}");
    let rows: Vec<Value> = rows.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let row = rows.iter().find(|row| row["entry"] == "reads_from_a_pipe").expect("a row");
    assert_eq!((&row["end"]["where"]["call"], row["end"]["where"]["caller"].as_str()), (&"read".into(), None), "{row}");
}
