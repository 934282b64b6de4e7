//! Dynamic slots: `exeunt_slot_alloc`, `exeunt_slot_set`, `exeunt_slot_get`, `exeunt_slot_free`.

use super::code::{EXEUNT_OK, Failure, report, shielded};
use super::types::exeunt_fn;
use crate::face::slots;
use crate::machine::arch::stack_pointer;
use std::ffi::{c_int, c_void};

/// Allocates a slot, and stores its number in `*slot`. The number is never 0. Every stack has a
/// pointer of its own in the slot, null at first. `destructor`, which may be null, is called with
/// each pointer that is not null: when its stack ends, and when the slot is freed.
///
/// Returns 0; `EXEUNT_ESLOTS_EXHAUSTED` if 2,048 are allocated; `EXEUNT_EINVALID` for a null
/// `slot`. After an error `*slot` is as it was.
///
/// Thread-safe. Not for signal handlers.
///
/// # Safety
/// `slot` must be good to write to, and `destructor` good to call with all values that will be set,
/// on any thread. Its code must stay loaded.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn exeunt_slot_alloc(slot: *mut u32, destructor: exeunt_fn) -> c_int {
    shielded(|| {
        if slot.is_null() {
            return Err(Failure::Invalid("exeunt_slot_alloc: there is no place for the slot's index"));
        }
        // SAFETY: the caller's promise.
        let handle = unsafe { slots::alloc_unwinding(destructor) }?;
        // SAFETY: the caller's promise.
        unsafe { slot.write(handle) };
        Ok(())
    })
}

/// Sets the slot's pointer on the running stack, and arms the stack if it is not armed. The old
/// pointer is overwritten, and the destructor is not called with it: get it first, and free it.
///
/// Returns 0, `EXEUNT_ENO_SUCH_SLOT`, or the code for why the stack cannot be armed.
///
/// Thread-safe: it concerns the running stack alone. Not for signal handlers.
///
/// # Safety
/// `value` must be what the slot's destructor, and the code that reads it on this stack, take it
/// for.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn exeunt_slot_set(slot: u32, value: *mut c_void) -> c_int {
    let face = stack_pointer();
    shielded(|| Ok(slots::exchange(slot, value, face).map(drop)?))
}

/// Stores the slot's pointer on the running stack in `*value`: null if none was set, and on an
/// alternate signal stack. Never arms the stack.
///
/// Returns 0; `EXEUNT_ENO_SUCH_SLOT`, then `*value` is null; or `EXEUNT_EINVALID` for a null
/// `value`.
///
/// Thread-safe: it concerns the running stack alone. Async-signal-safe as long as it returns 0.
///
/// # Safety
/// `value` must be null or good to write to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn exeunt_slot_get(slot: u32, value: *mut *mut c_void) -> c_int {
    if value.is_null() {
        return report(Failure::Invalid("exeunt_slot_get: there is no place for the value"));
    }
    let (found, code) = match slots::get(slot) {
        Ok(found) => (found, EXEUNT_OK),
        Err(error) => (std::ptr::null_mut(), report(Failure::Error(error))),
    };
    // SAFETY: not null, so good to write to: the caller's promise.
    unsafe { value.write(found) };
    code
}

/// Frees the slot. Its number is invalid from then on, and no stack has a pointer in it any more.
/// The destructor is called with each pointer that is not null, here and now.
///
/// Returns 0, or `EXEUNT_ENO_SUCH_SLOT`, also if it was freed before.
///
/// Thread-safe, if no stack uses this slot meanwhile. Not for signal handlers.
///
/// # Safety
/// No stack may use the slot or what it points to meanwhile.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn exeunt_slot_free(slot: u32) -> c_int {
    // SAFETY: the caller's promise.
    shielded(|| Ok(unsafe { slots::free(slot) }?))
}
