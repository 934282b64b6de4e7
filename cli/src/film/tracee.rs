//! The child, and the recorder's hold on it: stops, single steps, breakpoints, memory. The hold is
//! ptrace, or the stub of an emulator that runs the child.

mod frozen;

use super::actor::Facts;
use super::processor::{self, BREAKPOINT, BREAKPOINT_ADVANCES, Registers};
use super::result::Result;
use super::stub::{Stop, Stub, TRAP};
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use std::cell::Cell;
use std::error::Error;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

const CANNOT_START: &str = "nothing can be filmed here: this program cannot start itself again";
const ELSEWHERE: &str = "under QEMU's user mode, name it with --emulator";

/// Bytes of code that are searched for the end of a sequence which a single step breaks.
const SEQUENCE: usize = 64;

/// The child, of which one thread is filmed.
pub struct Tracee {
    child: Child,
    main: Pid,
    /// The filmed thread, once it has come to its first breakpoint.
    thread: Pid,
    memory: File,
    /// The emulator's stub; without one the hold is ptrace.
    stub: Option<Stub>,
    /// The program counter, where it was read since the last step.
    at: Cell<Option<u64>>,
    ended: bool,
}

impl Tracee {
    /// Starts the program again as the actor of `kind`. It has stopped itself when this returns.
    /// The emulator is a command of QEMU's user mode.
    pub fn start(kind: &str, emulator: Option<&str>) -> Result<(Self, Facts)> {
        let program = std::env::current_exe()?;
        let socket = std::env::temp_dir().join(format!("exeunt-film-{}.socket", std::process::id()));
        let mut words = emulator.unwrap_or_default().split_whitespace();
        let mut command = match words.next() {
            Some(first) => {
                let mut command = Command::new(first);
                command.args(words).arg("-g").arg(&socket).arg(program);
                command.args(["film", kind, "--actor", "--emulator", first]);
                command
            }
            None => {
                let mut command = Command::new(program);
                command.args(["film", kind, "--actor"]);
                command
            }
        };
        let mut child =
            command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().map_err(|error| match emulator {
                Some(_) => format!("the emulator cannot be started: {error}"),
                None => format!("{CANNOT_START} ({error}); {ELSEWHERE}"),
            })?;
        let started = match emulator {
            Some(_) => stopped_by_stub(&mut child, &socket).map(|(stub, thread, facts)| (Some(stub), thread, facts)),
            None => stopped_by_ptrace(&mut child).map(|(main, facts)| (None, main, facts)),
        };
        // The emulator makes it, and leaves it there.
        let _ = std::fs::remove_file(&socket);
        let main = Pid::from_raw(child.id() as i32);
        let opened = started.and_then(|started| Ok((started, memory_of(main)?)));
        match opened {
            Ok(((stub, thread, facts), memory)) => {
                let tracee = Self { child, main, thread, memory, stub, at: Cell::new(None), ended: false };
                tracee.check_memory(&facts)?;
                Ok((tracee, facts))
            }
            Err(error) => {
                // It may have ended, or not begun.
                let _ = child.kill();
                let _ = child.wait();
                Err(error)
            }
        }
    }

    /// An emulator can keep the process's memory at other addresses than its own. That of QEMU's
    /// user mode does not, if both processors have 64 bits.
    fn check_memory(&self, facts: &Facts) -> Result<()> {
        let Some(stub) = &self.stub else { return Ok(()) };
        if self.bytes(facts.begin, 16) == Some(stub.memory(facts.begin, 16)?) {
            return Ok(());
        }
        Err("the emulator keeps the process's memory at other addresses, so it cannot be filmed".into())
    }

    pub fn is_emulated(&self) -> bool {
        self.stub.is_some()
    }

    pub fn process(&self) -> i32 {
        self.main.as_raw()
    }

    pub fn registers(&self) -> Result<Registers> {
        match &self.stub {
            Some(stub) => {
                let registers = Registers::of_stub(&stub.registers(number(self.thread))?)?;
                self.at.set(Some(registers.pc()));
                Ok(registers)
            }
            None => Ok(Registers::of(self.thread)?),
        }
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

    /// Writes a word of data. An emulator would execute the former code where it is code.
    pub fn set_word(&self, at: u64, word: u64) -> Result<()> {
        Ok(self.memory.write_all_at(&word.to_le_bytes(), at)?)
    }

    /// Executes one instruction of the filmed thread.
    pub fn step(&mut self) -> Result<()> {
        if let Some(stub) = &self.stub {
            let filmed = number(self.thread);
            let at = self.at.take().map_or_else(|| self.registers().map(|registers| registers.pc()), Ok)?;
            self.at.set(None);
            let mut ends = processor::unbroken(&self.bytes(at, SEQUENCE).unwrap_or_default(), at);
            ends.sort_unstable();
            ends.dedup();
            for &end in &ends {
                stub.set_breakpoint(end, BREAKPOINT.len())?;
            }
            if !ends.is_empty() {
                let stop = stub.go_on(None)?;
                for &end in &ends {
                    stub.clear_breakpoint(end, BREAKPOINT.len())?;
                }
                return match stop {
                    Stop::Signal { thread, signal: TRAP } if thread == filmed => Ok(()),
                    other => Err(self.lost(&other)),
                };
            }
            let mut delivered = None;
            loop {
                match stub.step(filmed, delivered)? {
                    Stop::Signal { thread, signal: TRAP } if thread == filmed => return Ok(()),
                    Stop::Signal { thread, signal } if thread == filmed => delivered = Some(signal),
                    other => return Err(self.lost(&other)),
                }
            }
        }
        let mut signal = None;
        loop {
            ptrace::step(self.thread, signal)?;
            match waitpid(self.thread, Some(WaitPidFlag::__WALL))? {
                WaitStatus::Stopped(_, Signal::SIGTRAP) => return Ok(()),
                // Another signal is delivered with the next step.
                WaitStatus::Stopped(_, other) => signal = Some(other),
                WaitStatus::PtraceEvent(..) => signal = None,
                other => return Err(self.lost_by_ptrace(other)),
            }
        }
    }

    /// Runs the child at full speed until some thread comes to `address` with a stack pointer of
    /// at least `lowest`. That thread is the filmed one from now on.
    pub fn run_to(&mut self, address: u64, lowest: u64) -> Result<()> {
        if self.stub.is_some() {
            return self.run_to_by_stub(address, lowest);
        }
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
                other => return Err(self.lost_by_ptrace(other)),
            }
        }
    }

    fn run_to_by_stub(&mut self, address: u64, lowest: u64) -> Result<()> {
        loop {
            let Some(stub) = &self.stub else { return Err("there is no stub".into()) };
            self.at.set(None);
            stub.set_breakpoint(address, BREAKPOINT.len())?;
            let mut delivered = None;
            let thread = loop {
                match stub.go_on(delivered)? {
                    Stop::Signal { thread, signal: TRAP } => break thread,
                    Stop::Signal { thread, signal } => delivered = Some((thread, signal)),
                    other => return Err(self.lost(&other)),
                }
            };
            stub.clear_breakpoint(address, BREAKPOINT.len())?;
            self.thread = Pid::from_raw(thread as i32);
            let registers = self.registers()?;
            if registers.pc() != address {
                return Err(format!("the filmed process stopped elsewhere, at {:#x}", registers.pc()).into());
            }
            if registers.sp() >= lowest {
                return Ok(());
            }
            self.step()?;
        }
    }

    fn lost_by_ptrace(&mut self, status: WaitStatus) -> Box<dyn Error + Send + Sync> {
        self.ended = matches!(status, WaitStatus::Exited(..) | WaitStatus::Signaled(..));
        self.lost(&status)
    }

    fn lost(&self, status: &dyn std::fmt::Debug) -> Box<dyn Error + Send + Sync> {
        format!("the filmed process ended in the middle of the film: {status:?}").into()
    }

    /// Lets the child go on to its end, and returns its exit status.
    pub fn finish(mut self) -> Result<i32> {
        if let Some(stub) = &self.stub {
            let mut stop = stub.go_on(None)?;
            while let Stop::Signal { thread, signal } = stop {
                stop = stub.go_on(Some((thread, signal)))?;
            }
            self.child.wait()?;
            self.ended = true;
            let Stop::Exit(status) = stop else { return Err(self.lost(&stop)) };
            return Ok(status);
        }
        ptrace::cont(self.thread, None)?;
        loop {
            let status = waitpid(None, Some(WaitPidFlag::__WALL))?;
            match status {
                WaitStatus::Exited(process, status) if process == self.main => {
                    self.ended = true;
                    return Ok(status);
                }
                WaitStatus::Signaled(process, ..) if process == self.main => return Err(self.lost_by_ptrace(status)),
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
            if self.stub.is_some() {
                let _ = self.child.wait();
                return;
            }
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

fn memory_of(process: Pid) -> Result<File> {
    let memory = File::options().read(true).write(true).open(format!("/proc/{process}/mem"));
    let cannot = |error| format!("the filmed process's memory cannot be opened (/proc/{process}/mem): {error}");
    Ok(memory.map_err(cannot)?)
}

/// A thread's number, as stubs have it.
fn number(thread: Pid) -> u32 {
    thread.as_raw().unsigned_abs()
}

/// The line in which the actor tells its facts.
fn facts(child: &mut Child) -> Result<Facts> {
    let mut line = String::new();
    if let Some(output) = child.stdout.take() {
        BufReader::new(output).read_line(&mut line)?;
    }
    if let Some(problem) = line.strip_prefix("no: ") {
        return Err(format!("nothing can be filmed here: {}", problem.trim()).into());
    }
    if line.is_empty() {
        let status = child.wait()?;
        return Err(format!("{CANNOT_START} ({status}); {ELSEWHERE}").into());
    }
    Ok(serde_json::from_str(&line)?)
}

/// Waits until the actor has told its facts and stopped itself.
fn stopped_by_ptrace(child: &mut Child) -> Result<(Pid, Facts)> {
    let main = Pid::from_raw(child.id() as i32);
    let facts = facts(child)?;
    match waitpid(main, Some(WaitPidFlag::__WALL))? {
        WaitStatus::Stopped(_, Signal::SIGSTOP) => {}
        other => return Err(format!("the filmed process did not stop to be filmed: {other:?}").into()),
    }
    ptrace::setoptions(main, Options::PTRACE_O_TRACECLONE | Options::PTRACE_O_EXITKILL)?;
    Ok((main, facts))
}

/// The same by the stub, which has stopped the process at its first instruction.
fn stopped_by_stub(child: &mut Child, socket: &Path) -> Result<(Stub, Pid, Facts)> {
    let stub = Stub::connect(socket, child)?;
    let mut stop = stub.go_on(None)?;
    while let Stop::Signal { thread, signal } = stop {
        if signal == TRAP {
            return Ok((stub, Pid::from_raw(thread as i32), facts(child)?));
        }
        stop = stub.go_on(Some((thread, signal)))?;
    }
    facts(child)?;
    Err(format!("the filmed process did not stop to be filmed: {stop:?}").into())
}
