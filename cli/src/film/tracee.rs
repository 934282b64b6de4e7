//! The child, and the recorder's hold on it: stops, single steps, breakpoints, memory.

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
use std::time::Duration;

pub type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

const CANNOT_START: &str = "nothing can be filmed here: this program cannot start itself again";
const ELSEWHERE: &str = "QEMU's user mode has no ptrace either, so use a real machine.";

/// Milliseconds that a thread has to fall asleep before it is frozen.
const FREEZING: usize = 2000;

/// The instruction of a system call.
const SYSTEM_CALL: &[u8] = if cfg!(target_arch = "x86_64") { &[0x0f, 0x05] } else { &[0x01, 0x00, 0x00, 0xd4] };

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
        let tracee = Self::hold(child, Signal::SIGSTOP)?;
        Ok((tracee, serde_json::from_str(&line)?))
    }

    /// Takes hold of a child that has asked to be traced and then has called `exec`.
    pub fn of(child: Child) -> Result<Self> {
        Self::hold(child, Signal::SIGTRAP)
    }

    /// Takes hold of a child that stops with this signal.
    fn hold(mut child: Child, stops_with: Signal) -> Result<Self> {
        let main = Pid::from_raw(child.id() as i32);
        match waitpid(main, Some(WaitPidFlag::__WALL))? {
            WaitStatus::Stopped(_, signal) if signal == stops_with => {}
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
        Ok(tracee)
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

    /// Stops all threads but the filmed one, until the child's end. Each of them stops inside of a
    /// system call that it sleeps in, so that it does not keep a lock which the filmed one needs.
    pub fn freeze_others(&mut self) -> Result<()> {
        for entry in std::fs::read_dir(format!("/proc/{}/task", self.main))? {
            let number: i32 = entry?.file_name().to_string_lossy().parse()?;
            let thread = Pid::from_raw(number);
            if thread == self.thread {
                continue;
            }
            let mut is_frozen = false;
            for _ in 0..FREEZING {
                is_frozen = self.freeze(thread)?;
                if is_frozen {
                    break;
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            if !is_frozen {
                return Err("another thread of the filmed process does not sleep".into());
            }
        }
        Ok(())
    }

    /// Stops a thread if it sleeps, or if it is new and has not run yet.
    fn freeze(&self, thread: Pid) -> Result<bool> {
        let status = std::fs::read_to_string(format!("/proc/{}/task/{thread}/stat", self.main))?;
        // The state follows the name, which is in parentheses (proc(5)).
        match status.rsplit(')').next().and_then(|rest| rest.trim_start().chars().next()) {
            Some('S') => {
                self.stop(thread)?;
                let behind = Registers::of(thread)?.pc();
                let before = self.bytes(behind.wrapping_sub(SYSTEM_CALL.len() as u64), SYSTEM_CALL.len());
                if before.as_deref() == Some(SYSTEM_CALL) {
                    return Ok(true);
                }
                ptrace::cont(thread, None)?;
            }
            Some('t') => match waitpid(thread, Some(WaitPidFlag::__WALL | WaitPidFlag::WNOHANG))? {
                WaitStatus::Stopped(_, Signal::SIGSTOP) => return Ok(true),
                WaitStatus::Stopped(_, signal) => ptrace::cont(thread, signal)?,
                WaitStatus::PtraceEvent(..) => ptrace::cont(thread, None)?,
                _ => {}
            },
            _ => {}
        }
        Ok(false)
    }

    /// Stops a thread that runs.
    fn stop(&self, thread: Pid) -> Result<()> {
        // SAFETY: sends a signal to a thread of a child that has not been waited for, so its number
        // is its own.
        if unsafe { libc::syscall(libc::SYS_tgkill, self.main.as_raw(), thread.as_raw(), libc::SIGSTOP) } != 0 {
            return Err(std::io::Error::last_os_error().into());
        }
        loop {
            match waitpid(thread, Some(WaitPidFlag::__WALL))? {
                WaitStatus::Stopped(_, Signal::SIGSTOP) => return Ok(()),
                WaitStatus::Stopped(_, signal) => ptrace::cont(thread, signal)?,
                WaitStatus::PtraceEvent(..) => ptrace::cont(thread, None)?,
                other => return Err(format!("a thread of the filmed process ended: {other:?}").into()),
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
