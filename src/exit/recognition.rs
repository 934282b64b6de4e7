//! Recognises exit trampolines: once by experiment (`probe`), and later, on a stack that leads to
//! no known one, by structure (`recognise`). Also adds those that runtimes register (`register`),
//! that of `enter` (`add_enter`) and landings (`add_landing`).

use crate::base::cancellation::Uncancelled;
use crate::base::error::Error;
use crate::base::kind::Kind;
use crate::base::limits;
use crate::exit::process_lock::{Experiment, ProcessLock};
use crate::exit::trampoline::{self, Reached};
use crate::machine::clib;
use crate::machine::os;
#[cfg(target_env = "gnu")]
use crate::unwind;
use std::ffi::{CStr, c_char};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};

/// Runs `code` with the process lock: no other thread adds trampolines or changes exit trampolines
/// meanwhile. `code` may call foreign code that allocates. A thread that calls this again from
/// there gets [`Error::Reentered`].
#[cfg(code_redirect)]
pub(crate) fn locked<R>(code: impl FnOnce(&ProcessLock) -> Result<R, Error>) -> Result<R, Error> {
    let _uncancelled = Uncancelled::new();
    os::pin();
    let lock = ProcessLock::take()?;
    code(&lock)
}

/// The number of the trampoline for the return address `address`, which is added if there is none.
fn add(address: usize, kind: Kind, name: &'static CStr, reached: Reached) -> Result<usize, Error> {
    os::pin();
    #[cfg(all(target_arch = "aarch64", target_os = "linux"))]
    trampoline::choose();
    let added = {
        let lock = ProcessLock::take()?;
        trampoline::add(&lock, address, kind, name, reached)
    };
    // The error's text allocates, so the lock is released first.
    added.map_err(Error::from)
}

static PROBED: AtomicBool = AtomicBool::new(false);

/// Whether all probes of this system have succeeded.
pub(crate) fn is_probed() -> bool {
    PROBED.load(Ordering::Acquire)
}

/// Runs the probes of this system that have not succeeded yet, and adds what they find to the pool.
/// Two threads may do so at once: the first one publishes an address, and the second finds the
/// same.
///
/// # Errors
/// The first error, or [`Error::Protection`] if there is one. What was learnt stays, and the next
/// call runs the other probes.
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
            // Where pages cannot be protected no thread can be started either, and this error names
            // the cause.
            Err(error @ Error::Protection { .. }) => result = Err(error),
            Err(error) => result = result.and(Err(error)),
        }
    }
    if result.is_ok() {
        PROBED.store(true, Ordering::Release);
    }
    result
}

/// The return addresses that lead to code. The walk has found an unwind table for every function
/// but the outermost one. The outermost address may be any word: a fiber library that never returns
/// to it may have stored a number there (minicoro: `0xdeaddeaddeaddead`).
fn of_code(addresses: &[usize]) -> &[usize] {
    /// The experiments read fewer bytes than these, before the address and from it on.
    const WORD: usize = size_of::<usize>();
    let is_code = |address: usize| {
        let aligned = cfg!(target_arch = "x86_64") || address % 4 == 0;
        aligned && [address.wrapping_sub(WORD), address, address.wrapping_add(WORD)].into_iter().all(os::is_readable)
    };
    match addresses.split_last() {
        Some((&outermost, inner)) if !is_code(outermost) => inner,
        _ => addresses,
    }
}

/// Searches the return addresses of a stack, innermost first, for an exit trampoline that no probe
/// has found, and adds it: that of `main`, or that of C11's threads. Returns whether a known one is
/// among them.
pub(crate) fn recognise(addresses: &[usize]) -> Result<bool, Error> {
    let _uncancelled = Uncancelled::new();
    let addresses = of_code(addresses);
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
    // Another thread may have added it since the walk, or this one, in an inner frame, from an
    // allocator that uses storage. Under code redirect it may be patched as well, and then has
    // another shape.
    Ok(addresses.iter().any(|&address| trampoline::number_of_original(address).is_some()))
}

/// C11's threads return to another place in the function that starts threads. A process without
/// them needs no probe for them, so the probe runs when a stack leads into that function. (On macOS
/// they return where others do.)
#[cfg(target_os = "linux")]
fn recognise_c11(addresses: &[usize]) -> Result<bool, Error> {
    /// The function that starts threads is among the outermost frames: the system calls it from at
    /// most these.
    const OUTERMOST: usize = 4;
    static DONE: AtomicBool = AtomicBool::new(false);
    if DONE.load(Ordering::Acquire) {
        return Ok(false);
    }
    let Some(thread) = (0..trampoline::known()).find(|&number| trampoline::kind(number) == Kind::Thread) else {
        return Ok(false);
    };
    #[cfg(target_env = "gnu")]
    let function = unwind::tables::function_at(trampoline::original(thread) - 1);
    #[cfg(target_env = "gnu")]
    let is_inside = |address: usize| function.is_some() && unwind::tables::function_at(address - 1) == function;
    // musl has a second function for them, and no unwind tables.
    #[cfg(target_env = "musl")]
    let _ = thread;
    #[cfg(target_env = "musl")]
    // SAFETY: a return address that leads to code (`of_code`).
    let is_inside = |address: usize| unsafe { clib::ends_in_pthread_exit(address) };
    let may_be = |address: usize| address != 0 && is_inside(address) && clib::is_behind_indirect_call(address);
    if !addresses.iter().rev().take(OUTERMOST).any(|&address| may_be(address)) {
        return Ok(false);
    }
    let found = {
        let _experiment = Experiment::begin()?;
        clib::probe_c11()?
    };
    // Another place would be in a wrapper, which is a frame like any other.
    let found = found.filter(|&address| is_inside(address));
    if let Some(address) = found {
        add_c11(address)?;
    }
    DONE.store(true, Ordering::Release);
    Ok(found.is_some_and(|address| addresses.contains(&address)))
}

/// Adds the address where functions of C11's threads return to.
#[cfg(target_os = "linux")]
pub(crate) fn add_c11(address: usize) -> Result<(), Error> {
    add(address, Kind::Thread, c"start_thread (C11)", Reached::ByReturn).map(drop)
}

/// Adds the address where `main` returns to.
#[cfg(target_env = "gnu")]
pub(crate) fn add_main(address: usize, name: &'static CStr) -> Result<(), Error> {
    add(address, Kind::Main, name, Reached::ByReturn).map(drop)
}

/// A wrapper that a runtime has registered: where its code is, and its name.
struct Wrapper {
    start: AtomicUsize,
    end: AtomicUsize,
    /// A leaked C string.
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
        // A return address may be the first byte behind the wrapper's code.
        registered.start.load(Ordering::Relaxed) < address && address <= registered.end.load(Ordering::Relaxed)
    })
}

/// Whether a runtime has registered wrappers.
pub(crate) fn has_registered() -> bool {
    WRAPPER_COUNT.load(Ordering::Acquire) != 0
}

/// Whether the return address lies in a wrapper that a runtime has registered.
pub(crate) fn is_registered(address: usize) -> bool {
    wrapper_at(address).is_some()
}

/// Adds the return address, which lies in a registered wrapper, to the pool.
pub(crate) fn add_registered(address: usize) -> Result<(), Error> {
    let _uncancelled = Uncancelled::new();
    let name = wrapper_at(address).map(|found| found.name.load(Ordering::Acquire)).filter(|name| !name.is_null());
    // SAFETY: `register` leaked it, and no code changes it.
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
    // If `add_wrapper` did not take the bytes, they are freed here, without the lock.
    drop(bytes);
    registered
}

/// Stores a wrapper's code, unless it is stored already. If it stores it, it takes the name, which
/// ends in a zero.
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

/// Adds the exit trampoline of [`enter`](crate::enter()) to the pool.
pub(crate) fn add_enter(address: usize) -> Result<(), Error> {
    let _uncancelled = Uncancelled::new();
    add(address, Kind::Entered, c"exeunt::enter", Reached::ByReturn).map(drop)
}

/// The number of the trampoline for `target`, where threads of the exit trampoline `number` land
/// without a return.
pub(crate) fn add_landing(target: usize, number: usize) -> Result<usize, Error> {
    if let Some(known) = trampoline::number_of_original(target) {
        return Ok(known);
    }
    let _uncancelled = Uncancelled::new();
    add(target, trampoline::kind(number), trampoline::name(number), Reached::AtLanding)
}
