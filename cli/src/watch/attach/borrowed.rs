//! A thread of the process that is stopped while it waits in a system call, and what it will do when
//! it goes on.
//!
//! `PTRACE_SEIZE` and `PTRACE_INTERRUPT` send no signal. If this command is killed, the kernel lets
//! the thread go on with what it has at that moment, so each step leaves it in a state from which it
//! finds back by itself.

use super::frame::State;
use libc::{c_uint, pid_t, user_regs_struct as Registers};
use std::io::Error;
use std::time::{Duration, Instant};

/// How long a thread may take until it stops.
const PATIENCE: Duration = Duration::from_millis(200);
/// `SIGSETXID` of glibc (`internal-signals.h`): `setuid` and its like have each thread make the call
/// by it, and wait for all.
const OF_SETUID: i32 = 33;
/// Every signal but that one. A thread that blocks it would make `setuid` wait, and `pthread_create`
/// waits for a lock that `setuid` holds meanwhile.
pub const ALL_BUT_OF_SETUID: u64 = !(1 << (OF_SETUID - 1));
/// `NT_X86_XSTATE` of `elf.h`.
const EXTENDED: usize = 0x202;

// What a system call has returned to the kernel's own code when a stop has interrupted it
// (`linux/errno.h`). The kernel calls it again after the stop. -513 is left out: `clone` has it, and
// a thread in `fork` holds all locks of the allocator.
const RESTART: i64 = -512;
const RESTART_WITHOUT_HANDLER: i64 = -514;
const RESTART_BLOCK: i64 = -516;

/// Calls that return EINTR after a stop, as if a signal's handler had run (signal(7)), and that have
/// done nothing then, so that they can be made again.
const REPEATABLE: [i64; 13] = [
    libc::SYS_epoll_wait,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_semop,
    libc::SYS_semtimedop,
    libc::SYS_rt_sigtimedwait,
    libc::SYS_io_getevents,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_recvmmsg,
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_read,
];

fn ptrace(request: c_uint, thread: pid_t, address: usize, data: usize) -> std::io::Result<()> {
    // SAFETY: of the requests of this file some write to this process: to places of their callers,
    // which have the size that the kernel knows or gets.
    let result = unsafe { libc::ptrace(request as _, thread, address, data) };
    if result == -1 { Err(Error::last_os_error()) } else { Ok(()) }
}

/// A thread that is traced. It goes on when this is dropped.
pub struct Borrowed {
    process: pid_t,
    thread: pid_t,
    stopped: bool,
    /// What it gets when it is let go: a signal that it has stopped by, or 0.
    signal: i32,
}

/// Threads that have not stopped in time: the kernel keeps them in a call. Each one stops at that
/// call's end, and must not stay so. The kernel lets go of those that are left when this command ends.
#[derive(Default)]
pub struct Late(Vec<Borrowed>);

impl Late {
    pub fn has(&self, thread: pid_t) -> bool {
        self.0.iter().any(|late| late.thread == thread)
    }

    /// Lets go of those that have stopped by now.
    pub fn let_go(&mut self) {
        self.0.retain_mut(|late| match late.wait(Instant::now()) {
            Ok(Some(status)) => {
                let is_signal = status >> 16 != libc::PTRACE_EVENT_STOP;
                late.signal = if is_signal { libc::WSTOPSIG(status) } else { 0 };
                false
            }
            Ok(None) => true,
            Err(_) => false,
        });
    }
}

/// Why a stopped thread has stopped.
pub enum Stop {
    /// At the beginning or end of a system call.
    Call,
    /// By a signal.
    Signal(i32),
    /// It is gone.
    Gone,
}

impl Borrowed {
    /// Stops a thread. It belongs to `late` if it does not stop in time.
    pub fn stop(process: pid_t, thread: pid_t, late: &mut Late, step: &mut dyn FnMut(&str)) -> std::io::Result<Self> {
        ptrace(libc::PTRACE_SEIZE, thread, 0, libc::PTRACE_O_TRACESYSGOOD as usize)?;
        step("seized");
        let mut borrowed = Self { process, thread, stopped: false, signal: 0 };
        ptrace(libc::PTRACE_INTERRUPT, thread, 0, 0)?;
        let started = Instant::now();
        while let Some(status) = borrowed.wait(started + PATIENCE)? {
            if status >> 16 == libc::PTRACE_EVENT_STOP {
                if libc::WSTOPSIG(status) != libc::SIGTRAP {
                    // It is stopped by SIGSTOP and its like, and stays so.
                    return Err(Error::other("it is stopped by a signal"));
                }
                step("stopped");
                return Ok(borrowed);
            }
            // A signal was about to be delivered: the thread gets it.
            borrowed.go_on(libc::PTRACE_CONT, libc::WSTOPSIG(status))?;
        }
        late.0.push(borrowed);
        Err(Error::from(std::io::ErrorKind::TimedOut))
    }

    /// The status of its next stop; None if it does not come in time.
    fn wait(&mut self, until: Instant) -> std::io::Result<Option<i32>> {
        loop {
            let mut status = 0;
            // SAFETY: the status is written to a variable of this function.
            let waited = unsafe { libc::waitpid(self.thread, &raw mut status, libc::__WALL | libc::WNOHANG) };
            if waited == -1 {
                return Err(Error::last_os_error());
            }
            if waited == self.thread {
                if !libc::WIFSTOPPED(status) {
                    return Err(Error::from_raw_os_error(libc::ESRCH));
                }
                self.stopped = true;
                return Ok(Some(status));
            }
            if Instant::now() > until {
                return Ok(None);
            }
            std::thread::sleep(Duration::from_micros(50));
        }
    }

    fn go_on(&mut self, request: c_uint, signal: i32) -> std::io::Result<()> {
        self.stopped = false;
        ptrace(request, self.thread, 0, signal as usize)
    }

    /// Lets it run to its next stop.
    pub fn next(&mut self, patience: Duration) -> std::io::Result<Stop> {
        self.go_on(libc::PTRACE_SYSCALL, 0)?;
        loop {
            match self.wait(Instant::now() + patience) {
                Ok(Some(status)) if libc::WSTOPSIG(status) == libc::SIGTRAP | 0x80 => return Ok(Stop::Call),
                // A stop by SIGSTOP for the whole process, which this thread takes part in later.
                Ok(Some(status)) if status >> 16 == libc::PTRACE_EVENT_STOP => {
                    self.go_on(libc::PTRACE_SYSCALL, 0)?;
                }
                // The thread makes the call of `setuid`, on the same stack, and comes back. SIGSTOP,
                // which cannot be blocked, is for the process: such a stop follows.
                Ok(Some(status)) if [OF_SETUID, libc::SIGSTOP].contains(&libc::WSTOPSIG(status)) => {
                    self.go_on(libc::PTRACE_SYSCALL, libc::WSTOPSIG(status))?;
                }
                Ok(Some(status)) => return Ok(Stop::Signal(libc::WSTOPSIG(status))),
                Ok(None) => return Err(Error::from(std::io::ErrorKind::TimedOut)),
                Err(error) if error.raw_os_error() == Some(libc::ESRCH) => return Ok(Stop::Gone),
                Err(error) => return Err(error),
            }
        }
    }

    pub fn registers(&self) -> std::io::Result<Registers> {
        // SAFETY: all zeros are valid registers.
        let mut registers: Registers = unsafe { std::mem::zeroed() };
        ptrace(libc::PTRACE_GETREGS as c_uint, self.thread, 0, (&raw mut registers).addr())?;
        Ok(registers)
    }

    pub fn set_registers(&self, registers: &Registers) -> std::io::Result<()> {
        ptrace(libc::PTRACE_SETREGS as c_uint, self.thread, 0, (&raw const *registers).addr())
    }

    pub fn set_blocked(&self, signals: u64) -> std::io::Result<()> {
        ptrace(libc::PTRACE_SETSIGMASK as c_uint, self.thread, size_of::<u64>(), (&raw const signals).addr())
    }

    /// All that it has.
    pub fn state(&self) -> std::io::Result<State> {
        let mut extended = vec![0u8; 1 << 14];
        let mut vector = libc::iovec { iov_base: extended.as_mut_ptr().cast(), iov_len: extended.len() };
        ptrace(libc::PTRACE_GETREGSET as c_uint, self.thread, EXTENDED, (&raw mut vector).addr())?;
        extended.truncate(vector.iov_len);
        let mut blocked = 0u64;
        ptrace(libc::PTRACE_GETSIGMASK as c_uint, self.thread, size_of::<u64>(), (&raw mut blocked).addr())?;
        Ok(State { registers: self.registers()?, extended, blocked })
    }

    pub fn set_extended(&self, extended: &[u8]) -> std::io::Result<()> {
        let vector = libc::iovec { iov_base: extended.as_ptr().cast_mut().cast(), iov_len: extended.len() };
        ptrace(libc::PTRACE_SETREGSET as c_uint, self.thread, EXTENDED, (&raw const vector).addr())
    }

    /// Whether a signal waits that the thread does not block. The call that it is in must end then.
    fn has_signal(&self) -> bool {
        let path = format!("/proc/{}/task/{}/status", self.process, self.thread);
        let status = std::fs::read_to_string(path).unwrap_or_default();
        let set = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            line.and_then(|line| u64::from_str_radix(line.trim(), 16).ok()).unwrap_or(u64::MAX)
        };
        (set("SigPnd") | set("ShdPnd")) & !set("SigBlk") != 0
    }

    /// The registers with which the call that it waits in goes on, as the kernel would see to it
    /// where no handler runs. None if it waits in no call.
    pub fn resumed(&self, registers: &Registers) -> Option<Resumed> {
        let (call, result) = (registers.orig_rax.cast_signed(), registers.rax.cast_signed());
        if call < 0 {
            return None;
        }
        let mut to = *registers;
        // The kernel would begin the call once more at its end; that is done here.
        to.orig_rax = u64::MAX;
        // The length of the instruction `syscall`.
        to.rip = to.rip.wrapping_sub(2);
        let by_block = result == RESTART_BLOCK;
        to.rax = match result {
            RESTART | RESTART_WITHOUT_HANDLER => call as u64,
            RESTART_BLOCK => libc::SYS_restart_syscall as u64,
            result if result == -i64::from(libc::EINTR) && REPEATABLE.contains(&call) && !self.has_signal() => {
                call as u64
            }
            _ => return None,
        };
        Some(Resumed { registers: to, by_block })
    }
}

/// How a call goes on.
pub struct Resumed {
    pub registers: Registers,
    /// What is left of its time is in the kernel, and lost by `rt_sigreturn`.
    pub by_block: bool,
}

impl Resumed {
    /// How the thread goes on if it comes back by `rt_sigreturn`.
    pub fn by_frame(&self) -> Registers {
        let mut registers = self.registers;
        if self.by_block {
            registers.rip = registers.rip.wrapping_add(2);
            registers.rax = i64::from(-libc::EINTR) as u64;
        }
        registers
    }
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        // It is gone, or this command is about to end.
        if !self.stopped {
            return;
        }
        // A repeatable call that a stop has ended goes on; a thread that was killed needs no release.
        if let Ok(registers) = self.registers()
            && registers.rax.cast_signed() == -i64::from(libc::EINTR)
            && let Some(resumed) = self.resumed(&registers)
        {
            let _ = self.set_registers(&resumed.registers);
        }
        let _ = ptrace(libc::PTRACE_DETACH, self.thread, 0, self.signal as usize);
    }
}
