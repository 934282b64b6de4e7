//! The child, and the recorder's hold on it: stops, single steps, breakpoints, memory.

mod frozen;

use super::actor::Facts;
use super::processor::{BREAKPOINT, BREAKPOINT_ADVANCES, Registers};
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use std::error::Error;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::FileExt;
use std::process::{Child, Command, Stdio};

pub type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

const CANNOT_START: &str = "nothing can be filmed here: this program cannot start itself again";
const ELSEWHERE: &str = "QEMU's user mode has no ptrace either, so use a real machine.";

/// The child, of which one thread is filmed.
pub struct Tracee {
    child: Child,
    main: Pid,
    /// The filmed thread, once it has come to its first breakpoint.
    thread: Pid,
    memory: File,
    ended: bool,
}

impl Tracee {
    /// Starts the program again as the actor of `kind`. It has stopped itself when this returns.
    pub fn start(kind: &str) -> Result<(Self, Facts)> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["film", kind, "--actor"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("{CANNOT_START} ({error}); {ELSEWHERE}"))?;
        let main = Pid::from_raw(child.id() as i32);
        let mut line = String::new();
        if let Some(output) = child.stdout.take() {
            BufReader::new(output).read_line(&mut line)?;
        }
        if let Some(problem) = line.strip_prefix("no: ") {
            child.wait()?;
            return Err(format!("nothing can be filmed here: {}", problem.trim()).into());
        }
        if line.is_empty() {
            let status = child.wait()?;
            return Err(format!("{CANNOT_START} ({status}); {ELSEWHERE}").into());
        }
        let facts = serde_json::from_str(&line);
        match waitpid(main, Some(WaitPidFlag::__WALL))? {
            WaitStatus::Stopped(_, Signal::SIGSTOP) => {}
            other => return Err(format!("the filmed process did not stop to be filmed: {other:?}").into()),
        }
        let memory = File::options().read(true).write(true).open(format!("/proc/{main}/mem"));
        let tracee = match memory {
            Ok(memory) => Self { child, main, thread: main, memory, ended: false },
            Err(error) => {
                child.kill()?;
                child.wait()?;
                return Err(format!("the filmed process's memory cannot be opened (/proc/{main}/mem): {error}").into());
            }
        };
        ptrace::setoptions(main, Options::PTRACE_O_TRACECLONE | Options::PTRACE_O_EXITKILL)?;
        Ok((tracee, facts?))
    }

    pub fn process(&self) -> i32 {
        self.main.as_raw()
    }

    pub fn registers(&self) -> Result<Registers> {
        Ok(Registers::of(self.thread)?)
    }

    /// Reads memory; `None` if not all of it can be read.
    pub fn bytes(&self, at: u64, count: usize) -> Option<Vec<u8>> {
        let mut bytes = vec![0; count];
        self.memory.read_exact_at(&mut bytes, at).ok()?;
        Some(bytes)
    }

    pub fn word(&self, at: u64) -> Option<u64> {
        let mut bytes = [0; 8];
        self.memory.read_exact_at(&mut bytes, at).ok()?;
        Some(u64::from_le_bytes(bytes))
    }

    /// Words from `at` on; fewer if memory ends before.
    pub fn words(&self, at: u64, count: usize) -> Vec<u64> {
        let Some(bytes) = self.bytes(at, 8 * count) else {
            return (0..count as u64).map_while(|number| self.word(at + 8 * number)).collect();
        };
        bytes.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().unwrap_or_default())).collect()
    }

    /// Executes one instruction of the filmed thread.
    pub fn step(&mut self) -> Result<()> {
        let mut signal = None;
        loop {
            ptrace::step(self.thread, signal)?;
            match waitpid(self.thread, Some(WaitPidFlag::__WALL))? {
                WaitStatus::Stopped(_, Signal::SIGTRAP) => return Ok(()),
                // Another signal is delivered with the next step.
                WaitStatus::Stopped(_, other) => signal = Some(other),
                WaitStatus::PtraceEvent(..) => signal = None,
                other => return Err(self.lost(other)),
            }
        }
    }

    /// Runs the child at full speed until some thread comes to `address` with a stack pointer of
    /// at least `lowest`. That thread is the filmed one from now on.
    pub fn run_to(&mut self, address: u64, lowest: u64) -> Result<()> {
        let original = self.bytes(address, BREAKPOINT.len()).ok_or("code that cannot be read")?;
        loop {
            self.memory.write_all_at(BREAKPOINT, address)?;
            ptrace::cont(self.thread, None)?;
            let mut registers = self.wait_for_breakpoint(address)?;
            self.memory.write_all_at(&original, address)?;
            registers.set_pc(self.thread, address)?;
            if registers.sp() >= lowest {
                return Ok(());
            }
            self.step()?;
        }
    }

    fn wait_for_breakpoint(&mut self, address: u64) -> Result<Registers> {
        loop {
            let status = waitpid(None, Some(WaitPidFlag::__WALL))?;
            match status {
                WaitStatus::Stopped(thread, Signal::SIGTRAP) => {
                    let registers = Registers::of(thread)?;
                    if registers.pc() == address + BREAKPOINT_ADVANCES {
                        self.thread = thread;
                        return Ok(registers);
                    }
                    ptrace::cont(thread, None)?;
                }
                // A new thread begins with this one.
                WaitStatus::Stopped(thread, Signal::SIGSTOP) | WaitStatus::PtraceEvent(thread, ..) => {
                    ptrace::cont(thread, None)?;
                }
                WaitStatus::Stopped(thread, signal) => ptrace::cont(thread, signal)?,
                WaitStatus::Exited(thread, _) | WaitStatus::Signaled(thread, ..) if thread != self.main => {}
                other => return Err(self.lost(other)),
            }
        }
    }

    fn lost(&mut self, status: WaitStatus) -> Box<dyn Error + Send + Sync> {
        self.ended = matches!(status, WaitStatus::Exited(..) | WaitStatus::Signaled(..));
        format!("the filmed process ended in the middle of the film: {status:?}").into()
    }

    /// Lets the child go on to its end, and returns its exit status.
    pub fn finish(mut self) -> Result<i32> {
        ptrace::cont(self.thread, None)?;
        loop {
            let status = waitpid(None, Some(WaitPidFlag::__WALL))?;
            match status {
                WaitStatus::Exited(process, status) if process == self.main => {
                    self.ended = true;
                    return Ok(status);
                }
                WaitStatus::Signaled(process, ..) if process == self.main => return Err(self.lost(status)),
                WaitStatus::Stopped(thread, Signal::SIGSTOP | Signal::SIGTRAP)
                | WaitStatus::PtraceEvent(thread, ..) => ptrace::cont(thread, None)?,
                WaitStatus::Stopped(thread, signal) => ptrace::cont(thread, signal)?,
                _ => {}
            }
        }
    }
}

impl Drop for Tracee {
    fn drop(&mut self) {
        if !self.ended {
            // An error has ended the film. There is nobody to report another one to.
            let _ = self.child.kill();
            // Its threads have to be waited for as well, or it never ends.
            while let Ok(status) = waitpid(None, Some(WaitPidFlag::__WALL)) {
                if matches!(status, WaitStatus::Exited(process, _) | WaitStatus::Signaled(process, ..) if process == self.main)
                {
                    break;
                }
            }
        }
    }
}
