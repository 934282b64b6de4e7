//! `exeunt watch`: threads that libc starts itself, and that end before the process does.
#![cfg(all(target_os = "linux", target_env = "gnu", target_arch = "x86_64"))]

mod common;
#[path = "common/filter.rs"]
mod filter;
#[path = "common/glibc.rs"]
mod glibc;

use common::{exeunt, text};
use glibc::glibc_minor;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("watched-libcs");
        let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
        let compiler = cc::Build::new().target(&target).host(&target).opt_level(0).cargo_metadata(false).get_compiler();
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/watched/libcs.c");
        let mut command = compiler.to_command();
        // Before 2.34 glibc has these in libraries of their own.
        command.args(["-pthread", "-o"]).arg(&program).arg(source).args(["-lrt", "-lanl"]);
        assert!(command.status().expect("a compiler").success());
        program
    })
}

/// Whether the threads of timers, of `aio` and of look-ups come by a call to `pthread_create` that the
/// library stands in for: before 2.34 they do, as that function is in another file than theirs.
fn is_old() -> bool {
    glibc_minor() < 34
}

/// The command that watches the program, and its rows but for main's. None: this system has no message
/// queues.
fn rows(how: &str, prepare: impl FnOnce(&mut Command)) -> Option<Vec<Value>> {
    let mut command = exeunt();
    command.args(["watch", "--json", "--"]).arg(program()).arg(how);
    prepare(&mut command);
    let watched = command.output().expect("the program starts");
    let mut alone = Command::new(program());
    let alone = alone.arg(how).env_remove("LD_PRELOAD").output().expect("the program starts");
    assert_eq!((text(&watched), watched.status.code()), (text(&alone), alone.status.code()), "{how}: {watched:?}");
    if alone.status.code() == Some(77) {
        eprintln!("NOT RUN: this system has no message queues");
        return None;
    }
    let said = String::from_utf8(watched.stderr).expect("UTF-8");
    let mut rows: Vec<Value> = said.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let process = rows.pop().expect("a last line");
    let ended = rows.iter().filter(|row| row["end"]["how"] != "alive").count();
    assert_eq!((&process["process"]["stacks"], &process["process"]["ended"]), (&rows.len().into(), &ended.into()));
    rows.retain(|row| row["kind"] != "main");
    rows.sort_by_key(|row| row["tid"].as_u64());
    Some(rows)
}

fn is_filtered() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").expect("a file");
    let filtered = status.lines().any(|line| line.starts_with("Seccomp:") && !line.ends_with('0'));
    if filtered {
        eprintln!("NOT RUN: this process has a seccomp filter, so no code is changed");
    }
    filtered
}

#[test]
fn a_thread_of_libcs_own_has_a_row_that_says_how_it_ended() {
    if is_filtered() {
        return;
    }
    for (how, ended, alive) in
        [("timer", 4, 1), ("aio", 2, 0), ("allocator", 1, 0), ("names", 2, 0), ("queue", 1, 1), ("refused", 1, 0)]
    {
        // Before 2.34 the threads of `aio` begin as the program's do, and get a larger stack.
        if how == "allocator" && is_old() {
            continue;
        }
        let Some(rows) = rows(how, |_| ()) else { continue };
        let ends: Vec<&str> = rows.iter().map(|row| row["end"]["how"].as_str().expect("a word")).collect();
        let count = |word: &str| ends.iter().filter(|end| **end == word).count();
        assert_eq!((ends.len() - count("alive"), count("alive")), (ended, alive), "{how}: {rows:?}");
        // `leaves` of the timer, and libc's own threads for look-ups.
        assert_eq!(count("returned") + count("pthread_exit"), ended, "{how}: {rows:?}");
        for row in rows.iter().filter(|row| row["end"]["how"] != "alive") {
            let number = |value: &Value| value.as_u64().expect("a number");
            let (touched, size) = (number(&row["stack"]["touched"]), number(&row["stack"]["size"]));
            assert!(0 < touched && touched <= size, "{how}: {row}");
            assert!(row["cpu"].is_object(), "{how}: {row}");
            let entry = row["entry"].as_str().expect("a name");
            assert!(!entry.starts_with('(') && !entry.contains("exeunt"), "{how}: {row}");
            if !is_old() {
                assert_eq!((&row["kind"], &row["started_by"]), (&"other".into(), &Value::Null), "{how}: {row}");
            }
        }
        if how == "timer" {
            let left = rows.iter().filter(|row| row["end"]["how"] == "pthread_exit").collect::<Vec<_>>();
            assert_eq!((left.len(), &left[0]["end"]["value"]), (1, &9.into()), "{rows:?}");
        }
    }
}

#[test]
fn a_thread_that_is_there_when_the_process_ends_has_one_row() {
    if is_filtered() {
        return;
    }
    for _ in 0..10 {
        let watched = exeunt().args(["watch", "--json", "--"]).arg(program()).arg("late").output().expect("it starts");
        let calls: usize = text(&watched).trim().parse().expect("a number");
        let said = String::from_utf8(watched.stderr).expect("UTF-8");
        let rows: Vec<Value> = said.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        // A thread that has not run yet has the number 0.
        let mut tids: Vec<u64> = rows.iter().filter_map(|row| row["tid"].as_u64()).filter(|&tid| tid != 0).collect();
        let all = tids.len();
        tids.sort_unstable();
        tids.dedup();
        assert_eq!(tids.len(), all, "{said}");
        // Main, and the thread that starts the others.
        assert!(all >= calls + 2, "{all} rows for {calls} calls: {said}");
    }
}

#[test]
fn threads_of_libcs_own_leave_half_the_rows_to_those_of_the_program() {
    if is_filtered() || is_old() {
        return;
    }
    let mut command = exeunt();
    let watched = command.args(["watch", "--top", "1", "--"]).arg(program()).arg("full").output().expect("it starts");
    assert_eq!(text(&watched), "1\n", "{watched:?}");
    let said = String::from_utf8(watched.stderr).expect("UTF-8");
    assert!(said.contains("Among them: 2 that no known call has created."), "{said}");
}

/// A filter may kill for a call that changes code. So stacks are armed there, and only ends of threads
/// that this library has seen begin are known.
#[test]
fn stacks_are_armed_in_a_process_with_a_filter() {
    let rows = rows("mixed", filter::add).expect("no queue");
    let mut found: Vec<(&str, &str)> = rows
        .iter()
        .map(|row| (row["entry"].as_str().expect("a name"), row["end"]["how"].as_str().expect("a word")))
        .collect();
    found.retain(|(entry, _)| *entry == "joins" || !is_old());
    assert_eq!(found, [("joins", "returned")], "{rows:?}");
}
