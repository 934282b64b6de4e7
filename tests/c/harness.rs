//! Builds and runs the child programs of the tests: C and C++ programs of `tests/c`, Rust programs
//! of `tests/bridge`.
//!
//! Cargo builds the bridge for the target and the profile of the tests themselves, into the same
//! directory, so that it shares finished builds. The compiler for C and C++ is the one that the
//! `cc` crate finds for the target, or that `CC` and `CXX` name. Under an emulator the children run
//! as cargo runs the tests: by the target's runner.

#![allow(dead_code, reason = "each test file that includes this uses a part of it")]

#[path = "../members/mod.rs"]
mod members;

use std::env;
use std::fmt;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// The time limit of a child. It is far more than a child needs, even under an emulator. A child
/// that hangs is killed then.
const PATIENCE: Duration = Duration::from_secs(600);

/// The target and directory that cargo builds the tests for.
struct Target {
    /// The target's name, if it was given to cargo by `--target`.
    named: Option<String>,
    /// The directory of its build.
    root: PathBuf,
    release: bool,
}

impl Target {
    fn get() -> &'static Self {
        static TARGET: OnceLock<Target> = OnceLock::new();
        TARGET.get_or_init(|| {
            // .../target/[name/]profile/deps/test
            let this = env::current_exe().expect("a test has a file of its own");
            let profile = this.parent().and_then(Path::parent).expect("cargo puts tests into deps");
            let parent = profile.parent().expect("cargo puts profiles into a directory");
            let name = parent.file_name().expect("that directory has a name").to_string_lossy().into_owned();
            let named = name.starts_with(&format!("{}-", env::consts::ARCH)).then_some(name);
            let root = if named.is_some() { parent.parent().expect("as above") } else { parent };
            Self { named, root: root.to_owned(), release: profile.ends_with("release") }
        })
    }

    fn triple(&self) -> String {
        self.named.clone().unwrap_or_else(|| format!("{}-unknown-linux-gnu", env::consts::ARCH))
    }

    /// The runner for programs of the target, if they do not run by themselves.
    fn runner(&self) -> Option<Vec<String>> {
        let triple = self.named.as_ref()?.to_uppercase().replace('-', "_");
        let runner = env::var(format!("CARGO_TARGET_{triple}_RUNNER")).ok()?;
        Some(runner.split_whitespace().map(str::to_owned).collect())
    }
}

/// Whether the children inherit the choice of code redirect. The suites' expectations hold for both
/// redirects, or name the one.
pub fn is_code() -> bool {
    env::var("EXEUNT_REDIRECT").is_ok_and(|redirect| redirect == "code")
}

/// Whether the tests run under an emulator. The processor's own debugging is not available there.
pub fn is_emulated() -> bool {
    Target::get().runner().is_some()
}

/// One child at a time, under an emulator. QEMU's fork copies locks of its own that another thread
/// holds at that moment (seen with 7.2), and then the child hangs before it has begun. Threads that
/// wait here hold none.
fn turn() -> Option<MutexGuard<'static, ()>> {
    static TURN: Mutex<()> = Mutex::new(());
    // A test that failed while it held this lock has changed nothing that the next one needs.
    is_emulated().then(|| TURN.lock().unwrap_or_else(PoisonError::into_inner))
}

/// The directory with the bridge's libraries and programs. Builds them first.
pub fn bridge() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let target = Target::get();
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["build", "--quiet", "--manifest-path"]);
        cargo.arg(members::manifest("bridge"));
        cargo.arg("--target-dir").arg(&target.root);
        if let Some(name) = &target.named {
            cargo.args(["--target", name]);
        }
        if target.release {
            cargo.arg("--release");
        }
        let _turn = turn();
        let built = cargo.status().expect("cargo is there, as it runs the tests");
        assert!(built.success(), "the bridge could not be built: {cargo:?}");
        let directory = target.named.iter().fold(target.root.clone(), |path, name| path.join(name));
        directory.join(if target.release { "release" } else { "debug" })
    })
}

/// The options of a program's build.
#[derive(Clone, Copy)]
pub struct Build<'a> {
    /// Its file in `tests/c`.
    pub source: &'a str,
    /// Options of the compiler.
    pub options: &'a [&'a str],
    /// Whether it links the bridge. A program that does not loads it by itself.
    pub linked: bool,
}

impl<'a> Build<'a> {
    /// With the bridge linked statically.
    pub fn linked(source: &'a str, options: &'a [&'a str]) -> Self {
        Self { source, options, linked: true }
    }

    /// Compiles the program. Panics where the compiler is missing or refuses it.
    pub fn build(self) -> Program {
        let bridge = bridge();
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/c");
        let source = sources.join(self.source);
        let cpp = source.extension().is_some_and(|extension| extension == "cpp");
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("programs");
        std::fs::create_dir_all(&directory).expect("cargo's directory for tests is writable");
        sweep(&directory);
        // Tests of one process run at the same time: each build has a file of its own.
        static COUNT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
        let number = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let file = directory.join(format!("{}-{}-{number}", self.source.replace('.', "-"), std::process::id()));
        let _turn = turn();
        let mut compiler = compiler(cpp);
        compiler.args(["-g", "-Wall", "-Wextra", "-pthread"]).args(self.options);
        compiler.arg("-I").arg(&sources).arg(&source).arg("-o").arg(&file);
        if self.linked {
            compiler.arg(bridge.join("libexeunt_bridge.a"));
        }
        // The libraries that a Rust library needs: `rustc --print native-static-libs`.
        let unwinder = if self.options.contains(&"-static") { "-lgcc_eh" } else { "-lgcc_s" };
        compiler.args([unwinder, "-lutil", "-lrt", "-lpthread", "-lm", "-ldl", "-lc"]);
        let name = compiler.get_program().to_string_lossy().into_owned();
        let output = compiler.output().unwrap_or_else(|error| panic!("no compiler {name}: {error}"));
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{name} {:?} {}:\n{told}", self.options, self.source);
        Program { file, temporary: true }
    }
}

/// Deletes the programs of processes that no longer exist. A process never drops those that a
/// static holds.
fn sweep(directory: &Path) {
    static SWEPT: std::sync::Once = std::sync::Once::new();
    SWEPT.call_once(|| {
        for file in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            let name = file.file_name().to_string_lossy().into_owned();
            let process = name.rsplit('-').nth(1).and_then(|word| word.parse::<u32>().ok());
            if process.is_some_and(|process| !Path::new(&format!("/proc/{process}")).exists()) {
                // A file that remains does no harm.
                let _ = std::fs::remove_file(file.path());
            }
        }
    });
}

fn compiler(cpp: bool) -> Command {
    let target = Target::get();
    let triple = target.triple();
    // Only an emulated target is not the host's.
    let host = if is_emulated() { "x86_64-unknown-linux-gnu" } else { &triple };
    let mut build = cc::Build::new();
    build.target(&triple).host(host).cpp(cpp).opt_level(0).no_default_flags(true);
    build.cargo_metadata(false).cargo_debug(false).cargo_warnings(false).emit_rerun_if_env_changed(false);
    build.get_compiler().to_command()
}

/// Whether the compiler has a libc to link statically. Not every distribution installs it with the
/// shared one.
pub fn has_static_libc() -> bool {
    let _turn = turn();
    let mut compiler = compiler(false);
    let output = compiler.arg("-print-file-name=libc.a").output().expect("the compiler runs");
    // If there is none, the compiler prints the name as it was asked for.
    Path::new(String::from_utf8_lossy(&output.stdout).trim()).is_absolute()
}

/// Whether there is a compiler for C++. Not every machine with a compiler for C has one.
pub fn has_cpp_compiler() -> bool {
    let _turn = turn();
    compiler(true).arg("--version").output().is_ok_and(|output| output.status.success())
}

/// Builds a shared object of one file in `tests/c`, without the bridge. It remains until the next
/// process deletes it.
pub fn plugin(source: &str, options: &[&str]) -> PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("programs");
    std::fs::create_dir_all(&directory).expect("cargo's directory for tests is writable");
    sweep(&directory);
    static COUNT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
    let number = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let file = directory.join(format!("{}-so-{}-{number}", source.replace('.', "-"), std::process::id()));
    let _turn = turn();
    let mut compiler = compiler(false);
    compiler.args(["-O2", "-fPIC", "-shared"]).args(options);
    compiler.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/c").join(source)).arg("-o").arg(&file);
    let output = compiler.output().unwrap_or_else(|error| panic!("no compiler: {error}"));
    assert!(output.status.success(), "{source}:\n{}", String::from_utf8_lossy(&output.stderr));
    file
}

/// A program of the bridge, by its name.
pub fn program(name: &str) -> Program {
    Program { file: bridge().join(name), temporary: false }
}

/// A program that can be run.
pub struct Program {
    file: PathBuf,
    temporary: bool,
}

impl Drop for Program {
    fn drop(&mut self) {
        if self.temporary {
            // A file that remains does no harm.
            let _ = std::fs::remove_file(&self.file);
        }
    }
}

impl Program {
    /// Its file.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// The command that runs it.
    pub fn command(&self) -> Command {
        match Target::get().runner() {
            None => Command::new(&self.file),
            Some(runner) => {
                let mut command = Command::new(&runner[0]);
                command.args(&runner[1..]).arg(&self.file);
                command
            }
        }
    }

    /// Whether the file contains this text, as the name of a symbol.
    pub fn contains(&self, text: &str) -> bool {
        let bytes = std::fs::read(&self.file).expect("the program can be read");
        bytes.windows(text.len()).any(|window| window == text.as_bytes())
    }

    /// Runs it to its end.
    pub fn run(&self, arguments: &[&str]) -> Outcome {
        let mut command = self.command();
        command.args(arguments);
        run(command)
    }

    /// Runs it twice: as the first to be armed in its process, and after others
    /// (`tests/c/common.h`). Both must report the same.
    #[track_caller]
    pub fn run_first_and_later(&self, arguments: &[&str]) -> Outcome {
        let first = self.run(arguments);
        let mut command = self.command();
        command.args(arguments).env("EARLIER_STACKS", "yes");
        let later = run(command);
        assert_eq!(
            (later.status, &later.output),
            (first.status, &first.output),
            "{arguments:?}, after earlier stacks: {later}"
        );
        first
    }
}

/// The result of a child.
pub struct Outcome {
    pub status: ExitStatus,
    pub output: String,
    pub errors: String,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n--- output\n{}--- errors\n{}", self.status, self.output, self.errors)
    }
}

impl Outcome {
    /// Asserts that the child exited with `status`, and printed these lines and no others.
    #[track_caller]
    pub fn expect(&self, status: i32, lines: &[&str]) {
        assert_eq!(self.status.code(), Some(status), "{self}");
        assert_eq!(self.output.lines().collect::<Vec<_>>(), lines, "{self}");
    }
}

/// Runs a command to its end, or kills it when it takes far too long, which is a failure.
pub fn run(mut command: Command) -> Outcome {
    let _turn = turn();
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let output = collect(child.stdout.take());
    let errors = collect(child.stderr.take());
    let waited = wait(&mut child);
    let take = |collected: thread::JoinHandle<String>| collected.join().expect("reading a pipe does not panic");
    match waited {
        Some(status) => Outcome { status, output: take(output), errors: take(errors) },
        None => panic!("{command:?} hung and was killed; it had printed\n{}{}", take(output), take(errors)),
    }
}

fn wait(child: &mut Child) -> Option<ExitStatus> {
    let started = Instant::now();
    while started.elapsed() < PATIENCE {
        if let Some(status) = child.try_wait().expect("a child can be waited for") {
            return Some(status);
        }
        thread::sleep(Duration::from_millis(5));
    }
    child.kill().expect("a child can be killed");
    child.wait().expect("a child that was killed ends");
    None
}

fn collect(pipe: Option<impl Read + Send + 'static>) -> thread::JoinHandle<String> {
    let mut pipe = pipe.expect("the pipe was asked for");
    thread::spawn(move || {
        let mut bytes = Vec::new();
        // A pipe that breaks yields what was read so far.
        let _ = pipe.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// Reports in the tests' output that something was not run. It bypasses the test harness, which
/// captures the output of tests that pass.
pub fn not_run(what: &str, why: &str) {
    let _ = writeln!(std::io::stderr().lock(), "NOT RUN: {what}: {why}");
}

/// Whether a tool is installed.
pub fn has(tool: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).any(|directory| directory.join(tool).is_file())
}
