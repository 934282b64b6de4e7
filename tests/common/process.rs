//! Tests that need a process of their own: because the process dies, or because no other stack may
//! be armed in it.

use std::os::unix::process::CommandExt;
use std::process::{Command, Output};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The variable that names the child process's part.
pub const ROLE: &str = "EXEUNT_TEST_ROLE";

/// After this many seconds `SIGALRM` ends a child process, which hangs. An emulated one on a busy
/// machine takes long.
const PATIENCE: u32 = 300;

/// This program again. If cargo runs it through an emulator, so does this.
pub fn this_program() -> Command {
    let program = std::env::current_exe().unwrap();
    let architecture = std::env::consts::ARCH.to_uppercase();
    let libc = if cfg!(target_env = "musl") { "MUSL" } else { "GNU" };
    let runner = std::env::var(format!("CARGO_TARGET_{architecture}_UNKNOWN_LINUX_{libc}_RUNNER")).unwrap_or_default();
    let mut words = runner.split_whitespace();
    let mut command = match words.next() {
        Some(emulator) => {
            let mut command = Command::new(emulator);
            command.args(words).arg(program);
            command
        }
        None => Command::new(program),
    };
    // SAFETY: between fork and exec this makes one system call, and nothing else.
    unsafe {
        command.pre_exec(|| {
            libc::alarm(PATIENCE);
            Ok(())
        });
    }
    command
}

/// Whether this process runs under an emulator.
pub fn is_emulated() -> bool {
    this_program().get_program() != std::env::current_exe().unwrap()
}

/// This process's part; `None` in the process that runs the tests.
pub fn role() -> Option<String> {
    std::env::var(ROLE).ok()
}

/// One child at a time, under an emulator: `tests/c/harness.rs` has the reason.
fn turn() -> Option<MutexGuard<'static, ()>> {
    static TURN: Mutex<()> = Mutex::new(());
    is_emulated().then(|| TURN.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Starts this program with a part, and waits for its end.
pub fn play(role: &str, arguments: &[&str]) -> Output {
    let _turn = turn();
    this_program().args(arguments).env(ROLE, role).output().unwrap()
}

/// Runs `code` in a process in which the test called `test`, the caller, is the only one.
pub fn alone(test: &str, code: impl FnOnce()) {
    if role().as_deref() == Some(test) {
        code();
        println!("[{test} came to its end]");
        return;
    }
    let output = play(test, &["--exact", test, "--nocapture", "--test-threads=1"]);
    let (out, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    print!("{out}");
    eprint!("{errors}");
    assert!(output.status.success(), "{test} in its own process: {}", output.status);
    assert!(out.contains(&format!("[{test} came to its end]")), "{test} did not come to its end");
}
