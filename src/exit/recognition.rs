//! Recognising exit trampolines: once by experiment, and then, on a stack whose bottom is still unknown, by structure.

use crate::base::cancellation::Uncancelled;
use crate::base::error::Error;
use crate::base::kind::Kind;
use crate::base::limits;
use crate::exit::process_lock::{Experiment, ProcessLock};
use crate::exit::trampoline::{self, Reached};
use crate::machine::clib;
use crate::machine::os;
#[cfg(target_os = "linux")]
use crate::unwind;
use std::ffi::{CStr, c_char};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};

/// Runs `code` with the recognition lock: nobody else adds trampolines or changes exit trampolines meanwhile. `code` may call
/// foreign code that allocates; a thread that comes back from there gets [`Error::Reentered`].
#[cfg(code_redirect)]
pub(crate) fn locked<R>(code: impl FnOnce(&ProcessLock) -> Result<R, Error>) -> Result<R, Error> {
    let _uncancelled = Uncancelled::new();
    os::pin();
    let lock = ProcessLock::take()?;
    code(&lock)
}

/// Adds a trampoline that stands for the return address `address`, or finds the one that does.
fn add(address: usize, kind: Kind, name: &'static CStr, reached: Reached) -> Result<usize, Error> {
    os::pin();
    let added = {
        let lock = ProcessLock::take()?;
        trampoline::add(&lock, address, kind, name, reached)
    };
    // The error's text allocates, so the lock is given back first.
    added.map_err(Error::from)
}

static PROBED: AtomicBool = AtomicBool::new(false);

/// Whether what the probes of this system find is in the pool.
pub(crate) fn is_probed() -> bool {
    PROBED.load(Ordering::Acquire)
}

/// Adds what the probes of this system find to the pool, if that was not done yet. Two threads may do it at once: the first
/// to publish an address wins, and the second finds the same.
///
/// # Errors
/// The first that there was, or the one that says most. What was learnt stays, and the next call tries what is left.
pub(crate) fn probe() -> Result<(), Error> {
    static DONE: [AtomicBool; clib::PROBES.len()] = [const { AtomicBool::new(false) }; clib::PROBES.len()];
    if is_probed() {
        return Ok(());
    }
    let _uncancelled = Uncancelled::new();
    let _experiment = Experiment::begin()?;
    let mut result = Ok(());
    for (probe, done) in clib::PROBES.iter().zip(&DONE) {
        if done.load(Ordering::Acquire) {
            continue;
        }
        match (probe.run)().and_then(|address| add(address, probe.kind, probe.name, Reached::ByReturn)) {
            Ok(_) => done.store(true, Ordering::Release),
            // Where pages may not be protected no thread can be made either, and this says why.
            Err(error @ Error::Protection { .. }) => result = Err(error),
            Err(error) => result = result.and(Err(error)),
        }
    }
    if result.is_ok() {
        PROBED.store(true, Ordering::Release);
    }
    result
}

/// Looks for an exit trampoline that no probe has shown among the return addresses of a stack, innermost first, and adds it:
/// that of `main`, or that of C11's threads. Returns whether there is one.
pub(crate) fn recognise(addresses: &[usize]) -> Result<bool, Error> {
    let _uncancelled = Uncancelled::new();
    for (index, &address) in addresses.iter().enumerate().rev() {
        if let Some(name) = clib::main_exit(address, &addresses[index + 1..]) {
            add(address, Kind::Main, name, Reached::ByReturn)?;
            return Ok(true);
        }
    }
    #[cfg(target_os = "linux")]
    if recognise_c11(addresses)? {
        return Ok(true);
    }
    // Another thread may have added it since the walk, or this one, further in, from an allocator that uses storage. Under code
    // redirect it may be patched as well, and then has another shape.
    Ok(addresses.iter().any(|&address| trampoline::number_of_original(address).is_some()))
}

/// C11's threads return to another place of the function that starts threads. A process that has none needs no probe for them,
/// so it is made when a stack leads into that function. (On macOS they return where others do.)
#[cfg(target_os = "linux")]
fn recognise_c11(addresses: &[usize]) -> Result<bool, Error> {
    /// At the outer end of a stack, the function that starts threads is followed by at most what the system calls it from.
    const OUTERMOST: usize = 4;
    static DONE: AtomicBool = AtomicBool::new(false);
    if DONE.load(Ordering::Acquire) {
        return Ok(false);
    }
    let Some(thread) = (0..trampoline::known()).find(|&number| trampoline::kind(number) == Kind::Thread) else {
        return Ok(false);
    };
    let function = unwind::tables::function_at(trampoline::original(thread) - 1);
    let is_inside = |address: usize| function.is_some() && unwind::tables::function_at(address - 1) == function;
    let may_be = |address: usize| address != 0 && is_inside(address) && clib::is_behind_indirect_call(address);
    if !addresses.iter().rev().take(OUTERMOST).any(|&address| may_be(address)) {
        return Ok(false);
    }
    let found = {
        let _experiment = Experiment::begin()?;
        clib::probe_c11()?
    };
    // Another place would be somebody's wrapper, which is a frame as any other.
    let found = found.filter(|&address| is_inside(address));
    if let Some(address) = found {
        add(address, Kind::Thread, c"start_thread (C11)", Reached::ByReturn)?;
    }
    DONE.store(true, Ordering::Release);
    Ok(found.is_some_and(|address| addresses.contains(&address)))
}

/// What a runtime has registered: where its wrapper's code is, and its name.
struct Wrapper {
    start: AtomicUsize,
    end: AtomicUsize,
    /// A C string that was leaked.
    name: AtomicPtr<c_char>,
}

const MOST_WRAPPERS: usize = limits::WRAPPERS;
static WRAPPERS: [Wrapper; MOST_WRAPPERS] = [const {
    Wrapper { start: AtomicUsize::new(0), end: AtomicUsize::new(0), name: AtomicPtr::new(std::ptr::null_mut()) }
}; MOST_WRAPPERS];
static WRAPPER_COUNT: AtomicUsize = AtomicUsize::new(0);

fn wrapper_at(address: usize) -> Option<&'static Wrapper> {
    let count = WRAPPER_COUNT.load(Ordering::Acquire);
    WRAPPERS[..count].iter().find(|registered| {
        // A return address may be the first one behind the code that called.
        registered.start.load(Ordering::Relaxed) < address && address <= registered.end.load(Ordering::Relaxed)
    })
}

/// Whether the return address lies in a wrapper that a runtime has registered.
pub(crate) fn is_registered(address: usize) -> bool {
    wrapper_at(address).is_some()
}

/// Adds the return address, which lies in a registered wrapper, to the pool.
pub(crate) fn add_registered(address: usize) -> Result<(), Error> {
    let _uncancelled = Uncancelled::new();
    let name = wrapper_at(address).map(|found| found.name.load(Ordering::Acquire)).filter(|name| !name.is_null());
    // SAFETY: leaked by `register`, and never changed.
    let name = name.map_or(c"?", |name| unsafe { CStr::from_ptr(name) });
    add(address, Kind::Registered, name, Reached::ByReturn).map(drop)
}

/// Registers a wrapper's code, once.
pub(crate) fn register(name: &str, code: Range<usize>) -> Result<(), Error> {
    let _uncancelled = Uncancelled::new();
    let mut bytes: Vec<u8> = Vec::new();
    bytes.try_reserve_exact(name.len() + 1).map_err(|_| Error::OutOfMemory)?;
    bytes.extend(name.bytes().filter(|&byte| byte != 0).chain([0]));
    let lock = ProcessLock::take()?;
    let registered = add_wrapper(&lock, &mut bytes, &code);
    drop(lock);
    // Its bytes are freed here where they were not taken.
    drop(bytes);
    registered
}

/// Notes a wrapper's code, if it is not yet; takes the name, which ends in a zero, if it does.
fn add_wrapper(_: &ProcessLock, name: &mut Vec<u8>, code: &Range<usize>) -> Result<(), Error> {
    let count = WRAPPER_COUNT.load(Ordering::Relaxed);
    let is_this = |known: &Wrapper| {
        (known.start.load(Ordering::Relaxed), known.end.load(Ordering::Relaxed)) == (code.start, code.end)
    };
    if WRAPPERS[..count].iter().any(is_this) {
        return Ok(());
    }
    let place = WRAPPERS.get(count).ok_or(Error::TooManyWrappers)?;
    place.start.store(code.start, Ordering::Relaxed);
    place.end.store(code.end, Ordering::Relaxed);
    place.name.store(std::mem::take(name).leak().as_mut_ptr().cast(), Ordering::Release);
    WRAPPER_COUNT.store(count + 1, Ordering::Release);
    Ok(())
}

/// Makes the exit trampoline of [`enter`](crate::enter()) known.
pub(crate) fn add_enter(address: usize) -> Result<(), Error> {
    let _uncancelled = Uncancelled::new();
    add(address, Kind::Entered, c"exeunt::enter", Reached::ByReturn).map(drop)
}

/// The trampoline that stands for `target`, where threads of the exit trampoline `number` land without a return.
pub(crate) fn add_landing(target: usize, number: usize) -> Result<usize, Error> {
    if let Some(known) = trampoline::number_of_original(target) {
        return Ok(known);
    }
    let _uncancelled = Uncancelled::new();
    add(target, trampoline::kind(number), trampoline::name(number), Reached::AtLanding)
}
