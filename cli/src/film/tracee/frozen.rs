//! A hold on a program that is traced from its first instruction on, and of which only one thread
//! runs.

use super::{Stop, Stub, Tracee, memory_of};
use crate::film::actor::Facts;
use crate::film::processor::Registers;
use crate::film::result::Result;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use std::cell::Cell;
use std::path::Path;
use std::process::Child;
use std::time::Duration;

/// Milliseconds that a thread has to fall asleep before it is frozen.
const FREEZING: usize = 2000;

/// The instruction of a system call.
const SYSTEM_CALL: &[u8] = if cfg!(target_arch = "x86_64") { &[0x0f, 0x05] } else { &[0x01, 0x00, 0x00, 0xd4] };

impl Tracee {
    /// Takes hold of a child that has asked to be traced and then has called `exec`.
    pub fn of(mut child: Child) -> Result<Self> {
        let main = Pid::from_raw(child.id() as i32);
        match waitpid(main, Some(WaitPidFlag::__WALL))? {
            WaitStatus::Stopped(_, Signal::SIGTRAP) => {}
            other => return Err(format!("the filmed process did not stop to be filmed: {other:?}").into()),
        }
        let options = Options::PTRACE_O_TRACECLONE | Options::PTRACE_O_EXITKILL;
        match memory_of(main).and_then(|memory| ptrace::setoptions(main, options).map(|()| memory).map_err(Into::into))
        {
            Ok(memory) => Ok(Self { child, main, thread: main, memory, stub: None, at: Cell::new(None), ended: false }),
            Err(error) => {
                child.kill()?;
                child.wait()?;
                Err(format!("the filmed process cannot be held: {error}").into())
            }
        }
    }

    /// Takes hold of a child that an emulator runs. Its stub has stopped it before its first
    /// instruction.
    pub fn of_emulated(mut child: Child, socket: &Path, facts: &Facts) -> Result<Self> {
        let main = Pid::from_raw(child.id() as i32);
        let held = Stub::connect(socket, &mut child).and_then(|stub| match stub.stopped()? {
            Stop::Signal { thread, .. } => Ok((Pid::from_raw(thread as i32), stub, memory_of(main)?)),
            other => Err(format!("the filmed process did not stop to be filmed: {other:?}").into()),
        });
        match held {
            Ok((thread, stub, memory)) => {
                let at = Cell::new(None);
                let tracee = Self { child, main, thread, memory, stub: Some(stub), at, ended: false };
                tracee.check_memory(facts)?;
                Ok(tracee)
            }
            Err(error) => {
                // It may have ended.
                let _ = child.kill();
                child.wait()?;
                Err(error)
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
}
