//! Runs the program under test.

use std::process::{Command, Output};

/// The program, run by the emulator that cargo uses for tests if there is one.
pub fn exeunt() -> Command {
    let runner = format!("CARGO_TARGET_{}_UNKNOWN_LINUX_GNU_RUNNER", std::env::consts::ARCH.to_uppercase());
    let program = env!("CARGO_BIN_EXE_exeunt");
    let mut command = match std::env::var(runner) {
        Ok(runner) => {
            let mut words = runner.split_whitespace();
            let mut command = Command::new(words.next().expect("a runner has a name"));
            command.args(words).arg(program);
            command
        }
        Err(_) => Command::new(program),
    };
    for name in ["NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE", "LD_PRELOAD"] {
        command.env_remove(name);
    }
    command
}

/// Standard output as text.
pub fn text(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).expect("the program prints UTF-8")
}
