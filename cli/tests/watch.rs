//! `exeunt watch`: rows of threads of a C program, and what must be as without it.
//!
//! An emulator of user programs cannot execute the program that is to be watched.
#![cfg(all(target_os = "linux", target_env = "gnu", target_arch = "x86_64"))]

mod common;
#[path = "common/filter.rs"]
mod filter;
#[path = "common/glibc.rs"]
mod glibc;

use common::{exeunt, text};
use glibc::glibc_minor;
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

const FOLDER: &str = env!("CARGO_TARGET_TMPDIR");

/// Compiles `tests/watched/ends.c` into a program with this name.
fn compile(name: &str, arguments: &[&str]) -> PathBuf {
    compile_from("ends.c", name, arguments)
}

fn compile_from(source: &str, name: &str, arguments: &[&str]) -> PathBuf {
    let program = Path::new(FOLDER).join(name);
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let compiler = cc::Build::new().target(&target).host(&target).opt_level(0).cargo_metadata(false).get_compiler();
    let source = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/watched")).join(source);
    let mut command = compiler.to_command();
    // Before 2.34 glibc has timers in a library of their own.
    command.args(["-pthread", "-o"]).arg(&program).arg(source).arg("-lrt").args(arguments);
    assert!(command.status().expect("a compiler").success());
    program
}

fn ends() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| compile("watched-ends", &[]))
}

/// Runs `exeunt watch OPTIONS -- ends HOW`, and reads the rows from the file that they go to.
fn watch(how: &str, options: &[&str]) -> (Output, String) {
    watch_prepared(how, options, |_| ())
}

fn watch_prepared(how: &str, options: &[&str], prepare: impl FnOnce(&mut Command)) -> (Output, String) {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let rows = Path::new(FOLDER).join(format!("watched-rows-{}", NUMBER.fetch_add(1, Relaxed)));
    let mut command = exeunt();
    command.arg("watch").args(options).arg("--output").arg(&rows).arg("--").arg(ends()).arg(how);
    prepare(&mut command);
    let output = command.output().expect("the program starts");
    (output, std::fs::read_to_string(rows).expect("the rows are there"))
}

/// The stacks and the process.
fn json(how: &str) -> (Output, Vec<Value>, Value) {
    let (output, rows) = watch(how, &["--json"]);
    let mut rows: Vec<Value> = rows.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let process = rows.pop().expect("a last line")["process"].take();
    // They come as they end.
    rows.sort_by_key(|row| row["id"].as_u64());
    (output, rows, process)
}

fn count(rows: &[Value], how: &str) -> usize {
    rows.iter().filter(|row| row["end"]["how"] == how).count()
}

/// Those whose entry function is over.
fn ended(rows: &[Value]) -> usize {
    let ends = ["returned", "pthread_exit", "cancelled", "exit", "unwound", "ended"];
    ends.iter().map(|how| count(rows, how)).sum()
}

#[test]
fn output_and_status_are_as_without_it() {
    for how in ["return", "pthread_exit", "_exit", "thread", "abort", "many", "daemon", "environment", "errno", "small"]
    {
        let alone = Command::new(ends()).arg(how).env_remove("LD_PRELOAD").output().expect("the program starts");
        let (watched, rows) = watch(how, &[]);
        assert_eq!(watched.status.code(), alone.status.code(), "{how}: {rows}");
        assert_eq!(watched.status.signal(), alone.status.signal(), "{how}: {rows}");
        // A shell sets `_`, cargo nothing that differs.
        assert_eq!(text(&watched), text(&alone), "{how}");
        assert_eq!(watched.stderr, alone.stderr, "{how}");
    }
}

#[test]
fn each_thread_has_a_row_that_says_what_it_was() {
    let (_, rows, process) = json("return");
    assert_eq!(process["status"], 3);
    assert_eq!(process["stacks"], rows.len());
    let found: Vec<(&str, &str, &str)> = rows
        .iter()
        .map(|row| {
            let by = row["started_by"]["function"].as_str().unwrap_or("nobody");
            (row["entry"].as_str().expect("a name"), row["kind"].as_str().expect("a kind"), by)
        })
        .collect();
    assert_eq!(
        found,
        [
            ("main", "main", "nobody"),
            ("returns", "pthread", "run"),
            ("exits", "pthread", "run"),
            ("goes_deep", "pthread", "run"),
            ("creates", "pthread", "run"),
            ("returns", "pthread", "creates"),
            ("waits", "pthread", "waiting"),
            ("is_c11", "C11", "main"),
            ("waits", "pthread", "waiting"),
        ]
    );
    let tid = |index: usize| &rows[index]["tid"];
    assert_eq!(&rows[1]["started_by"]["tid"], tid(0));
    assert_eq!(&rows[5]["started_by"]["tid"], tid(4));
    assert_eq!(rows[1]["name"], "renamed", "as it was at the end");
    assert_eq!((ended(&rows), count(&rows, "alive")), (8, 1));
}

#[test]
fn each_row_says_how_the_stack_ended() {
    let (_, rows, _) = json("return");
    let found: Vec<(&str, Option<i64>)> =
        rows.iter().map(|row| (row["end"]["how"].as_str().expect("a word"), row["end"]["value"].as_i64())).collect();
    assert_eq!(
        found,
        [
            ("returned", Some(3)),
            ("returned", Some(42)),
            ("pthread_exit", Some(43)),
            ("returned", Some(44)),
            ("returned", Some(0)),
            ("returned", Some(0)),
            ("cancelled", None),
            ("returned", Some(7)),
            ("alive", None),
        ]
    );
    let (_, rows, _) = json("pthread_exit");
    assert_eq!(rows[0]["end"]["how"], "pthread_exit", "main");
    let (_, rows, _) = json("_exit");
    assert_eq!(rows[0]["end"]["how"], "ended_process", "main");
    let (_, rows, _) = json("exit");
    assert_eq!(rows[0]["end"]["how"], "exit", "main");
}

/// With a filter stacks are armed, without one the library is called at each thread's end.
#[test]
fn rows_are_the_same_in_a_process_with_a_filter() {
    let rows = |how: &str, prepare: fn(&mut Command)| {
        let (output, rows) = watch_prepared(how, &["--json"], prepare);
        let rows = rows.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
        let mut rows: Vec<(u64, [Value; 4])> = rows
            .filter(|row| !row["id"].is_null())
            .map(|mut row| {
                row["end"]["where"].take();
                let fields = ["entry", "kind", "name", "end"].map(|field| row[field].take());
                (row["id"].as_u64().expect("a number"), fields)
            })
            .collect();
        rows.sort_by_key(|(id, _)| *id);
        (output.status, text(&output).to_owned(), rows)
    };
    for how in ["return", "pthread_exit", "exit", "_exit", "thread", "many", "small", "daemon"] {
        assert_eq!(rows(how, filter::add), rows(how, |_| ()), "{how}");
    }
}

#[test]
fn threads_of_libcs_own_have_rows_as_well() {
    let (_, rows, _) = json("timer");
    let kinds: Vec<&str> = rows.iter().map(|row| row["kind"].as_str().expect("a kind")).collect();
    // Before 2.34 the timers' library is one of its own, and calls `pthread_create` as others do.
    // SAFETY: a constant of libc's.
    let version = unsafe { std::ffi::CStr::from_ptr(libc::gnu_get_libc_version()) }.to_str().expect("a number");
    let minor: u32 = version.split('.').nth(1).and_then(|minor| minor.parse().ok()).expect("a number");
    let kind = if minor < 34 { "pthread" } else { "other" };
    assert!(kinds.len() >= 3 && kinds[0] == "main" && kinds[1..].iter().all(|found| *found == kind), "{kinds:?}");
    for row in &rows[1..] {
        assert_eq!(row["end"]["how"], "alive");
        assert_eq!(row["started_by"] == Value::Null, minor >= 34, "{rows:?}");
    }
}

#[test]
fn a_thread_that_has_not_begun_has_one_row() {
    for _ in 0..5 {
        let (_, rows, _) = json("burst");
        assert_eq!(rows.len(), 65, "{rows:?}");
        assert_eq!(count(&rows, "alive") + count(&rows, "never_ran"), 64, "{rows:?}");
    }
}

#[test]
fn a_thread_with_the_number_of_one_that_is_over_has_its_own_times() {
    let (output, rows, _) = json("again");
    if output.status.code() != Some(5) {
        // No thread could get the number.
        return;
    }
    let last = rows.iter().find(|row| row["end"]["how"] == "ended_process").expect("a row");
    let times = |row: &Value| row["cpu"]["user_us"].as_u64().expect("a number");
    let same: Vec<u64> = rows.iter().filter(|row| row["tid"] == last["tid"]).map(times).collect();
    assert!(same.len() == 2 && same[0] < same[1] / 2, "{rows:?}");
}

#[test]
fn small_stacks_have_room_or_are_left_alone() {
    let (output, rows) = watch("small", &["--json", "--backtrace"]);
    let mut rows: Vec<Value> = rows.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    rows.pop();
    rows.sort_by_key(|row| row["id"].as_u64());
    assert_eq!(output.status.code(), Some(6), "{rows:?}");
    let ends: Vec<&str> = rows.iter().map(|row| row["end"]["how"].as_str().expect("a word")).collect();
    assert_eq!(
        ends[1..],
        ["returned", "pthread_exit", "not_armed", "not_armed", "not_armed", "returned", "not_armed"],
        "{rows:?}"
    );
    let reason = rows[3]["end"]["reason"].as_str().expect("a reason");
    assert!(reason.contains("too small"), "{reason}");
    assert_eq!(rows[7]["stack"]["size"], 16 << 10, "{}", rows[7]);
}

#[test]
fn the_use_of_a_stack_is_a_bound() {
    let (_, rows, _) = json("return");
    let touched = |index: usize| rows[index]["stack"]["touched"].as_u64().expect("a number");
    assert!((1 << 20..2 << 20).contains(&touched(3)), "goes_deep used 1 MiB: {}", rows[3]);
    assert!(touched(2) < 1 << 20, "exits did not: {}", rows[2]);
}

#[test]
fn threads_on_the_same_stack_have_a_use_of_it_each() {
    let (_, rows, _) = json("depths");
    assert_eq!(rows.len(), 16);
    for rows in rows[1..].chunks(5) {
        let touched = |index: usize| rows[index]["stack"]["touched"].as_u64().expect("a number");
        assert!((1 << 20..2 << 20).contains(&touched(0)), "goes_deep used 1 MiB: {}", rows[0]);
        assert!(touched(2) >= 2 << 20, "leaves_a_gap used 2 MiB: {}", rows[2]);
        for index in [1, 3, 4] {
            assert!(touched(index) < 256 << 10, "returns used little: {}", rows[index]);
        }
    }
}

#[test]
fn births_are_ends_and_those_that_were_alive() {
    let (_, rows, process) = json("many");
    assert_eq!((rows.len(), ended(&rows)), (2001, 2001));
    // libc says the first thread's size, the attributes say the others'. Before 2.27 glibc's guard is
    // a part of the latter.
    let size = |row: &Value| row["stack"]["size"].as_u64().expect("a number");
    assert!(rows[2..].iter().all(|row| size(row).abs_diff(size(&rows[1])) <= 64 << 10), "{}", rows[1]);
    assert_eq!(process["complete"], true);
    // `abort` leaves main and one that waits, `exit` in a thread also that thread.
    let (output, rows, _) = json("abort");
    assert_eq!(output.status.signal(), Some(libc::SIGABRT));
    assert_eq!((rows.len(), ended(&rows), count(&rows, "alive")), (9, 7, 2));
    let (_, rows, _) = json("thread");
    assert_eq!((rows.len(), ended(&rows), count(&rows, "alive")), (10, 7, 2));
    assert_eq!(count(&rows, "ended_process"), 1);
}

#[test]
fn refused_threads_use_up_no_rows() {
    let (_, rows, _) = json("refused");
    assert_eq!(rows.len(), 2, "{rows:?}");
    assert_eq!((&rows[1]["id"], &rows[1]["end"]["value"]), (&2.into(), &8.into()));
}

#[test]
fn the_process_is_said_to_have_ended_as_it_has() {
    let (_, rows) = watch("abort", &[]);
    assert!(rows.contains("killed by signal 6 (SIGABRT)") && rows.contains("The program was killed."), "{rows}");
    let (_, rows) = watch("execute", &[]);
    assert!(rows.contains("it executed another one, or"), "{rows}");
    let (_, rows) = watch("return", &[]);
    assert!(!rows.contains("The program"), "{rows}");
    assert!(rows.contains("; 9 threads: 8 ended, 1 still ran; CPU "), "{rows}");
    let (_, rows) = watch("small", &["--live"]);
    assert!(rows.contains("; 8 threads: 3 ended, 1 still ran, 4 not armed; CPU "), "{rows}");
    assert!(rows.trim_end().ends_with(" of it in the rows above"), "{rows}");
}

#[test]
fn a_path_may_be_long() {
    let folder = Path::new(FOLDER).join("long-".repeat(40)).join("path-".repeat(40));
    std::fs::create_dir_all(&folder).expect("a folder");
    let program = folder.join("ends");
    std::fs::copy(ends(), &program).expect("a file");
    let output = exeunt().args(["watch", "--"]).arg(program).arg("eight").output().expect("the program starts");
    let rows = String::from_utf8_lossy(&output.stderr);
    assert!(rows.contains(" returns ") && !rows.contains("ends+0x"), "{rows}");
}

#[test]
fn rows_are_sorted_and_cut() {
    let (_, rows) = watch("return", &["--sort", "stack", "--top", "2"]);
    let first = rows.lines().nth(3).expect("a row");
    assert!(first.contains("goes_deep") && first.contains("returned 44"), "{rows}");
    assert_eq!(rows.lines().last(), Some("2 of 9 threads"), "{rows}");
    assert_eq!(rows.lines().count(), 3 + 2 + 1, "{rows}");
}

#[test]
fn a_summary_has_a_row_for_each_entry_function() {
    let (_, rows) = watch("many", &["--summary"]);
    let words: Vec<&str> = rows.lines().nth(3).expect("a row").split_whitespace().collect();
    assert_eq!(words[..4], ["returns", "2000", "2000", "1"], "never two at once: {rows}");
    assert!(rows.lines().nth(4).expect("a row").starts_with("main "), "{rows}");
    assert_eq!(rows.lines().count(), 5, "{rows}");
}

#[test]
fn rows_come_while_the_program_runs() {
    for (option, row) in [("--live", "returns"), ("--json", "\"entry\":\"returns\"")] {
        let mut command = exeunt();
        command.args(["watch", option, "--"]).arg(ends()).arg("one").stdin(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.stdout(Stdio::null()).spawn().expect("the program starts");
        let mut rows = BufReader::new(child.stderr.take().expect("a pipe")).lines();
        let found = rows.by_ref().map(|line| line.expect("a line")).find(|line| line.contains(row));
        assert!(found.is_some(), "{option}");
        // The program ends when this closes, which is after the row was read.
        drop(child.stdin.take());
        let rest: Vec<String> = rows.map(|line| line.expect("a line")).collect();
        assert_eq!(rest.iter().filter(|line| line.contains(row)).count(), 0, "once: {rest:?}");
        assert!(rest.iter().any(|line| line.contains("main")), "{rest:?}");
        assert_eq!(child.wait().expect("the program ends").code(), Some(0));
    }
}

#[test]
fn a_trace_has_a_track_for_each_stack_and_an_arrow_for_each_birth() {
    let path = Path::new(FOLDER).join("watched.trace");
    watch("return", &["--trace", path.to_str().expect("a path")]);
    let trace: Value = serde_json::from_str(&std::fs::read_to_string(path).expect("a file")).expect("JSON");
    let events = trace["traceEvents"].as_array().expect("a list");
    let phase = |phase: &str| events.iter().filter(|event| event["ph"] == phase).collect::<Vec<_>>();
    let slice = |track: &Value| *phase("X").iter().find(|event| event["tid"] == *track).expect("a slice");
    let number = |value: &Value| value.as_f64().expect("a number");
    assert_eq!((phase("X").len(), phase("s").len(), phase("f").len()), (9, 8, 8));
    for (from, to) in phase("s").into_iter().zip(phase("f")) {
        assert_eq!(from["id"], to["id"]);
        // Readers attach an arrow's end to the slice that is there at that time.
        for end in [from, to] {
            let slice = slice(&end["tid"]);
            let since = number(&end["ts"]) - number(&slice["ts"]);
            assert!((0.0..=number(&slice["dur"])).contains(&since), "{end} {slice}");
        }
    }
    let inner =
        phase("f").into_iter().find(|event| slice(&event["tid"])["args"]["started_by"]["function"] == "creates");
    let inner = inner.expect("the thread that `creates` creates");
    let outer = phase("s").into_iter().find(|event| event["id"] == inner["id"]).expect("its other end");
    assert_eq!(slice(&outer["tid"])["name"], "creates");
}

#[test]
fn a_backtrace_says_where_a_stack_was_created() {
    let (_, rows) = watch("return", &["--backtrace", "--json"]);
    let rows: Vec<Value> = rows.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let inner = rows.iter().find(|row| row["started_by"]["function"] == "creates").expect("a row");
    // What is beyond the entry function is libc's.
    assert_eq!(inner["created_at"][0], "creates", "{inner}");
    let outer = rows.iter().find(|row| row["entry"] == "goes_deep").expect("a row");
    let frames: Vec<&str> =
        outer["created_at"].as_array().expect("a list").iter().map(|frame| frame.as_str().expect("a name")).collect();
    assert_eq!(frames[..2], ["run", "main"], "{outer}");
    assert!(!frames.iter().any(|frame| frame.contains("exeunt")), "{outer}");
}

#[test]
fn what_the_program_executes_is_followed_if_you_ask() {
    let (_, rows, _) = json("execute");
    assert_eq!(rows.len(), 1, "{rows:?}");
    let (output, rows) = watch("execute", &["--follow", "--json"]);
    assert_eq!((text(&output), output.status.code()), ("8\n", Some(0)));
    let rows: Vec<Value> = rows.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let main = |how: &str| rows.iter().filter(|row| row["entry"] == "main" && row["end"]["how"] == how).count();
    // The program, and what it becomes.
    assert_eq!((main("replaced"), main("returned")), (1, 1), "{rows:?}");
    assert_eq!(rows.iter().filter(|row| row["entry"] == "returns").count(), 1, "{rows:?}");
}

#[test]
fn forked_children_are_followed_if_you_ask() {
    let (output, rows) = watch("daemon", &["--follow", "--json"]);
    assert_eq!((text(&output), output.status.code()), ("8\n", Some(6)));
    let mut rows: Vec<Value> = rows.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let process = rows.pop().expect("a last line");
    assert_eq!(process["process"]["stacks"], 3, "{rows:?}");
    let child = rows.iter().find(|row| row["kind"] == "fork").expect("a row");
    assert_ne!(child["process"], rows.iter().find(|row| row["kind"] == "main").expect("main")["process"]);
    assert_eq!((&child["entry"], &child["end"]["how"]), (&"main".into(), &"exit".into()));
    let thread = rows.iter().find(|row| row["entry"] == "returns").expect("a row");
    assert_eq!((&thread["process"], &thread["started_by"]["id"]), (&child["process"], &child["id"]));
}

#[test]
fn cpu_times_add_up() {
    let (_, rows, process) = json("busy");
    let sum = |of: &Value| of["user_us"].as_f64().expect("a number") + of["system_us"].as_f64().expect("a number");
    let (rows, all) = (rows.iter().map(|row| sum(&row["cpu"])).sum::<f64>(), sum(&process));
    assert!(all > 200_000.0, "the threads compute: {all}");
    // 2%, and what no code of the process can see: the kernel's work before its first instruction
    // and after its last, some milliseconds for a process with a few threads.
    assert!((all - rows).abs() < 0.02 * all + 10_000.0, "rows {rows}, process {all}");
}

#[test]
fn a_program_whose_allocator_is_locked_during_fork_forks() {
    let program = compile_from("allocator.c", "watched-allocator", &[]);
    let watched = exeunt().args(["watch", "--output", "/dev/null", "--"]).arg(program).output().expect("it starts");
    assert_eq!(text(&watched), "3\n", "{watched:?}");
}

#[test]
fn a_child_by_fork_goes_on_unwatched() {
    let (output, rows, _) = json("daemon");
    assert_eq!(text(&output), "8\n", "the child's");
    assert_eq!(output.status.code(), Some(6));
    assert_eq!(rows.len(), 1, "{rows:?}");
}

#[test]
fn a_child_by_a_bare_system_call_writes_no_rows() {
    let (output, rows, _) = json("bare fork");
    assert_eq!((text(&output), output.status.code()), ("8\n", Some(6)));
    assert_eq!((rows.len(), &rows[0]["end"]["value"]), (1, &6.into()), "{rows:?}");
}

#[test]
fn the_programs_choice_of_a_redirect_is_its_own() {
    let mut command = exeunt();
    command.args(["watch", "--"]).arg(ends()).arg("eight").env("EXEUNT_REDIRECT", "another");
    let output = command.output().expect("the program starts");
    let rows = String::from_utf8_lossy(&output.stderr);
    assert!(rows.contains("returned 8") && !rows.contains("not armed"), "{rows}");
}

#[test]
fn signals_are_passed_on() {
    let mut command = exeunt();
    command.arg("watch").arg("--").arg(ends()).arg("signal").stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().expect("the program starts");
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("a pipe")).read_line(&mut line).expect("a line");
    assert_eq!(line, "ready\n");
    // SAFETY: the process is this test's child and was not waited for.
    assert_eq!(unsafe { libc::kill(child.id() as i32, libc::SIGTERM) }, 0);
    assert_eq!(child.wait().expect("the program ends").code(), Some(9), "the program's handler ran");
}

#[test]
fn ignored_signals_stay_ignored_and_others_do_not_become_so() {
    let signals = [libc::SIGPIPE, libc::SIGCHLD, libc::SIGHUP];
    let all: u64 = signals.iter().map(|signal| 1 << (signal - 1)).sum();
    for (disposition, ignored) in [(libc::SIG_IGN, all), (libc::SIG_DFL, 0)] {
        let mut command = exeunt();
        command.args(["watch", "--output", "/dev/null", "--", "cat", "/proc/self/status"]);
        // SAFETY: the closure runs between fork and exec, where `signal` may be called.
        unsafe {
            command.pre_exec(move || {
                for signal in signals {
                    libc::signal(signal, disposition);
                }
                Ok(())
            });
        }
        let output = command.output().expect("the program starts");
        let line = text(&output).lines().find_map(|line| line.strip_prefix("SigIgn:")).map(str::trim);
        let found = u64::from_str_radix(line.expect("a line"), 16).expect("a number");
        assert_eq!((found & all, output.status.code()), (ignored, Some(0)), "{output:?}");
    }
}

#[test]
fn a_reader_that_goes_ends_neither_the_program_nor_its_status() {
    for option in ["--live", "--json"] {
        let mut command = exeunt();
        command.args(["watch", option, "--"]).arg(ends()).arg("one").stdin(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.stdout(Stdio::null()).spawn().expect("the program starts");
        drop(child.stderr.take());
        std::thread::sleep(std::time::Duration::from_millis(100));
        // The program returns whether it could read a byte.
        std::io::Write::write_all(&mut child.stdin.take().expect("a pipe"), b"x").expect("the program is there");
        assert_eq!(child.wait().expect("the program ends").code(), Some(1), "{option}");
    }
}

#[test]
fn a_full_disk_is_told_once() {
    for options in [&["--live"][..], &["--json"], &[], &["--trace", "/dev/full"]] {
        let mut command = exeunt();
        command.arg("watch").args(options).args(["--output", "/dev/full", "--"]).arg(ends()).arg("many");
        let output = command.output().expect("the program starts");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let lines = if options.contains(&"--trace") { 2 } else { 1 };
        assert_eq!((said.lines().count(), output.status.code()), (lines, Some(0)), "{options:?}: {said}");
    }
}

#[test]
fn a_trace_that_cannot_be_written_is_told_before_the_program_starts() {
    let mut command = exeunt();
    command.args(["watch", "--trace", "/no/such/folder/trace", "--"]).arg(ends()).arg("eight");
    let output = command.output().expect("the program starts");
    assert_eq!((text(&output), output.status.code()), ("", Some(125)), "{output:?}");
}

#[test]
fn what_cannot_be_watched_is_refused_in_one_line() {
    let refused = |program: &Path, reason: &str, status: i32| {
        let output = exeunt().arg("watch").arg("--").arg(program).output().expect("the program starts");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains(reason) && said.lines().count() == 1, "{said}");
        assert_eq!(output.status.code(), Some(status), "{said}");
        assert!(output.stdout.is_empty(), "nothing was started");
    };
    let changed = |name: &str, change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = std::fs::read(ends()).expect("the program");
        change(&mut bytes);
        let path = Path::new(FOLDER).join(name);
        std::fs::write(&path, bytes).expect("a file");
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).expect("a mode");
        path
    };
    refused(Path::new("/no/such/program"), "was not found", 127);
    refused(&compile("watched-static", &["-static"]), "static program", 126);
    refused(&changed("watched-foreign", &|bytes| bytes[18] = 40), "another processor", 126);
    refused(&changed("watched-32-bit", &|bytes| bytes[4] = 1), "another processor", 126);
    refused(&changed("watched-text", &|bytes| *bytes = b"echo".to_vec()), "neither an ELF program", 126);
    refused(&changed("watched-script", &|bytes| *bytes = b"#!/no/such\n".to_vec()), "is a script of /no/such", 126);
    let go = compile("watched-go", &["-DLIKE_GO"]);
    refused(&go, "is a Go program", 126);
}

/// `exeunt doctor` has a copy of exeunt of its own, which finds its way in the code that the
/// library has changed.
#[test]
fn a_program_with_its_own_copy_of_exeunt_passes_its_tests_under_each_redirect() {
    // Before glibc 2.34 main ends in two ways. The library has armed it by its foot, so the copy
    // does not find both, and code redirect refuses main.
    let redirects = if glibc_minor() < 34 { &["slot", "auto"][..] } else { &["slot", "auto", "code"] };
    for redirect in redirects {
        let run = |command: &mut Command| {
            let output = command.arg("doctor").env("EXEUNT_REDIRECT", redirect).output().expect("it starts");
            let said = text(&output).lines().last().expect("a line").to_owned();
            (said, output.status.code())
        };
        let alone = run(&mut exeunt());
        let mut watch = exeunt();
        let watch = watch.args(["watch", "--output", "/dev/null", "--", env!("CARGO_BIN_EXE_exeunt")]);
        assert_eq!(run(watch), alone, "{redirect}");
    }
}
