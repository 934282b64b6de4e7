//! Unit tests that need a process of their own.

use std::ffi::OsStr;
use std::process::Command;
use std::sync::{Mutex, PoisonError};

/// Runs `code` in a process in which the test `name` is the only one. `variable` is set in that
/// process and nowhere else.
pub(crate) fn alone(name: &str, variable: &str, code: impl FnOnce()) {
    if std::env::var_os(variable).is_some() {
        return code();
    }
    let program = std::env::current_exe().expect("a test knows its own file");
    let target = std::env::consts::ARCH.to_uppercase();
    let runner = std::env::var(format!("CARGO_TARGET_{target}_UNKNOWN_LINUX_GNU_RUNNER")).unwrap_or_default();
    // Under an emulator, only one child at a time: `tests/c/harness.rs` gives the reason.
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = (!runner.is_empty()).then(|| TURN.lock().unwrap_or_else(PoisonError::into_inner));
    let mut words = runner.split_whitespace().map(OsStr::new).chain([program.as_os_str()]);
    let mut command = Command::new(words.next().expect("the program at least"));
    command.args(words).args(["--exact", name, "--nocapture"]).env(variable, "yes");
    let output = command.output().expect("it can be started again");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}{output:?}");
}
