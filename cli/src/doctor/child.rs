//! Runs a self-test in a child process, because some self-tests end their process, and a crash must
//! not end the doctor.
//!
//! The child is a fork, not a new program, so this works where no program can be executed: under a
//! restrictive filter, or in an emulator. This process has one thread, so the fork is a complete
//! copy.

use serde::Serialize;
use std::fs::File;
use std::io::{Error, Read};
use std::os::fd::{FromRawFd, IntoRawFd};
use std::process::ExitCode;

/// One self-test.
pub struct SelfTest {
    /// Its name in the JSON output.
    pub name: &'static str,
    /// A description of what it tests.
    pub about: &'static str,
    /// The lines that its child must print.
    pub expected: &'static [&'static str],
    /// The child's exit status.
    pub status: u8,
    pub body: fn() -> ExitCode,
}

/// A self-test's result.
#[derive(Serialize)]
pub struct Outcome {
    pub name: &'static str,
    pub about: &'static str,
    pub passed: bool,
    /// The lines that the child should have printed, and how it should have ended.
    pub expected: Vec<String>,
    /// The lines that it printed, and how it ended.
    pub found: Vec<String>,
}

/// The side of the fork on which [`run`] returns.
pub enum Side {
    Parent(Outcome),
    Child(ExitCode),
}

/// The seconds after which a child is killed.
const TIMEOUT: libc::c_uint = 60;

/// Runs a self-test in a child.
pub fn run(test: &SelfTest) -> Side {
    let mut expected: Vec<String> = test.expected.iter().map(|&line| line.to_owned()).collect();
    expected.push(format!("exit status {}", test.status));
    let outcome = |found: Vec<String>| Outcome {
        name: test.name,
        about: test.about,
        passed: found == expected,
        found,
        expected: expected.clone(),
    };
    let (to_read, to_write) = match std::io::pipe() {
        Ok((to_read, to_write)) => (to_read.into_raw_fd(), to_write.into_raw_fd()),
        Err(error) => return Side::Parent(outcome(vec![format!("no pipe: {error}")])),
    };
    // SAFETY: this is the only thread of the process, so the child is a complete copy.
    match unsafe { libc::fork() } {
        0 => {
            // SAFETY: the descriptors are open. The child's output, and that of a panic, goes into
            // the pipe.
            unsafe {
                libc::dup2(to_write, libc::STDOUT_FILENO);
                libc::dup2(to_write, libc::STDERR_FILENO);
                libc::close(to_read);
                libc::close(to_write);
                libc::alarm(TIMEOUT);
            }
            Side::Child((test.body)())
        }
        -1 => {
            let error = Error::last_os_error();
            // SAFETY: this function owns both, and closes each once.
            unsafe {
                libc::close(to_read);
                libc::close(to_write);
            }
            Side::Parent(outcome(vec![format!("no child: {error}")]))
        }
        child => {
            // SAFETY: this function owns both; `File` takes the one that is read.
            let mut pipe = unsafe {
                libc::close(to_write);
                File::from_raw_fd(to_read)
            };
            let mut said = Vec::new();
            let problem = pipe.read_to_end(&mut said).err();
            let mut found: Vec<String> = String::from_utf8_lossy(&said).lines().map(str::to_owned).collect();
            found.extend(problem.map(|error| format!("its output could not be read: {error}")));
            found.push(end_of(child));
            Side::Parent(outcome(found))
        }
    }
}

/// Waits for a child and describes how it ended.
fn end_of(child: libc::pid_t) -> String {
    let mut status = 0;
    // SAFETY: a child of this process, waited for once; interrupted waits are repeated.
    while unsafe { libc::waitpid(child, &raw mut status, 0) } != child {
        let error = Error::last_os_error();
        if error.raw_os_error() != Some(libc::EINTR) {
            return format!("waiting for it failed: {error}");
        }
    }
    if libc::WIFEXITED(status) {
        format!("exit status {}", libc::WEXITSTATUS(status))
    } else if libc::WTERMSIG(status) == libc::SIGALRM {
        format!("killed after {TIMEOUT} seconds, because it had not ended")
    } else {
        format!("ended by signal {}", libc::WTERMSIG(status))
    }
}

/// Prints a line to the parent. It makes one system call, so that no other output interrupts a
/// line, and so that it works in any state of the process.
pub fn say(line: &str) {
    let line = format!("{line}\n");
    // SAFETY: writes from a buffer that lives as long as the call.
    unsafe { libc::write(libc::STDOUT_FILENO, line.as_ptr().cast(), line.len()) };
}
