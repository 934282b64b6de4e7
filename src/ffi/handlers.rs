//! Handlers, the identity of a stack, and `unload`.

use super::code::{Failure, report, shielded};
use super::types::exeunt_fn;
use crate::base::alloc::{refused, try_box};
use crate::face::at_exit;
use crate::storage::values::Handler;
use std::ffi::{c_int, c_void};
use std::mem::ManuallyDrop;

/// Registers a handler, which is called with `arg` when the running stack ends. The stack is armed if it was not.
///
/// Handlers run last in, first out, on that very stack, before its thread's pthread keys and C++ `thread_local`
/// destructors, with all values still there. A handler may use storage and register more handlers.
///
/// Returns 0; `EXEUNT_EINVALID` for a null `handler`; or why the stack cannot be armed. Then nothing has changed.
/// Thread-safe: it concerns the running stack alone. Not for signal handlers.
///
/// # Safety
/// `handler` must be good to call with `arg` when the stack ends, on whichever thread runs it then: its code must stay
/// loaded until then (a plugin that may be unloaded is linked with `-Wl,-z,nodelete`).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn exeunt_at_exit(handler: exeunt_fn, arg: *mut c_void) -> c_int {
    shielded(|| {
        let handler = handler.ok_or(Failure::Invalid("exeunt_at_exit: the handler is null"))?;
        // SAFETY: the caller's promise.
        crate::at_exit(move || unsafe { handler(arg) })?;
        Ok(())
    })
}

/// A handler, and what is called instead if it is forgotten.
struct Owned {
    handler: Option<unsafe extern "C-unwind" fn(*mut c_void)>,
    forget: exeunt_fn,
    arg: *mut c_void,
}

impl Owned {
    fn run(mut self) {
        if let Some(handler) = self.handler.take() {
            // SAFETY: the duty of who called `exeunt_at_exit_owned`.
            unsafe { handler(self.arg) }
        }
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        if let (Some(_), Some(forget)) = (self.handler, self.forget) {
            // SAFETY: as above.
            unsafe { forget(self.arg) }
        }
    }
}

/// As `exeunt_at_exit`, for a handler that owns its `arg`: if it is forgotten by `exeunt_unload`, `forget` is called with
/// `arg` instead, to free it. After an error neither is called, and `arg` is still yours.
///
/// Returns and thread safety: as `exeunt_at_exit`.
///
/// # Safety
/// As `exeunt_at_exit`, for both functions.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn exeunt_at_exit_owned(handler: exeunt_fn, forget: exeunt_fn, arg: *mut c_void) -> c_int {
    shielded(|| {
        if handler.is_none() {
            return Err(Failure::Invalid("exeunt_at_exit_owned: the handler is null"));
        }
        let owned = Owned { handler, forget, arg };
        // After an error it is not dropped, which would call `forget`: `arg` is still the caller's.
        let handler = match try_box(move || owned.run()) {
            Ok(handler) => handler as Handler,
            Err(handler) => {
                std::mem::forget(handler);
                return Err(refused().into());
            }
        };
        at_exit::register(handler).map_err(|(error, handler)| {
            let handler = Box::into_raw(handler) as *mut ManuallyDrop<dyn FnOnce()>;
            // SAFETY: the same box, whose memory is freed here.
            drop(unsafe { Box::from_raw(handler) });
            error.into()
        })
    })
}

/// Destroys all values of the running stack, forgets its handlers without calling them, and puts its exit back: it is as
/// it was before it was armed.
///
/// Returns 0, also where the stack is not armed.
/// Thread-safe: it concerns the running stack alone. Not for signal handlers.
#[unsafe(no_mangle)]
pub extern "C" fn exeunt_unload() -> c_int {
    shielded(|| {
        crate::unload();
        Ok(())
    })
}

/// The identity of the running stack, which is armed if it was not: unique in the life of the process. It stays the same
/// until the stack ends or is unloaded, whichever thread runs it. 0 where the stack cannot be armed;
/// `exeunt_last_code` and `exeunt_last_error` say why.
///
/// Thread-safe: it concerns the running stack alone. Not for signal handlers.
#[unsafe(no_mangle)]
pub extern "C" fn exeunt_id() -> u64 {
    match crate::id() {
        Ok(id) => id.get(),
        Err(error) => {
            report(Failure::Error(error));
            0
        }
    }
}
