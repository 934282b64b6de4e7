//! The filmed process: this program again. It arms one stack, and ends it.
//!
//! It prints [`Facts`] on its standard output and stops itself. From then on the recorder decides
//! when it runs.

use super::kind::Kind;
use exeunt::{Builder, Redirect};
use nix::sys::ptrace;
use nix::sys::signal::{Signal, raise};
use serde::{Deserialize, Serialize};
use std::ffi::c_void;
use std::io::Write;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What the recorder cannot find by itself.
#[derive(Serialize, Deserialize)]
pub struct Facts {
    /// The function at whose first instruction the film begins.
    pub begin: u64,
    /// The exit handler.
    pub handler: u64,
    /// The exit trampolines: name, return address, whether unwinding ends there.
    pub trampolines: Vec<(String, u64, bool)>,
    /// What the entry function returns, if the film is of a function with a result.
    pub result: Option<u64>,
    /// What code redirect patches, if the film is of code redirect.
    pub sites: Vec<Site>,
}

/// A place in an exit trampoline's code that code redirect patches.
#[derive(Serialize, Deserialize)]
pub struct Site {
    pub trampoline: String,
    pub address: u64,
}

/// The result of entry functions.
const RESULT: usize = 0x5ee;

/// Seconds after which the child ends itself: a recorder that fails must leave no child behind. An
/// emulator is slower.
const TIMEOUT: libc::c_uint = 120;
const TIMEOUT_EMULATED: libc::c_uint = 600;

static HANDLED: AtomicUsize = AtomicUsize::new(0);

/// The exit handler.
#[inline(never)]
fn on_exit() {
    HANDLED.fetch_add(1, Ordering::Relaxed);
}

extern "C-unwind" fn entry(_: *mut c_void) -> *mut c_void {
    arm();
    std::ptr::without_provenance_mut(RESULT)
}

/// The same for a thread that ends without a return.
extern "C-unwind" fn exiting_entry(_: *mut c_void) -> *mut c_void {
    arm();
    // SAFETY: no frame of this stack holds anything to drop.
    unsafe { pthread_exit(std::ptr::without_provenance_mut(RESULT)) }
}

unsafe extern "C-unwind" {
    fn pthread_exit(result: *mut c_void) -> !;
}

/// Runs on a stack that was there before, or in a function that returns to such code.
#[inline(never)]
fn on_stack() {
    arm();
}

#[inline(never)]
fn arm() {
    if exeunt::at_exit(on_exit).is_err() {
        std::process::exit(3);
    }
}

/// Runs the actor's part. Its exit status is zero if the stack's handler ran once and its result
/// arrived.
pub fn run(kind: Kind, is_emulated: bool) -> ExitCode {
    match perform(kind, is_emulated) {
        Ok(()) if HANDLED.load(Ordering::Relaxed) == 1 => ExitCode::SUCCESS,
        Ok(()) => ExitCode::from(4),
        Err(error) => {
            println!("no: {error}");
            ExitCode::FAILURE
        }
    }
}

fn perform(kind: Kind, is_emulated: bool) -> Result<(), Box<dyn std::error::Error>> {
    // SAFETY: asks for a signal, later.
    unsafe { libc::alarm(if is_emulated { TIMEOUT_EMULATED } else { TIMEOUT }) };
    Builder::new().redirect(if kind == Kind::Code { Redirect::Code } else { Redirect::Slot }).install()?;
    let stop = |begin: usize, result| stop(begin, result, is_emulated);
    // First a rehearsal, from the same place in the code: the exit trampolines are recognised, and
    // the walk to the foot is remembered. Without it the film would have a million instructions to
    // step through.
    for is_filmed in [false, true] {
        HANDLED.store(0, Ordering::Relaxed);
        match kind {
            Kind::Thread | Kind::PthreadExit => {
                let entry = if kind == Kind::Thread { entry } else { exiting_entry };
                if is_filmed {
                    stop(entry as *const () as usize, Some(RESULT))?;
                }
                start_and_join(entry, if is_filmed { 2 } else { 1 })?;
            }
            // The first stack that is armed shows the patch.
            Kind::Code if !is_filmed => drop(exeunt::code_sites()?),
            Kind::Code => {
                stop(entry as *const () as usize, Some(RESULT))?;
                start_and_join(entry, 1)?;
            }
            Kind::Main => {
                if is_filmed {
                    stop(on_stack as *const () as usize, None)?;
                }
                on_stack();
                if is_filmed {
                    // The handler runs once main has returned; the film shows it.
                    HANDLED.store(1, Ordering::Relaxed);
                } else {
                    exeunt::unload()?;
                }
            }
            // The filmed program is another one.
            Kind::Goroutine => return Err("this program has no goroutines".into()),
            Kind::Enter => {
                if is_filmed {
                    stop(on_stack as *const () as usize, None)?;
                }
                exeunt::enter(on_stack)?;
            }
            Kind::Fiber => {
                let memory = crate::fiber::Memory::map()?;
                if is_filmed {
                    stop(on_stack as *const () as usize, None)?;
                }
                crate::fiber::Fiber::on(&memory, |_| on_stack()).resume();
            }
        }
    }
    Ok(())
}

/// Tells the facts, and stops until the recorder lets this process go on.
fn stop(begin: usize, result: Option<usize>, is_emulated: bool) -> Result<(), Box<dyn std::error::Error>> {
    let facts = Facts {
        begin: begin as u64,
        handler: on_exit as *const () as u64,
        trampolines: exeunt::survey()?
            .trampolines
            .into_iter()
            .map(|trampoline| (trampoline.name, trampoline.return_address as u64, trampoline.unwound))
            .collect(),
        result: result.map(|result| result as u64),
        sites: sites()?,
    };
    if !is_emulated && let Err(error) = ptrace::traceme() {
        return Err(format!(
            "this system does not let a process trace its own child (ptrace: {error}); in a container allow it \
             (--cap-add=SYS_PTRACE, or another seccomp profile), elsewhere see /proc/sys/kernel/yama/ptrace_scope, \
             and under QEMU's user mode name it with --emulator."
        )
        .into());
    }
    let mut output = std::io::stdout().lock();
    serde_json::to_writer(&mut output, &facts)?;
    writeln!(output)?;
    output.flush()?;
    drop(output);
    // An emulator reports each signal of the process to its debugger, but for SIGSTOP, which stops
    // the emulator.
    raise(if is_emulated { Signal::SIGTRAP } else { Signal::SIGSTOP })?;
    Ok(())
}

/// The sites that threads end by, if this process uses code redirect.
fn sites() -> Result<Vec<Site>, exeunt::Error> {
    if exeunt::survey()?.redirect != Redirect::Code {
        return Ok(Vec::new());
    }
    let sites = exeunt::code_sites()?.into_iter().filter(|site| site.kind == exeunt::Kind::Thread);
    Ok(sites.map(|site| Site { trampoline: site.trampoline, address: site.address as u64 }).collect())
}

/// Starts a thread as a C program does, without Rust's own frames, and checks its result.
///
/// Each thread gets a larger stack than the last: the C library would use the memory of a smaller
/// one again, where exeunt's words of the last thread still are.
fn start_and_join(
    entry: extern "C-unwind" fn(*mut c_void) -> *mut c_void,
    mebibytes: usize,
) -> Result<(), Box<dyn std::error::Error>> {
    let mut result = std::ptr::null_mut();
    // SAFETY: the function ignores its argument, and the thread is joined here.
    unsafe {
        // It may unwind: `pthread_exit` does, and glibc has frames that let it.
        let entry = std::mem::transmute::<
            extern "C-unwind" fn(*mut c_void) -> *mut c_void,
            extern "C" fn(*mut c_void) -> *mut c_void,
        >(entry);
        let mut thread = std::mem::zeroed();
        let mut attributes = std::mem::zeroed();
        if libc::pthread_attr_init(&raw mut attributes) != 0
            || libc::pthread_attr_setstacksize(&raw mut attributes, mebibytes << 20) != 0
            || libc::pthread_create(&raw mut thread, &raw const attributes, entry, std::ptr::null_mut()) != 0
        {
            return Err("no thread".into());
        }
        libc::pthread_attr_destroy(&raw mut attributes);
        if libc::pthread_join(thread, &raw mut result) != 0 {
            return Err("the thread cannot be joined".into());
        }
    }
    if result.addr() == RESULT { Ok(()) } else { Err("the result changed".into()) }
}
