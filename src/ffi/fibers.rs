//! Fibers whose function never returns to the system: `exeunt_enter`, `exeunt_enter_on`,
//! `exeunt_discard`, `exeunt_register_trampoline`.

use super::code::{EXEUNT_OK, Failure, report, shielded};
use super::types::exeunt_entry;
use crate::base::error::Error;
use std::cell::Cell;
use std::ffi::{CStr, c_char, c_int, c_void};

/// Ends the process if a panic of exeunt's drops it: that must not unwind into C.
struct Before<'e> {
    entry: &'e Cell<bool>,
}

impl Drop for Before<'_> {
    fn drop(&mut self) {
        if !self.entry.get() {
            eprintln!("exeunt: a panic before the entry function was called; it cannot be unwound into C");
            std::process::abort();
        }
    }
}

/// Runs `call`, which is `enter` or `enter_on`, with a closure that calls the entry function.
#[inline(always)]
unsafe fn entered(
    entry: exeunt_entry,
    arg: *mut c_void,
    result: *mut *mut c_void,
    call: impl FnOnce(&mut dyn FnMut() -> *mut c_void) -> Result<*mut c_void, Error>,
) -> c_int {
    let Some(entry) = entry else {
        return report(Failure::Invalid("exeunt_enter: the entry function is null"));
    };
    let called = Cell::new(false);
    let before = Before { entry: &called };
    let outcome = call(&mut || {
        called.set(true);
        // SAFETY: the promise of the caller of `exeunt_enter`.
        unsafe { entry(arg) }
    });
    std::mem::forget(before);
    match outcome {
        Ok(value) => {
            if !result.is_null() {
                // SAFETY: the caller's promise: null, or a place for a pointer.
                unsafe { result.write(value) };
            }
            EXEUNT_OK
        }
        Err(error) => report(Failure::Error(error)),
    }
}

/// Calls `entry(arg)` as the running stack's entry function, on any stack at all. Stores what it
/// returns in `*result`, unless `result` is null.
///
/// For the function of a fiber that never returns to code of the system: Boost.Context,
/// Boost.Fiber, or a switch of your own. When `entry` returns, its handlers run and its values are
/// destroyed before `exeunt_enter` returns. A C++ exception or forced unwinding that leaves `entry`
/// passes through, and drains the stack on the way.
///
/// A fiber that stores nothing pays for the call alone: the first use of storage in `entry` arms
/// the stack.
///
/// Do not leave `entry` by `longjmp`: then nothing is drained. Nothing of this stack is drained
/// either if the process ends while `entry` runs, by `exit` for example, on any thread.
///
/// Returns 0; `EXEUNT_EALREADY_ARMED` if the stack is armed already; `EXEUNT_EINVALID` for a null
/// `entry`; or the code for why the trampoline cannot be set up. After an error `entry` has not
/// been called.
///
/// Thread-safe: it concerns the running stack alone. Not for signal handlers.
///
/// # Safety
/// `entry` must be good to call with `arg`, and `result` be null or good to write to.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C-unwind" fn exeunt_enter(entry: exeunt_entry, arg: *mut c_void, result: *mut *mut c_void) -> c_int {
    // SAFETY: the caller's promises.
    unsafe { entered(entry, arg, result, |entry| crate::enter(entry)) }
}

/// As `exeunt_enter`, on a stack whose memory you know: `low` is its lowest address, and `high` the
/// address behind its last byte. This function does not search for an armed stack, so it costs
/// little more than the call.
///
/// Returns as `exeunt_enter`, or `EXEUNT_ENOT_ON_THAT_STACK`. After an error `entry` has not been
/// called.
///
/// Thread-safe: it concerns the running stack alone. Not for signal handlers.
///
/// # Safety
/// As `exeunt_enter`. The memory must be that of the running stack, and no outer function on it may
/// have armed it.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C-unwind" fn exeunt_enter_on(
    low: *const c_void,
    high: *const c_void,
    entry: exeunt_entry,
    arg: *mut c_void,
    result: *mut *mut c_void,
) -> c_int {
    let range = low.addr()..high.addr();
    // SAFETY: the caller's promises.
    unsafe { entered(entry, arg, result, |entry| crate::enter_on(range, entry)) }
}

/// Declares that stacks will never run again, although their functions have not returned: those in
/// the memory from the address `low` up to, and without, the address `high`. Call it before you
/// free the memory of a suspended fiber, or give it to another one.
///
/// Each armed one is drained here and now, on the calling stack: storage that its handlers use is
/// the caller's.
///
/// Returns 0, also if no armed stack was found; `EXEUNT_EINVALID` if `low` is above `high`.
///
/// Thread-safe, if no code resumes those stacks meanwhile. Not for signal handlers.
///
/// # Safety
/// The stacks must be suspended for ever: you must neither resume nor unwind them. The running
/// stack must not be among them.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn exeunt_discard(low: *const c_void, high: *const c_void) -> c_int {
    shielded(|| {
        if crate::machine::arch::untagged(low.addr()) > crate::machine::arch::untagged(high.addr()) {
            return Err(Failure::Invalid("exeunt_discard: the lower bound is above the upper one"));
        }
        // SAFETY: the caller's promise.
        unsafe { crate::discard(low.addr()..high.addr()) };
        Ok(())
    })
}

/// Registers a fiber library's wrapper as an exit trampoline: a function that calls the fiber's
/// function and, when that has returned, ends the fiber by switching away. `start` is the address
/// of its first byte of code, and `end` the address behind its last. Then fibers of that library
/// can use everything without `exeunt_enter`, and the library stays as it is. minicoro's
/// `_mco_main` is such a wrapper.
///
/// Diagnosis shows `name` for it. The name is copied.
///
/// The wrapper gets all of the function's result, except the parts of vectors beyond 128 bits (AVX,
/// SVE, and SVE's predicates), which handlers may change.
///
/// Returns 0, also if this code is registered already; `EXEUNT_EINVALID` for a null name or an
/// empty range; `EXEUNT_EPOOL_FULL` if 32 are registered.
///
/// Thread-safe. Not for signal handlers.
///
/// # Safety
/// `name` must be a string. Only entry functions may return into the code. The code must stay
/// loaded, and the compiler must not have turned the call into a jump.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn exeunt_register_trampoline(
    name: *const c_char,
    start: *const c_void,
    end: *const c_void,
) -> c_int {
    shielded(|| {
        if name.is_null() || start.is_null() || start >= end {
            return Err(Failure::Invalid("exeunt_register_trampoline: the name is null or the range is empty"));
        }
        // SAFETY: not null, so a string: the caller's promise.
        let name = unsafe { CStr::from_ptr(name) }.to_string_lossy();
        // SAFETY: the caller's promise.
        unsafe { crate::register_trampoline(&name, start.addr()..end.addr()) }?;
        Ok(())
    })
}
