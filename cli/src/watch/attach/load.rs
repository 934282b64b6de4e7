//! Gets the library into the process.
//!
//! 1. A thread that waits in a system call is stopped. A frame as the kernel's of a signal is put
//!    below its stack pointer, so it finds back from here on without this command.
//! 2. It maps two pages, gets the stub (`stub.rs`) there, starts a thread, and goes on waiting.
//! 3. The new thread opens two files without names. This command fills them by the process's
//!    descriptors: with the library, and with the table of rows.
//! 4. The new thread loads the library, whose function takes over.

use super::borrowed::{ALL_BUT_OF_SETUID, Borrowed, Late, Stop};
use super::frame::placed::Frame;
use super::frame::{State, frame};
use super::stub::{self, Data, go, state};
use super::target::{Target, threads};
use libc::{pid_t, user_regs_struct as Registers};
use std::fs::{File, read_link, read_to_string};
use std::io::{self, Write};
use std::mem::offset_of;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How long a thread that waits is looked for.
const SEARCH: Duration = Duration::from_secs(5);
/// How long one system call of the borrowed thread may take, and the new thread's start.
const PATIENCE: Duration = Duration::from_secs(5);
/// The room for `pthread_create`, with an allocator of the program's own.
/// With the frame, whose extended state has 11 KiB at most.
const ROOM: u64 = 32 << 10;
const PAGE: u64 = 4096;

/// The new thread's place in the process, before it loads the library.
pub struct Waiting<'t> {
    target: &'t Target,
    data: u64,
    told: bool,
    /// The library's file, empty.
    library: File,
    /// The table's.
    pub table: File,
}

/// Starts the thread. `step` is called after each step. `late` gets the threads that do not stop.
pub fn start<'t>(target: &'t Target, late: &mut Late, step: &mut dyn FnMut(&str)) -> Result<Waiting<'t>, String> {
    let until = Instant::now() + SEARCH;
    let data = loop {
        let mut in_time = candidates(target).into_iter().take_while(|_| Instant::now() < until);
        let found = in_time
            .find_map(|thread| if late.has(thread) { None } else { borrow(target, thread, late, step).transpose() });
        late.let_go();
        if let Some(found) = found {
            break found?;
        }
        if Instant::now() > until {
            return Err(format!(
                "no thread of process {} waits in a system call, on a stack of libc's with 32 KiB free: exeunt needs \
                 one for some microseconds; try again",
                target.process
            ));
        }
        sleep(Duration::from_millis(50));
    };
    let read = |offset: usize| {
        let mut bytes = [0; 4];
        target.read(&mut bytes, data + offset as u64).map(|()| i32::from_ne_bytes(bytes))
    };
    let ended = |error: io::Error| format!("process {} cannot be read any more: {error}", target.process);
    let until = Instant::now() + PATIENCE;
    while read(offset_of!(Data, state)).map_err(ended)? == 0 {
        if Instant::now() > until {
            tell(target, data, go::BACK);
            return Err(format!("the thread that exeunt has started in process {} does not run", target.process));
        }
        sleep(Duration::from_millis(1));
    }
    step("thread runs");
    let open = |offset: usize, name: &str| {
        let descriptor = read(offset)?;
        if descriptor < 0 {
            return Err(io::Error::other("it could not be made (the limit of descriptors, or of memory)"));
        }
        let file = File::options().read(true).write(true).open(format!("/proc/{}/fd/{descriptor}", target.process))?;
        // The program may have closed the descriptor, and have the number for a file of its own.
        let is_ours = |path: PathBuf| path.to_str() == Some(&format!("/memfd:{name} (deleted)"));
        if !read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).is_ok_and(is_ours) {
            return Err(io::Error::other("the program has closed it: it closes all descriptors at times"));
        }
        Ok(file)
    };
    let library = open(offset_of!(Data, library), stub::LIBRARY_NAME);
    match (library, open(offset_of!(Data, table), stub::TABLE_NAME)) {
        (Ok(library), Ok(table)) => Ok(Waiting { target, data, told: false, library, table }),
        (Err(error), _) | (_, Err(error)) => {
            tell(target, data, go::BACK);
            Err(format!("a file without a name in process {}: {error}", target.process))
        }
    }
}

fn tell(target: &Target, data: u64, what: u32) {
    // If the process is gone, so is the thread.
    let _ = target.write(&what.to_ne_bytes(), data + offset_of!(Data, go) as u64);
}

impl Waiting<'_> {
    /// Has the thread load the library, and call its function. The table is complete.
    pub fn load(mut self, library: &[u8], step: &mut dyn FnMut(&str)) -> Result<(), String> {
        let failed = |error: io::Error| format!("the library's memory: {error}");
        let (target, data) = (self.target, self.data);
        let field = |offset: usize| data + offset as u64;
        let attach = target.loaded(library)?;
        if attach == 0 {
            self.library.write_all(library).map_err(failed)?;
        }
        step("library written");
        let mut descriptor = [0; 4];
        target.read(&mut descriptor, field(offset_of!(Data, library))).map_err(failed)?;
        let path = format!("/proc/self/fd/{}", i32::from_ne_bytes(descriptor));
        target.write(path.as_bytes(), field(offset_of!(Data, path))).map_err(failed)?;
        target.write(&attach.to_ne_bytes(), field(offset_of!(Data, attach))).map_err(failed)?;
        tell(target, data, go::ON);
        self.told = true;
        step("told to load");
        // A constructor of the program's may hold the dynamic linker's lock for long.
        let until = Instant::now() + 6 * PATIENCE;
        loop {
            let mut now = [0; 4];
            target.read(&mut now, field(offset_of!(Data, state))).map_err(failed)?;
            match u32::from_ne_bytes(now) {
                state::LOADED => break,
                state::FAILED => {
                    let mut text = [0; 256];
                    target.read(&mut text, field(offset_of!(Data, error))).map_err(failed)?;
                    let text: Vec<u8> = text.into_iter().take_while(|&byte| byte != 0).collect();
                    return Err(format!("the library was not loaded: {}", String::from_utf8_lossy(&text)));
                }
                _ if Instant::now() > until => {
                    return Err(format!(
                        "process {} has not loaded the library in 30 s: does another thread of it load one?",
                        target.process
                    ));
                }
                _ => sleep(Duration::from_millis(1)),
            }
        }
        step("loaded");
        Ok(())
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if !self.told {
            tell(self.target, self.data, go::BACK);
        }
    }
}

/// Threads that wait, by what the kernel says without stopping them; those first that lose least.
fn candidates(target: &Target) -> Vec<pid_t> {
    let rank = |thread: pid_t| {
        let call = read_to_string(format!("/proc/{}/task/{thread}/syscall", target.process)).ok()?;
        let mut words = call.split_whitespace();
        let number: i64 = words.next()?.parse().ok()?;
        let words: Vec<u64> =
            words.map(|word| u64::from_str_radix(word.trim_start_matches("0x"), 16).unwrap_or(0)).collect();
        // The six arguments, the stack pointer, and where the call is.
        let [_, operation, .., stack_pointer, _] = words[..] else { return None };
        let rank = match number {
            // FUTEX_WAIT: libc's locks use it, also those of its allocator. All else uses other ones.
            libc::SYS_futex if operation & 0x7f == 0 => return None,
            libc::SYS_clone | libc::SYS_clone3 | libc::SYS_fork | libc::SYS_vfork | libc::SYS_execve => {
                return None;
            }
            libc::SYS_futex | libc::SYS_read | libc::SYS_poll | libc::SYS_wait4 => 0,
            0.. => 1,
            // It runs, or is between calls.
            _ => return None,
        };
        is_fit(target, stack_pointer, None).then_some(rank)
    };
    let mut found: Vec<_> =
        threads(target.process).into_iter().filter_map(|thread| Some((rank(thread)?, thread))).collect();
    found.sort_unstable();
    found.into_iter().map(|(_, thread)| thread).collect()
}

/// Has the thread start another one. None if it cannot be borrowed now. Returns where the stub's data
/// is.
fn borrow(target: &Target, thread: pid_t, late: &mut Late, step: &mut dyn FnMut(&str)) -> Result<Option<u64>, String> {
    let mut borrowed = match Borrowed::stop(target.process, thread, late, step) {
        Ok(borrowed) => borrowed,
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            let status = read_to_string(format!("/proc/{}/status", target.process)).unwrap_or_default();
            let reason = crate::trace_rights::forbidden(&status);
            return Err(format!("process {} cannot be attached to: {reason}", target.process));
        }
        // It is gone, or did not stop.
        Err(_) => return Ok(None),
    };
    let failed = |error: io::Error| format!("thread {thread} of process {}: {error}", target.process);
    // It may have been killed meanwhile.
    let Ok(state) = borrowed.state() else { return Ok(None) };
    let Some(resumed) = borrowed.resumed(&state.registers) else { return Ok(None) };
    let by_frame = State { registers: resumed.by_frame(), extended: state.extended.clone(), blocked: state.blocked };
    let Some(frame) = frame(&by_frame, target.restorer) else {
        return Err("this kernel's form of a thread's state is not known".into());
    };
    let mut call = [0; 2];
    let is_call = target.read(&mut call, resumed.registers.rip).is_ok() && call == [0x0f, 0x05];
    if !is_call || !is_fit(target, state.registers.rsp, Some(state.registers.fs_base)) {
        return Ok(None);
    }
    target.write(&frame.bytes, frame.stack_pointer).map_err(failed)?;
    step("frame written");

    let outcome = run(target, &mut borrowed, &frame, step);
    if let Err(Failed::Gone) = outcome {
        return Ok(None);
    }
    if let Ok(_) | Err(Failed::Call(_)) = outcome {
        // The thread is at the end of the frame, or a call of it has failed.
        borrowed.set_extended(&state.extended).map_err(failed)?;
        step("extended state back");
        borrowed.set_blocked(state.blocked).map_err(failed)?;
        step("mask back");
        borrowed.set_registers(&resumed.registers).map_err(failed)?;
        step("registers back");
    }
    drop(borrowed);
    step("let go");
    match outcome {
        Ok(data) => Ok(Some(data)),
        Err(Failed::Call(reason)) => Err(format!("process {}: {reason}", target.process)),
        Err(Failed::System(error)) => Err(failed(error)),
        Err(Failed::Gone) => Ok(None),
    }
}

/// Whether the stack has room below this address, and runs no handler of a signal, which may have
/// interrupted the allocator.
fn is_fit(target: &Target, stack_pointer: u64, thread: Option<u64>) -> bool {
    let stack = target.stack(stack_pointer, thread);
    if stack_pointer - stack.start < ROOM {
        return false;
    }
    // Pages beyond the stack's end would get memory by being read.
    let from = stack_pointer & !7;
    let mut bytes = vec![0; (stack.end - from).min(64 << 10) as usize];
    let restorer = target.restorer.to_ne_bytes();
    target.read(&mut bytes, from).is_ok() && !bytes.chunks_exact(8).any(|word| word == restorer)
}

enum Failed {
    /// A call in the process has failed. The thread can get its state back.
    Call(String),
    /// The thread cannot be traced any more. It finds back by its frame.
    System(io::Error),
    Gone,
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Self {
        Self::System(error)
    }
}

/// Runs the calls on the stopped thread, up to the end of the frame. Returns where the data is.
fn run(target: &Target, borrowed: &mut Borrowed, frame: &Frame, step: &mut dyn FnMut(&str)) -> Result<u64, Failed> {
    let stop = |borrowed: &mut Borrowed| match borrowed.next(PATIENCE)? {
        Stop::Call => Ok(borrowed.registers()?),
        // What it blocks: only a fault of its own comes here, or SIGKILL.
        Stop::Signal(signal) => Err(Failed::Call(format!("signal {signal} in the code of exeunt"))),
        Stop::Gone => Err(Failed::Gone),
    };
    let before = borrowed.registers()?;
    let enter = |function: u64, arguments: [u64; 6]| {
        let [rdi, rsi, rdx, rcx, r8, r9] = arguments;
        let (rsp, eflags) = (frame.stack_pointer, 0x202);
        Registers { rip: function, rsp, eflags, orig_rax: u64::MAX, rax: 0, rdi, rsi, rdx, rcx, r8, r9, ..before }
    };
    // A function that makes one system call, to its end.
    let call = |borrowed: &mut Borrowed| -> Result<i64, Failed> {
        stop(borrowed)?;
        Ok(stop(borrowed)?.rax.cast_signed())
    };
    let in_words = |result: i64| io::Error::from_raw_os_error(-result as i32);

    let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    borrowed.set_registers(&enter(target.mmap, [0, 2 * PAGE, protection as u64, flags as u64, u64::MAX, 0]))?;
    step("registers set");
    // After the registers, so that the thread never goes on from its own place with all blocked.
    borrowed.set_blocked(u64::MAX)?;
    step("mask set");
    let code = call(borrowed)?;
    if (-4095..0).contains(&code) {
        return Err(Failed::Call(format!("memory for exeunt's code: {}", in_words(code))));
    }
    let code = code.cast_unsigned();
    let data = code + PAGE;
    step("mapped");
    target.write(stub::code(), code)?;
    target.write(Data::new(target.functions).bytes(), data)?;
    step("stub written");
    let protection = libc::PROT_READ | libc::PROT_EXEC;
    borrowed.set_registers(&enter(target.mprotect, [code, PAGE, protection as u64, 0, 0, 0]))?;
    let result = call(borrowed)?;
    if result != 0 {
        return Err(Failed::Call(format!("memory for exeunt's code may not be executed: {}", in_words(result))));
    }
    step("executable");
    borrowed.set_registers(&enter(code, [data, 0, 0, 0, 0, 0]))?;
    // The new thread gets the same mask.
    borrowed.set_blocked(ALL_BUT_OF_SETUID)?;
    step("stub entered");
    // `pthread_create` makes several calls. The last one is the frame's.
    let end = target.restorer + 9;
    for _ in 0..1000 {
        let registers = stop(borrowed)?;
        // A handler of the process's has its own frame, further down.
        if registers.rip == end && registers.rsp == frame.stack_pointer + 8 {
            step("at the frame's end");
            // No later reader of this stack takes it for a signal's.
            target.write(&[0; 8], frame.stack_pointer)?;
            let mut created = [0; 4];
            target.read(&mut created, data + offset_of!(Data, created) as u64)?;
            return match i32::from_ne_bytes(created) {
                0 => Ok(data),
                error => Err(Failed::Call(format!("no thread: {}", io::Error::from_raw_os_error(error)))),
            };
        }
    }
    Err(Failed::System(io::Error::other("its call does not end")))
}
