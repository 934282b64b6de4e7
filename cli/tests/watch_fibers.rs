//! `exeunt watch`: rows of fibers.
#![cfg(all(target_os = "linux", target_env = "gnu", target_arch = "x86_64"))]

mod common;

use common::{exeunt, text};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

const FOLDER: &str = env!("CARGO_TARGET_TMPDIR");

/// The program of `tests/watched/fibers.c`.
fn fibers() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let program = Path::new(FOLDER).join("watched-fibers");
        let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
        let compiler = cc::Build::new().target(&target).host(&target).opt_level(0).cargo_metadata(false).get_compiler();
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/watched/fibers.c");
        let status = compiler.to_command().args(["-pthread", "-o"]).arg(&program).arg(source).status();
        assert!(status.expect("a compiler").success());
        program
    })
}

/// Runs it watched, and compares with a run that is not. Returns its fibers, all rows, and the last
/// line.
fn watch(arguments: &[&str]) -> (Vec<Value>, Vec<Value>, Value) {
    let alone = Command::new(fibers()).args(arguments).env_remove("LD_PRELOAD").output().expect("the program starts");
    let output = exeunt().args(["watch", "--json", "--"]).arg(fibers()).args(arguments).output();
    let output = output.expect("the program starts");
    assert_eq!((text(&output), output.status), (text(&alone), alone.status), "{output:?}");
    let rows = String::from_utf8(output.stderr).expect("UTF-8");
    let mut rows: Vec<Value> = rows.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let process = rows.pop().expect("a last line")["process"].take();
    rows.sort_by_key(|row| row["id"].as_u64());
    (rows.iter().filter(|row| row["kind"] == "fiber").cloned().collect(), rows, process)
}

#[test]
fn each_fiber_has_a_row_that_says_how_it_ended_and_how_often_it_moved() {
    let (fibers, _, process) = watch(&[]);
    let found: Vec<(&str, &str, u64)> = fibers
        .iter()
        .map(|row| {
            let (entry, how) = (row["entry"].as_str().expect("a name"), row["end"]["how"].as_str().expect("a word"));
            (entry, how, row["migrations"].as_u64().expect("a number"))
        })
        .collect();
    assert_eq!(
        found,
        [
            ("goes_deep", "returned", 0),
            ("is_small", "returned", 0),
            ("adds", "returned", 0),
            ("is_next", "returned", 0),
            ("is_first", "returned", 0),
            ("moves", "returned", 2),
            ("creates", "returned", 0),
            ("leaves", "abandoned", 0),
            ("leaves", "abandoned", 0),
            ("leaves", "abandoned", 0),
            ("suspends", "abandoned", 0),
            ("is_first", "returned", 0),
            ("suspends", "alive", 0),
            ("suspends_elsewhere", "abandoned", 0),
            ("never_runs", "never_ran", 0),
        ]
    );
    assert_eq!((&process["complete"], &process["stacks"]), (&true.into(), &18.into()));
}

#[test]
fn a_fibers_row_has_its_stack_and_its_creator() {
    let (fibers, rows, _) = watch(&[]);
    let use_of = |index: usize, what: &str| fibers[index]["stack"][what].as_u64().expect("a number");
    assert!((100 << 10..120 << 10).contains(&use_of(0, "touched")), "goes_deep used 100 KiB: {}", fibers[0]);
    assert_eq!((use_of(0, "size"), use_of(1, "size")), (256 << 10, 8 << 10));
    assert!(fibers.iter().all(|row| row["cpu"].is_null() && row["started_by"]["tid"] == rows[0]["tid"]), "{rows:?}");
    // A thread that a fiber has created.
    let creator = fibers.iter().find(|row| row["entry"] == "creates").expect("a row");
    let thread = rows.iter().find(|row| row["entry"] == "returns").expect("a row");
    assert_eq!((&thread["started_by"]["id"], &thread["started_by"]["function"]), (&creator["id"], &"creates".into()));
}

#[test]
fn a_fiber_may_end_the_process() {
    let (fibers, _, process) = watch(&["exit"]);
    assert_eq!((fibers.len(), &fibers[0]["end"]["how"]), (1, &"ended_process".into()), "{fibers:?}");
    assert_eq!(process["status"], 7);
}

#[test]
fn the_table_has_a_column_for_migrations_if_there_are_fibers() {
    let table = |program: &Path| {
        let output = exeunt().args(["watch", "--"]).arg(program).output().expect("the program starts");
        String::from_utf8(output.stderr).expect("UTF-8")
    };
    let rows = table(fibers());
    let line = rows.lines().find(|line| line.contains("  moves ")).expect("a row");
    assert!(rows.contains("3 threads, 15 fibers: ") && rows.contains("  migrations  "), "{rows}");
    // After two times with their units.
    assert_eq!(line.split_whitespace().nth(10), Some("2"), "{rows}");
    assert!(!table(Path::new("/bin/true")).contains("migrations"));
}
