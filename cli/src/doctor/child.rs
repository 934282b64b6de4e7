//! Running a self-test in a child process: some end their process on purpose, and one that crashes must not end ours.
//!
//! The child is a fork and no new program, so this works where nothing can be executed: under a restrictive filter, or
//! in an emulator. This process has one thread, so the fork is a complete one.

use serde::Serialize;
use std::fs::File;
use std::io::{Error, Read};
use std::os::fd::{FromRawFd, IntoRawFd};
use std::process::ExitCode;

/// One self-test.
pub struct SelfTest {
    /// Its name, for machines.
    pub name: &'static str,
    /// What it tests.
    pub about: &'static str,
    /// What its child has to say.
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
    /// What the child was to say, line by line, and how to end.
    pub expected: Vec<String>,
    /// What it said, and how it ended.
    pub found: Vec<String>,
}

/// On which side of the fork the caller goes on.
pub enum Side {
    Parent(Outcome),
    Child(ExitCode),
}

/// A child that hangs is ended after this many seconds.
const PATIENCE: libc::c_uint = 60;

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
    // SAFETY: this is the only thread of the process, so the child has all there is.
    match unsafe { libc::fork() } {
        0 => {
            // SAFETY: what the child prints, and what a panic there prints, goes into the pipe.
            unsafe {
                libc::dup2(to_write, libc::STDOUT_FILENO);
                libc::dup2(to_write, libc::STDERR_FILENO);
                libc::close(to_read);
                libc::close(to_write);
                libc::alarm(PATIENCE);
            }
            Side::Child((test.body)())
        }
        -1 => {
            let error = Error::last_os_error();
            // SAFETY: both are ours, and closed once.
            unsafe {
                libc::close(to_read);
                libc::close(to_write);
            }
            Side::Parent(outcome(vec![format!("no child: {error}")]))
        }
        child => {
            // SAFETY: both are ours; `File` takes the one that is read.
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

/// Waits for a child, and says how it ended.
fn end_of(child: libc::pid_t) -> String {
    let mut status = 0;
    // SAFETY: our own child, waited for once; interrupted waits are repeated.
    while unsafe { libc::waitpid(child, &raw mut status, 0) } != child {
        let error = Error::last_os_error();
        if error.raw_os_error() != Some(libc::EINTR) {
            return format!("its end is not known: {error}");
        }
    }
    if libc::WIFEXITED(status) {
        format!("exit status {}", libc::WEXITSTATUS(status))
    } else if libc::WTERMSIG(status) == libc::SIGALRM {
        format!("ended after {PATIENCE} seconds without an end of its own")
    } else {
        format!("ended by signal {}", libc::WTERMSIG(status))
    }
}

/// Says a line to the parent. One system call, so that a line is whole whoever prints meanwhile, and so that it works
/// in any state that a process can be in.
pub fn say(line: &str) {
    let line = format!("{line}\n");
    // SAFETY: writes from a buffer that lives as long as the call.
    unsafe { libc::write(libc::STDOUT_FILENO, line.as_ptr().cast(), line.len()) };
}
