//! The doctor: its report in text and in JSON, and its failure when something is wrong.
#![cfg(target_os = "linux")]

mod common;

use common::{exeunt, text};
use serde_json::Value;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::OnceLock;

fn doctor(arguments: &[&str]) -> Output {
    exeunt().arg("doctor").args(arguments).output().expect("the program starts")
}

/// The text and the JSON of a doctor that finds no problem, for the tests that check them.
fn healthy() -> &'static (Output, Output) {
    static HEALTHY: OnceLock<(Output, Output)> = OnceLock::new();
    HEALTHY.get_or_init(|| (doctor(&[]), doctor(&["--json"])))
}

fn json(output: &Output) -> Value {
    serde_json::from_str(text(output)).unwrap_or_else(|error| panic!("{error} in {}", text(output)))
}

/// The names of the self-tests that failed.
fn failed(report: &Value) -> Vec<&str> {
    let tests = report["self_tests"].as_array().expect("a list");
    assert!(tests.len() >= 10, "{report}");
    let failed = tests.iter().filter(|test| test["passed"] == Value::Bool(false));
    failed.map(|test| test["name"].as_str().expect("a name")).collect()
}

#[test]
fn the_doctor_passes_here_and_says_so() {
    let (output, _) = healthy();
    assert_eq!(output.status.code(), Some(0), "{}", text(output));
    assert!(text(output).trim_end().ends_with("All 11 self-tests passed."), "{}", text(output));
    assert!(!output.stdout.contains(&0x1b), "no escape codes in a pipe");
}

#[test]
fn the_json_has_the_same_content_as_the_text() {
    let (text_output, json_output) = healthy();
    assert_eq!(json_output.status.code(), Some(0), "{}", text(json_output));
    let (text, report) = (text(text_output), json(json_output));
    let string = |value: &Value| value.as_str().expect("a string").to_owned();
    assert_eq!(report["architecture"], std::env::consts::ARCH);
    assert_eq!(report["passed"], Value::Bool(true));
    for fact in [
        format!("exeunt {}", string(&report["exeunt"])),
        format!("{} {}", string(&report["kernel"]["system"]), string(&report["kernel"]["release"])),
        format!("{} {}", string(&report["libc"]["name"]), string(&report["libc"]["version"])),
        string(&report["libc"]["file"]),
        string(&report["shadow_stack"]["found"]),
        string(&report["pointer_authentication"]["found"]),
        string(&report["page_protection"]["found"]),
        string(&report["membarrier"]["found"]),
    ] {
        assert!(text.contains(&fact), "{fact} is not in {text}");
    }
    for found in report["exit_trampolines"].as_array().expect("a list") {
        // Addresses differ between two processes. The offset of an exit trampoline in its file does
        // not.
        let place = format!("{}+{}", string(&found["file"]), string(&found["offset"]));
        let line = text.lines().find(|line| line.contains(&place)).unwrap_or_else(|| panic!("{place}: {text}"));
        assert!(line.contains(&string(&found["kind"])) && line.contains(&string(&found["name"])), "{line}");
    }
    for test in report["self_tests"].as_array().expect("a list") {
        let line = format!("passed  {:23} {}", string(&test["name"]), string(&test["about"]));
        assert!(text.contains(&line), "{line} is not in {text}");
    }
}

#[test]
fn the_exit_trampolines_of_all_kinds_are_recognised_in_libc() {
    let report = json(&healthy().1);
    let string = |value: &Value| value.as_str().expect("a string").to_owned();
    let libc = PathBuf::from(string(&report["libc"]["file"]));
    // Before glibc 2.34 threads were in a separate library, beside libc.
    let version = string(&report["libc"]["version"]);
    let minor: u32 = version.split('.').nth(1).and_then(|minor| minor.parse().ok()).expect("a version");
    let found = report["exit_trampolines"].as_array().expect("a list");
    // `main`'s is `__libc_start_main` before 2.34, and `__libc_start_call_main` since.
    for (kind, name) in [("thread", "start_thread"), ("fiber", "__start_context"), ("main", "__libc_start_")] {
        let it = found.iter().find(|it| it["kind"] == kind && string(&it["name"]).starts_with(name));
        let it = it.unwrap_or_else(|| panic!("no {name} in {report}"));
        let file = PathBuf::from(string(&it["file"]));
        if kind == "thread" && minor < 34 {
            let library = file.file_name().expect("a file").to_string_lossy();
            assert!(library.starts_with("libpthread") && file.parent() == libc.parent(), "{it}");
        } else {
            assert_eq!(file, libc, "{it}");
        }
        // The outermost frames of a stack of this kind, by unwinding, have the same address in it.
        let outermost =
            report["outermost_frames"].as_array().expect("a list").iter().find(|frames| frames["kind"] == kind);
        let frames = &outermost.expect("a stack of this kind")["frames"];
        assert_eq!(frames[1]["address"], it["address"], "{report}");
        assert_eq!(frames[0]["table"], Value::Bool(true), "{report}");
    }
}

#[test]
fn each_exit_trampoline_is_reported_with_both_redirects_and_the_changes_of_code_redirect() {
    let (text_output, json_output) = healthy();
    let (text, report) = (text(text_output), json(json_output));
    for it in report["exit_trampolines"].as_array().expect("a list") {
        assert_eq!((&it["slot_problem"], &it["code_problem"]), (&Value::Null, &Value::Null), "{it}");
        let sites = it["code_sites"].as_array().expect("a list");
        assert!(!sites.is_empty(), "{it}");
        for site in sites {
            let string = |member: &str| site[member].as_str().expect("a string").to_owned();
            assert!(
                string("before").starts_with(&string("address")) && string("after").starts_with(&string("address"))
            );
            assert_ne!(site["before"], site["after"]);
        }
    }
    assert_eq!(text.matches("code    possible").count(), report["exit_trampolines"].as_array().map_or(0, Vec::len));
}

#[test]
fn all_self_tests_pass_with_code_redirect() {
    let output = exeunt().args(["doctor", "--json"]).env("EXEUNT_REDIRECT", "code").output().expect("it starts");
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
}

#[test]
fn the_json_has_the_members_that_its_description_lists() {
    let report = json(&healthy().1);
    let description = include_str!("../doctor.md");
    let listed: Vec<&str> =
        description.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect();
    let members: Vec<&str> = report.as_object().expect("an object").keys().map(String::as_str).collect();
    let sorted = |mut names: Vec<&'static str>| {
        names.sort_unstable();
        names.join(" ")
    };
    let mut members: Vec<String> = members.into_iter().map(str::to_owned).collect();
    members.sort_unstable();
    assert_eq!(members.join(" "), sorted(listed));
    assert_eq!(report["version"], 1);
    for test in report["self_tests"].as_array().expect("a list") {
        let name = test["name"].as_str().expect("a name");
        assert!(description.contains(&format!("`{name}`")), "{name} is not described");
    }
}

/// Whether the program runs in an emulator, which does not support all system calls.
fn is_emulated() -> bool {
    exeunt().get_program() != env!("CARGO_BIN_EXE_exeunt")
}

/// A C library, compiled here, to be loaded before libc.
fn preload(name: &str, code: &str) -> PathBuf {
    let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let (source, library) = (directory.join(format!("{name}.c")), directory.join(format!("{name}.so")));
    std::fs::write(&source, code).expect("a source file");
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    // Under an emulator this is a cross compilation, although this program was built for the
    // target.
    let host = if is_emulated() { "x86_64-unknown-linux-gnu" } else { &target };
    let compiler = cc::Build::new().target(&target).host(host).opt_level(0).cargo_metadata(false).get_compiler();
    let status =
        compiler.to_command().args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source).status().expect("a compiler");
    assert!(status.success());
    library
}

fn preloaded(library: &PathBuf, arguments: &[&str]) -> Output {
    exeunt().arg("doctor").args(arguments).env("LD_PRELOAD", library).output().expect("the program starts")
}

#[test]
fn one_end_that_does_not_work_fails_its_self_test_and_no_other() {
    // A cancellation that ends the thread in another way: the joiner does not get PTHREAD_CANCELED.
    let library = preload(
        "cancellation",
        "#define _GNU_SOURCE\n#include <pthread.h>\n#include <signal.h>\n\
         static void leave(int signal) { (void)signal; pthread_exit((void *)5); }\n\
         int pthread_cancel(pthread_t thread) {\n\
             struct sigaction action = {.sa_handler = leave};\n\
             sigaction(SIGUSR1, &action, 0);\n\
             return pthread_kill(thread, SIGUSR1);\n\
         }\n",
    );
    let output = preloaded(&library, &["--json"]);
    let report = json(&output);
    assert_eq!(failed(&report), ["thread-pthread-cancel"], "{report}");
    assert_eq!(report["passed"], Value::Bool(false));
    assert_eq!(output.status.code(), Some(1));
    let output = preloaded(&library, &[]);
    let said = text(&output);
    assert_eq!(output.status.code(), Some(1));
    assert!(said.contains("FAILED  thread-pthread-cancel") && said.contains("joined: 5"), "{said}");
    assert!(said.trim_end().ends_with("1 of 11 self-tests failed."), "{said}");
}

#[test]
fn a_crash_in_a_self_test_is_a_failure_and_does_not_end_the_doctor() {
    let library =
        preload("crash", "#include <stdlib.h>\nint pthread_cancel(unsigned long thread) { (void)thread; abort(); }\n");
    let output = preloaded(&library, &["--json"]);
    let report = json(&output);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(failed(&report), ["thread-pthread-cancel"], "{report}");
    let tests = report["self_tests"].as_array().expect("a list");
    let crashed = tests.iter().find(|test| test["name"] == "thread-pthread-cancel").expect("the self-test");
    let end = crashed["found"].as_array().and_then(|lines| lines.last()).expect("how it ended");
    assert_eq!(end, &format!("ended by signal {}", libc::SIGABRT));
}

/// Where the system refuses to change the protection of pages, no stack can be armed, and the
/// doctor reports why.
fn assert_that_refused_protection_is_found(output: &Output) {
    let report = json(output);
    assert_eq!(output.status.code(), Some(1), "{report}");
    assert_eq!(failed(&report).len(), report["self_tests"].as_array().expect("a list").len(), "{report}");
    assert_eq!(report["page_protection"]["works"], Value::Bool(false));
    assert_eq!(report["exit_trampolines"], Value::Array(Vec::new()));
    let problem = report["exit_trampolines_problem"].as_str().expect("a problem");
    assert!(problem.contains("could not be made writable"), "{problem}");
}

#[test]
fn a_library_that_refuses_to_protect_pages_is_found() {
    // 64 KiB: the pages that hold the trampolines' data, and not those of a thread's stack.
    let library = preload(
        "mprotect",
        "#include <errno.h>\n#include <sys/syscall.h>\n#include <unistd.h>\n\
         int mprotect(void *start, size_t size, int protection) {\n\
             if (size == 65536) { errno = EACCES; return -1; }\n\
             return syscall(SYS_mprotect, start, size, protection);\n\
         }\n",
    );
    assert_that_refused_protection_is_found(&preloaded(&library, &["--json"]));
}

#[test]
fn a_kernel_that_refuses_to_protect_pages_is_found() {
    if is_emulated() {
        // Written directly, so that the test harness does not capture it: this note must be
        // visible.
        let note = "NOT RUN, a_kernel_that_refuses_to_protect_pages_is_found: this emulator has no seccomp filters\n";
        return std::io::stderr().write_all(note.as_bytes()).expect("standard error is open");
    }
    assert_that_refused_protection_is_found(&under_a_filter(exeunt()));
}

/// Runs `doctor --json` under a seccomp filter that refuses `mprotect` of exactly 64 KiB.
fn under_a_filter(mut command: Command) -> Output {
    const LOAD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
    const JUMP_IF_EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
    const RETURN: u16 = 0x06; // BPF_RET | BPF_K
    let step = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let number = u32::try_from(libc::SYS_mprotect).expect("a small number");
    // Offsets in `struct seccomp_data`: the number at 0, the low half of the second argument at 24.
    let filter = [
        step(LOAD, 0, 0, 0),
        step(JUMP_IF_EQUAL, 0, 3, number),
        step(LOAD, 0, 0, 24),
        step(JUMP_IF_EQUAL, 0, 1, 65536),
        step(RETURN, 0, 0, libc::SECCOMP_RET_ERRNO | libc::EACCES as u32),
        step(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let install = move || {
        let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut() };
        // SAFETY: two system calls on this child process alone; the kernel copies the filter.
        let done = unsafe {
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
                && libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program, 0, 0) == 0
        };
        if done { Ok(()) } else { Err(std::io::Error::last_os_error()) }
    };
    command.args(["doctor", "--json"]);
    // SAFETY: between fork and exec only system calls are made.
    unsafe { command.pre_exec(install) };
    command.output().expect("the program starts under the filter")
}

#[test]
fn help_names_the_commands_and_a_mistake_is_status_2() {
    let help = exeunt().arg("--help").output().expect("the program starts");
    assert!(help.status.success());
    assert!(text(&help).contains("doctor") && text(&help).contains("NO_COLOR"), "{}", text(&help));
    let help = exeunt().args(["doctor", "--help"]).output().expect("the program starts");
    assert!(text(&help).contains("--json") && text(&help).contains("Exit status"), "{}", text(&help));
    assert_eq!(exeunt().arg("dctor").output().expect("the program starts").status.code(), Some(2));
}
