//! `exeunt watch --pid`: rows of processes that run already, and that these go on as without it.
//!
//! The processes are children of the test, which the system lets it trace wherever it allows ptrace
//! at all. An emulator of user programs has no ptrace.
#![cfg(all(target_os = "linux", target_env = "gnu", target_arch = "x86_64"))]

mod common;

use common::{exeunt, text};
use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio};
use std::sync::OnceLock;
use std::thread::sleep;
use std::time::Duration;

const FOLDER: &str = env!("CARGO_TARGET_TMPDIR");

fn compile(name: &str, arguments: &[&str]) -> PathBuf {
    let program = Path::new(FOLDER).join(name);
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let compiler = cc::Build::new().target(&target).host(&target).opt_level(1).cargo_metadata(false).get_compiler();
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/watched/runs.c");
    let mut command = compiler.to_command();
    // Before 2.34 glibc has these in libraries of their own, which the command needs in the program.
    command.args(["-pthread", "-o"]).arg(&program).arg(source).args(["-Wl,--no-as-needed", "-ldl"]).args(arguments);
    assert!(command.status().expect("a compiler").success());
    program
}

fn runs() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| compile("watched-runs", &[]))
}

/// A program that runs. It is killed if the test fails.
struct Running {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Running {
    fn start(command: &mut Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the program starts");
        let (input, output) = (child.stdin.take(), child.stdout.take().expect("a pipe"));
        let mut running = Self { child, input, output: BufReader::new(output) };
        running.ready();
        running
    }

    fn of(how: &str) -> Self {
        Self::start(Command::new(runs()).arg(how))
    }

    fn ready(&mut self) {
        let mut line = String::new();
        self.output.read_line(&mut line).expect("a line");
        assert_eq!(line, "ready\n", "{:?}", self.child.try_wait());
    }

    fn go_on(&mut self) {
        self.input.as_mut().expect("it is open").write_all(b"\n").expect("it reads");
    }

    fn pid(&self) -> String {
        self.child.id().to_string()
    }

    /// Closes its input and waits for it. Returns its status and what it has written.
    fn end(&mut self) -> (Option<i32>, String) {
        self.input = None;
        let mut text = String::new();
        self.output.read_to_string(&mut text).expect("text");
        (self.child.wait().expect("it ends").code(), text)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Without effect if it was waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `exeunt watch --pid`, which has attached.
struct Watch {
    child: Child,
    rows: BufReader<std::process::ChildStderr>,
}

impl Watch {
    /// It prints the headings when it has attached.
    fn attach(pid: &str, options: &[&str]) -> Self {
        let mut command = exeunt();
        command.args(["watch", "--live", "--pid", pid]).args(options).stderr(Stdio::piped());
        let mut child = command.spawn().expect("exeunt starts");
        let mut rows = BufReader::new(child.stderr.take().expect("a pipe"));
        let mut headings = String::new();
        rows.read_line(&mut headings).expect("a line");
        assert!(headings.contains("entry function"), "{headings}");
        Self { child, rows }
    }

    /// Each row's words from the third column on, and the lines behind the rows. It ends by itself.
    fn rows(mut self) -> (Vec<Vec<String>>, String) {
        let mut text = String::new();
        self.rows.read_to_string(&mut text).expect("text");
        assert!(self.child.wait().expect("it ends").success(), "{text}");
        let (rows, rest) = text.split_once("exeunt watch: ").expect("a headline");
        let cells =
            |line: &str| line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).map(Into::into).collect();
        (rows.lines().map(cells).collect(), rest.to_owned())
    }
}

/// Runs `exeunt watch --pid`, which ends by itself.
fn watch(pid: &str, options: &[&str]) -> Output {
    let output = exeunt().args(["watch", "--pid", pid]).args(options).output().expect("exeunt starts");
    assert_eq!(text(&output), "");
    output
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The rows of `--json`, and the process.
fn json(output: &Output) -> (Vec<Value>, Value) {
    assert!(output.status.success(), "{}", said(output));
    let mut rows: Vec<Value> = said(output).lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let process = rows.pop().expect("a last line")["process"].take();
    (rows, process)
}

/// The user time of the process so far, in ticks of 10 ms.
fn ticks(pid: &str) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it is there");
    let fields = stat.rsplit(')').next().expect("fields").split_whitespace();
    fields.skip(11).map(|field| field.parse().expect("a number")).next().expect("a time")
}

/// Of each code mapping of libc's, which before glibc 2.34 is two libraries: what is there.
fn code(pid: &str) -> Vec<Vec<u8>> {
    let memory = std::fs::File::open(format!("/proc/{pid}/mem")).expect("it may be read");
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).expect("it may be read");
    let code =
        maps.lines().filter(|line| (line.contains("/libc") || line.contains("/libpthread")) && line.contains("r-xp"));
    let read = |line: &str| {
        let (start, end) = line.split(' ').next().expect("a range").split_once('-').expect("two numbers");
        let [start, end] = [start, end].map(|word| u64::from_str_radix(word, 16).expect("a number"));
        let mut bytes = vec![0; (end - start) as usize];
        memory.read_exact_at(&mut bytes, start).expect("it is there");
        bytes
    };
    code.map(read).collect()
}

#[test]
fn threads_that_were_there_and_new_ones_have_rows() {
    let mut program = Running::of("ends");
    let watch = Watch::attach(&program.pid(), &[]);
    program.go_on();
    program.ready();
    assert_eq!(program.end(), (Some(7), String::new()));
    let (rows, rest) = watch.rows();
    let ends = |entry: &str| {
        let found: Vec<&str> = rows
            .iter()
            .filter(|row| row.contains(&entry.to_owned()))
            .map(|row| row.last().expect("a cell").as_str())
            .collect();
        found.join(", ")
    };
    assert_eq!(ends("returns"), "returned 1", "{rows:?}");
    assert_eq!(ends("exits"), "pthread_exit 2", "{rows:?}");
    assert_eq!(ends("waits"), "cancelled, alive when the process ended", "{rows:?}");
    assert_eq!(ends("computes"), "returned 4", "{rows:?}");
    assert_eq!(ends("allocates"), "returned 5", "{rows:?}");
    // The thread of the child by `fork` is the child's.
    assert_eq!((ends("new_one"), ends("renamed")), ("returned 7".into(), "returned 7".into()), "{rows:?}");
    assert_eq!(ends("main"), "returned 7", "{rows:?}");
    assert_eq!(rows.len(), 8, "{rows:?}");
    assert!(rest.contains("it has ended; 8 threads: 7 ended, 1 still ran; CPU "), "{rest}");
}

#[test]
fn the_program_is_as_before_when_exeunt_lets_go() {
    let mut program = Running::of("steady");
    let pid = program.pid();
    let before = code(&pid);
    let descriptors = || std::fs::read_dir(format!("/proc/{pid}/fd")).expect("it is there").count();
    let threads = || std::fs::read_dir(format!("/proc/{pid}/task")).expect("it is there").count();
    let counts = (descriptors(), threads());
    for time in 0..3 {
        let watching = Watch::attach(&pid, &[]);
        assert!(code(&pid) != before, "the hook is there");
        let again = watch(&pid, &[]);
        assert_eq!((again.status.code(), said(&again).contains("is watched already")), (Some(126), true));
        program.go_on();
        program.ready();
        // SAFETY: a child of this test that was not waited for.
        unsafe { libc::kill(watching.child.id() as i32, [libc::SIGINT, libc::SIGTERM, libc::SIGHUP][time]) };
        let (rows, rest) = watching.rows();
        assert!(rest.contains("it runs on; 6 threads: 1 ended, 5 run on"), "{rest}");
        assert_eq!(rows.iter().filter(|row| row.last().is_some_and(|end| end == "runs on")).count(), 5, "{rows:?}");
        assert!(rows.iter().any(|row| row.contains(&"returns".into())), "it waits, so its function is known: {rows:?}");
        assert!(code(&pid) == before, "the code is as it was");
        // The thread in it ends now.
        for _ in 0..100 {
            if (descriptors(), threads()) == counts {
                break;
            }
            sleep(Duration::from_millis(10));
        }
        assert_eq!((descriptors(), threads()), counts);
        // Unwatched: nobody misses a row of this one.
        program.go_on();
        program.ready();
    }
    assert_eq!(program.end(), (Some(7), String::new()));
}

#[test]
fn it_lets_go_when_the_time_is_over() {
    let mut program = Running::of("steady");
    // Two threads compute.
    for _ in 0..6000 {
        if ticks(&program.pid()) > 10 {
            break;
        }
        sleep(Duration::from_millis(10));
    }
    let (rows, process) = json(&watch(&program.pid(), &["--json", "--for", "150ms"]));
    let seconds = process["attached"]["seconds"].as_f64().expect("a number");
    assert!((0.15..60.0).contains(&seconds), "{process}");
    assert_eq!((&process["attached"]["over"], &process["watched"], rows.len()), (&false.into(), &true.into(), 5));
    // Since the process's start, as the rows' times are.
    let times: u64 = rows.iter().map(|row| row["cpu"]["user_us"].as_u64().expect("a number")).sum();
    assert!(times > 50_000, "{rows:?}");
    assert_eq!(program.end().0, Some(7));
}

#[test]
fn births_are_ends() {
    let mut program = Running::of("churn");
    let watch = Watch::attach(&program.pid(), &[]);
    for _ in 0..3 {
        program.go_on();
        program.ready();
    }
    assert_eq!(program.end(), (Some(0), String::new()));
    let (rows, rest) = watch.rows();
    assert_eq!(rows.iter().filter(|row| row.contains(&"new_one".into())).count(), 3000, "{rest}");
    assert!(rest.contains("3001 threads: 3001 ended; CPU"), "{rest}");
}

#[test]
fn a_call_that_waits_goes_on() {
    let calls = [
        "read",
        "poll",
        "ppoll",
        "select",
        "pselect",
        "nanosleep",
        "clock_nanosleep",
        "sem",
        "cond",
        "waitpid",
        "msgrcv",
        "join",
        "epoll_wait",
        "sigtimedwait",
        "semtimedop",
        "recv",
    ];
    // Four at a time.
    let lanes = [0, 4, 8, 12].map(|first| {
        std::thread::spawn(move || {
            for call in &calls[first..first + 4] {
                let mut program = Running::of(call);
                sleep(Duration::from_millis(200));
                let output = watch(&program.pid(), &["--for", "50ms"]);
                let (status, text) = program.end();
                assert!(output.status.success(), "{call}: {}", said(&output));
                assert_eq!(status, Some(0), "{text}");
            }
        })
    });
    for lane in lanes {
        lane.join().expect("the calls are fine");
    }
}

#[test]
fn the_program_goes_on_wherever_exeunt_is_killed() {
    let mut program = Running::of("steady");
    let pid = program.pid();
    let mut killed = 0;
    for step in 1..60 {
        let number = step.to_string();
        let mut output = watch(&pid, &["--for", "10ms", "--kill-at", &number]);
        // The library finds out that the last one was killed.
        for _ in 0..1500 {
            if !said(&output).contains("is watched already") {
                break;
            }
            sleep(Duration::from_millis(20));
            output = watch(&pid, &["--for", "10ms", "--kill-at", &number]);
        }
        program.go_on();
        program.ready();
        if output.status.signal() != Some(libc::SIGKILL) {
            assert!(output.status.success(), "step {step}: {}", said(&output));
            break;
        }
        killed += 1;
    }
    assert!((18..59).contains(&killed), "{killed} steps");
    let last = watch(&pid, &["--for", "10ms"]);
    assert!(last.status.success(), "{}", said(&last));
    // The threads of the commands that were killed are none of the program's.
    assert!(said(&last).contains("it runs on; 5 threads: 0 ended, 5 run on"), "{}", said(&last));
    assert_eq!(program.end(), (Some(7), String::new()));
}

#[test]
fn the_watch_is_over_when_the_process_is_killed_or_executes_another_program() {
    let mut program = Running::of("executes");
    let watching = Watch::attach(&program.pid(), &[]);
    program.go_on();
    program.ready();
    let (rows, rest) = watching.rows();
    assert!(rest.contains("it has executed another program; 2 threads: 0 ended, 2 replaced by exec"), "{rest}");
    assert_eq!(rows.len(), 2, "{rows:?}");
    assert_eq!(program.end().0, Some(7));

    let mut program = Running::of("steady");
    let watching = Watch::attach(&program.pid(), &[]);
    program.child.kill().expect("it runs");
    program.child.wait().expect("it ends");
    let (rows, rest) = watching.rows();
    assert!(rest.contains("it has ended; 5 threads: 0 ended, 5 still ran"), "{rest}");
    assert!(rest.contains("The process was killed"), "{rest}");
    assert!(rows.iter().all(|row| row.contains(&"?".into())), "{rows:?}");
}

#[test]
fn python_is_watched() {
    let script = "
import sys, threading, time
def early(): done.wait()
def late(): sum(range(100000))
done = threading.Event()
threads = [threading.Thread(target=early) for _ in range(3)]
for thread in threads: thread.start()
print('ready', flush=True)
sys.stdin.readline()
for _ in range(4):
    thread = threading.Thread(target=late); thread.start(); thread.join()
done.set()
for thread in threads: thread.join()
print('fine', flush=True)
sys.stdin.readline()
";
    let python = |script: &str| {
        let mut command = Command::new("python3");
        command.args(["-c", script]);
        command
    };
    if !python("").status().is_ok_and(|status| status.success()) {
        eprintln!("there is no python3");
        return;
    }
    let mut program = Running::start(&mut python(script));
    // What is started may be a script that has executed it meanwhile.
    let watch = Watch::attach(&program.pid(), &[]);
    program.go_on();
    assert_eq!(program.end(), (Some(0), "fine\n".into()));
    let (rows, rest) = watch.rows();
    let returned = rows.iter().filter(|row| row.last().is_some_and(|end| end.starts_with("returned"))).count();
    assert_eq!((returned, rows.len()), (8, 8), "{rows:?}\n{rest}");
}

#[test]
fn what_cannot_be_watched_is_refused_in_one_line() {
    let refused = |pid: &str, reason: &str| {
        let output = watch(pid, &[]);
        let said = said(&output);
        assert!(said.contains(reason) && said.lines().count() == 1, "{reason}: {said}");
        assert_eq!(output.status.code(), Some(126), "{said}");
    };
    refused("999999999", "there is no process");
    let mut program = Running::of("steady");
    let pid = program.pid();
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("it is there");
    let numbers = tasks.map(|task| task.expect("it is there").file_name().into_string().expect("a number"));
    refused(&numbers.max().expect("a thread"), &format!("is a thread of process {pid}"));

    let traced = program.child.id() as i32;
    // SAFETY: requests without memory of this process, for a child of this test.
    unsafe {
        assert_eq!(libc::ptrace(libc::PTRACE_SEIZE, traced, 0, 0), 0, "this system allows no ptrace of a child");
        refused(&pid, ") traces it, and a process has one tracer");
        libc::ptrace(libc::PTRACE_INTERRUPT, traced, 0, 0);
        libc::waitpid(traced, std::ptr::null_mut(), libc::__WALL);
        libc::ptrace(libc::PTRACE_DETACH, traced, 0, 0);
        libc::kill(traced, libc::SIGSTOP);
        for _ in 0..100 {
            if std::fs::read_to_string(format!("/proc/{pid}/status")).is_ok_and(|status| status.contains("\nState:\tT"))
            {
                break;
            }
            sleep(Duration::from_millis(10));
        }
        refused(&pid, "is stopped by a signal");
        libc::kill(traced, libc::SIGCONT);
    }
    assert!(watch(&pid, &["--for", "1ms"]).status.success(), "nothing is left");
    assert_eq!(program.end(), (Some(7), String::new()));

    let mut filtered = Running::of("filtered");
    refused(&filtered.pid(), "has a seccomp filter");
    assert_eq!(filtered.end().0, Some(7));
    let fixed = compile("watched-runs-static", &["-static"]);
    let mut fixed = Running::start(Command::new(fixed).arg("steady"));
    refused(&fixed.pid(), "is a static program");
    assert_eq!(fixed.end().0, Some(7));
    let go = compile("watched-runs-go", &["-DLIKE_GO"]);
    let mut go = Running::start(Command::new(go).arg("steady"));
    refused(&go.pid(), "is a Go program");
    assert_eq!(go.end().0, Some(7));
    // Not every system lets this user have a namespace of its own.
    let mut apart = Command::new(runs());
    apart.arg("apart").stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut apart = apart.spawn().expect("the program starts");
    let mut line = String::new();
    BufReader::new(apart.stdout.take().expect("a pipe")).read_line(&mut line).expect("a line");
    if line == "ready\n" {
        refused(&apart.id().to_string(), "is in another user namespace");
    }
    drop(apart.stdin.take());
    apart.wait().expect("it ends");
    // SAFETY: has no conditions.
    if unsafe { libc::geteuid() } == 0 {
        let mut program = Running::of("steady");
        let mut other = exeunt();
        other.args(["watch", "--pid", &program.pid()]).uid(65534).gid(65534);
        // Where the program's folder is closed to other users, they cannot run it.
        if let Ok(output) = other.output() {
            let said = said(&output);
            assert!(said.contains("it belongs to another user") && said.lines().count() == 1, "{said}");
        }
        assert_eq!(program.end().0, Some(7));
    }
}

#[test]
fn a_program_without_a_thread_that_waits_is_left_alone() {
    let program = Running::of("computes");
    let output = watch(&program.pid(), &[]);
    assert!(said(&output).contains("waits in a system call"), "{}", said(&output));
    assert_eq!(output.status.code(), Some(126));
}

#[test]
fn a_thread_on_a_stack_of_the_programs_own_is_left_alone() {
    let mut program = Running::of("on_fiber");
    let output = watch(&program.pid(), &["--for", "1ms"]);
    assert!(said(&output).contains("waits in a system call"), "{}", said(&output));
    assert_eq!((output.status.code(), program.end().0), (Some(126), Some(7)));
    // Another thread does it.
    let mut program = Running::of("on_fiber_and_thread");
    let output = watch(&program.pid(), &["--for", "1ms"]);
    assert_eq!((output.status.code(), program.end().0), (Some(0), Some(7)), "{}", said(&output));
}

#[test]
fn of_commands_that_come_at_once_all_but_one_may_be_refused() {
    let mut program = Running::of("steady");
    let pid = program.pid();
    let before = code(&pid);
    let mut watched = 0;
    for _ in 0..8 {
        let all = [(); 3].map(|()| {
            let pid = pid.clone();
            std::thread::spawn(move || watch(&pid, &["--for", "1ms"]))
        });
        for one in all {
            let output = one.join().expect("it ends");
            assert!(matches!(output.status.code(), Some(0 | 126)), "{}", said(&output));
            watched += usize::from(output.status.success());
        }
        program.go_on();
        program.ready();
    }
    assert!(watched > 0);
    assert!(code(&pid) == before, "the code is as it was");
    assert_eq!(program.end(), (Some(7), String::new()));
}

#[test]
fn no_end_is_lost_when_no_descriptor_is_free() {
    let mut program = Running::of("full");
    let watch = Watch::attach(&program.pid(), &[]);
    program.go_on();
    program.ready();
    assert_eq!(program.end().0, Some(7));
    let (rows, rest) = watch.rows();
    assert!(rest.contains("3 threads: 3 ended"), "{rows:?} {rest}");
    for (entry, end) in [("returns", "returned 1"), ("new_one", "returned 7")] {
        let row = rows.iter().find(|row| row.contains(&entry.to_owned())).expect("a row");
        assert_eq!(row.last().expect("a cell"), end, "{rows:?}");
    }
}

#[test]
fn main_s_row_tells_exit_from_a_return() {
    for how in ["calls_exit", "calls_errx"] {
        let mut program = Running::start(Command::new(runs()).arg(how).stderr(Stdio::null()));
        let watch = Watch::attach(&program.pid(), &[]);
        assert_eq!(program.end(), (Some(3), String::new()));
        let (rows, rest) = watch.rows();
        assert_eq!(rows[0].last().expect("a cell"), "called exit", "{how}: {rows:?}");
        assert!(rest.contains("it has ended; 1 thread: 1 ended"), "{rest}");
    }
}

#[test]
fn the_main_thread_may_end_before_the_process() {
    let mut program = Running::of("leaves");
    let pid = program.pid();
    let mut watching = Watch::attach(&pid, &[]);
    program.go_on();
    program.ready();
    // It is looked at every 20 ms.
    sleep(Duration::from_millis(200));
    assert!(watching.child.try_wait().expect("it is a child").is_none(), "the process is not over");
    assert_eq!(program.end(), (Some(0), String::new()));
    let (rows, rest) = watching.rows();
    let ends: Vec<_> = rows.iter().map(|row| row.last().expect("a cell").as_str()).collect();
    // Nobody saw how: main's stack and the code that it returns into are left alone.
    assert_eq!(ends, ["ended, unseen", "returned 0"], "{rows:?}");
    assert!(rest.contains("it has ended; 2 threads: 2 ended"), "{rows:?} {rest}");

    let mut program = Running::of("leaves");
    program.go_on();
    program.ready();
    let output = watch(&program.pid(), &[]);
    assert!(said(&output).contains("has ended by itself (pthread_exit)"), "{}", said(&output));
    assert_eq!((output.status.code(), program.end().0), (Some(126), Some(0)));
}
