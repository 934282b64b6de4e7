//! Fibers whose function never returns to the system: `enter`, `discard`, registered wrappers.

use super::code::{EXEUNT_OK, Failure, report, shielded};
use super::types::exeunt_entry;
use crate::base::error::Error;
use std::cell::Cell;
use std::ffi::{CStr, c_char, c_int, c_void};

/// Ends the process if it is dropped by a panic of ours, which must not unwind into C.
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

/// Runs `call`, one of the faces of `enter`, with a closure that calls the entry function.
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
        // SAFETY: the duty of who called `exeunt_enter`.
        unsafe { entry(arg) }
    });
    std::mem::forget(before);
    match outcome {
        Ok(value) => {
            if !result.is_null() {
                // SAFETY: the duty of who called: null, or a place for a pointer.
                unsafe { result.write(value) };
            }
            EXEUNT_OK
        }
        Err(error) => report(Failure::Error(error)),
    }
}

/// Calls `entry(arg)` as the running stack's entry function, on any stack at all, and stores what it returns in
/// `*result`, unless `result` is null.
///
/// For the function of a fiber that never returns to code of the system: Boost.Context, Boost.Fiber, or your own switch.
/// What `entry` stores and registers is destroyed and run when it returns, before `exeunt_enter` does. If `entry` is left
/// by a C++ exception or by forced unwinding, that passes through, and the stack is drained on the way.
///
/// Nothing is paid for what is not used: the stack is armed by the first use of storage in `entry`.
///
/// It must be left in these ways: a `longjmp` out of it leaves what is stored undrained. Nor is it drained where the
/// process ends in it, by `exit` for example, on whichever thread.
///
/// Returns 0; `EXEUNT_EALREADY_ARMED` if the stack has its end already; `EXEUNT_EINVALID` for a null `entry`; or why the
/// trampoline cannot be set up. Then `entry` has not been called.
/// Thread-safe: it concerns the running stack alone. Not for signal handlers.
///
/// # Safety
/// `entry` must be good to call with `arg`, and `result` be null or good to write to.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn exeunt_enter(entry: exeunt_entry, arg: *mut c_void, result: *mut *mut c_void) -> c_int {
    // SAFETY: the caller's promises.
    unsafe { entered(entry, arg, result, |entry| crate::enter(entry)) }
}

/// As `exeunt_enter`, on a stack whose memory is known to be from `low` to `high`: it need not look who else is on this
/// stack, so it costs little more than the call.
///
/// Returns as `exeunt_enter`, or `EXEUNT_ENOT_ON_THAT_STACK`; then `entry` has not been called.
/// Thread-safe: it concerns the running stack alone. Not for signal handlers.
///
/// # Safety
/// As `exeunt_enter`; and the memory must be that of the running stack, on which no function further out is armed.
#[unsafe(no_mangle)]
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

/// Says that the stacks whose memory is from `low` to `high` will never run again, although their functions have not
/// returned. Call it before you free the memory of a suspended fiber, or give it to another one.
///
/// Each armed one is drained here and now, on the stack that calls: storage that its handlers use is the caller's.
///
/// Returns 0, also where no armed stack was found; `EXEUNT_EINVALID` if `low` is above `high`.
/// Thread-safe, if nobody resumes those stacks meanwhile. Not for signal handlers.
///
/// # Safety
/// The stacks must be suspended for ever, neither resumed nor unwound, and the running one not be among them.
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

/// Makes a runtime's wrapper known as an exit trampoline: the code from `start` to `end`, which calls a fiber's function
/// and, when that has returned, ends the fiber by switching away. Fibers of that runtime can then use everything without
/// `exeunt_enter`, and the runtime need not be changed. minicoro's `_mco_main` is such a wrapper.
///
/// `name` is what diagnosis shows for it; it is copied.
///
/// Of the function's result the wrapper gets all but the parts of vectors beyond 128 bits (AVX, SVE, and SVE's predicates), which
/// handlers may change.
///
/// Returns 0, also where this code is registered already; `EXEUNT_EINVALID` for a null name or an empty range;
/// `EXEUNT_EPOOL_FULL` when 32 are registered.
/// Thread-safe. Not for signal handlers.
///
/// # Safety
/// `name` must be a string. What returns into the code must be entry functions only; the code must stay loaded, and the
/// compiler must not have turned the call into a jump.
#[unsafe(no_mangle)]
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
