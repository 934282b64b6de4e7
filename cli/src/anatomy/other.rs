//! The threads of another process: each is stopped by ptrace, its registers and its stack are
//! copied, and it is released at once. Nothing is written.
//!
//! `PTRACE_SEIZE` and `PTRACE_INTERRUPT` send no signal (ptrace(2)): a thread that waits in a system
//! call goes on waiting there. A few system calls, `epoll_wait` among them, return `EINTR` all the
//! same, as after SIGSTOP and SIGCONT (signal(7)).

use super::process::{Process, WORD};
use super::refusal;
use super::registers::{Registers, WORDS};
use super::snapshot::Snapshot;
use libc::{c_uint, pid_t};
use std::io::Error;
use std::time::{Duration, Instant};

/// How long a thread may take until it stops. One that the kernel keeps from signals takes longer.
const PATIENCE: Duration = Duration::from_secs(2);
/// How much of a stack is copied.
const MOST: usize = 16 << 20;
/// `NT_PRSTATUS` of `elf.h`: the general registers.
const GENERAL_REGISTERS: usize = 1;

/// Copies the stacks of all threads of a process. A thread that ends meanwhile is left out.
pub fn all(process: &Process, number: pid_t) -> Result<Vec<Snapshot>, String> {
    let mut snapshots = Vec::new();
    for thread in threads(number).map_err(|error| refusal::of(number, &error))? {
        match copy(process, number, thread) {
            Ok(snapshot) => snapshots.push(snapshot),
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {}
            Err(error) if error.kind() == std::io::ErrorKind::TimedOut => {
                anstream::eprintln!("thread {thread}: {error}")
            }
            Err(error) => return Err(refusal::of(number, &error)),
        }
    }
    if snapshots.is_empty() {
        Err(format!("Process {number} has no thread that could be read."))
    } else {
        Ok(snapshots)
    }
}

fn threads(number: pid_t) -> std::io::Result<Vec<pid_t>> {
    let entries = std::fs::read_dir(format!("/proc/{number}/task"))?;
    let mut threads: Vec<pid_t> = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect();
    threads.sort_unstable();
    Ok(threads)
}

/// Calls ptrace, whose four arguments are words.
fn ptrace(request: c_uint, thread: pid_t, address: usize, data: usize) -> std::io::Result<()> {
    // The type of the request differs between C libraries.
    // SAFETY: of the requests of this file, `PTRACE_GETREGSET` alone writes to this process: to the
    // vector of its caller, for as many bytes as that says.
    let result = unsafe { libc::ptrace(request as _, thread, address, data) };
    if result == -1 { Err(Error::last_os_error()) } else { Ok(()) }
}

/// A thread that is stopped, and goes on when this is dropped.
struct Stopped {
    thread: pid_t,
    /// The signal that it was about to get when it stopped, or 0.
    signal: i32,
}

impl Stopped {
    fn stop(thread: pid_t) -> std::io::Result<Self> {
        ptrace(libc::PTRACE_SEIZE as c_uint, thread, 0, 0)?;
        ptrace(libc::PTRACE_INTERRUPT as c_uint, thread, 0, 0)?;
        let started = Instant::now();
        loop {
            let mut status = 0;
            // SAFETY: the status is written to a variable of this function.
            let waited = unsafe { libc::waitpid(thread, &raw mut status, libc::__WALL | libc::WNOHANG) };
            if waited == -1 {
                return Err(Error::last_os_error());
            }
            if waited == thread {
                if !libc::WIFSTOPPED(status) {
                    return Err(Error::from_raw_os_error(libc::ESRCH));
                }
                // A stop of ptrace's own has an event, and no signal to pass on.
                let signal = if status >> 16 == 0 { libc::WSTOPSIG(status) } else { 0 };
                return Ok(Self { thread, signal });
            }
            if started.elapsed() > PATIENCE {
                // The kernel releases it when this program ends.
                let message = "it did not stop: the kernel keeps it in a system call, so it is left out";
                return Err(Error::new(std::io::ErrorKind::TimedOut, message));
            }
            std::thread::sleep(Duration::from_micros(50));
        }
    }

    fn registers(&self) -> std::io::Result<Registers> {
        let mut words = [0_usize; WORDS];
        let mut vector = libc::iovec { iov_base: words.as_mut_ptr().cast(), iov_len: size_of_val(&words) };
        ptrace(libc::PTRACE_GETREGSET as c_uint, self.thread, GENERAL_REGISTERS, (&raw mut vector).addr())?;
        if vector.iov_len != size_of_val(&words) {
            return Err(Error::new(std::io::ErrorKind::Unsupported, "the process is one of another architecture"));
        }
        Ok(Registers::of_the_kernel(&words))
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        // A thread that was killed meanwhile needs no release.
        let _ = ptrace(libc::PTRACE_DETACH as c_uint, self.thread, 0, self.signal as usize);
    }
}

fn copy(process: &Process, number: pid_t, thread: pid_t) -> std::io::Result<Snapshot> {
    let folder = format!("/proc/{number}/task/{thread}");
    let read = |file: &str| std::fs::read_to_string(format!("{folder}/{file}")).unwrap_or_default();
    let (name, status) = (read("comm"), read("status"));
    let stopped = Stopped::stop(thread)?;
    let registers = stopped.registers()?;
    let start = registers.stack_pointer() & !(WORD - 1);
    let words = process.words(start..start.saturating_add(MOST)).unwrap_or_default();
    drop(stopped);
    let role = if thread == number { "main thread" } else { "thread" };
    // The kernel names the features that a thread has switched on.
    let shadow_stack = status.lines().any(|line| line.starts_with("x86_Thread_features:") && line.contains("shstk"));
    let title = format!("{role} {thread}, {:?}", name.trim_end());
    Ok(Snapshot { title, key: thread.to_string(), registers, start, words, shadow_stack, own: None })
}
