//! Handlers, the identity of a stack, and `unload`: `exeunt_at_exit`, `exeunt_at_exit_owned`,
//! `exeunt_at_exit_stoppable`, `exeunt_stop`, `exeunt_unload`, `exeunt_id`.

use super::code::{Failure, report, shielded};
use super::types::exeunt_fn;
use crate::base::alloc::{refused, try_box};
use crate::face::at_exit;
use crate::machine::arch::stack_pointer;
use crate::storage::handlers::Handler;
use std::ffi::{c_int, c_void};
use std::mem::ManuallyDrop;

/// Registers a handler, which is called with `arg` when the running stack ends. Arms the stack if
/// it is not armed.
///
/// Handlers run last in, first out, on that very stack, before its thread's pthread keys and C++
/// `thread_local` destructors, with all values still there. A handler may use storage and register
/// more handlers.
///
/// Returns 0; `EXEUNT_EINVALID` for a null `handler`; or the code for why the stack cannot be
/// armed. After an error nothing has changed.
///
/// Thread-safe: it concerns the running stack alone. Not for signal handlers.
///
/// # Safety
/// `handler` must be good to call with `arg` when the stack ends, on the thread that runs the stack
/// then. Its code must stay loaded until then (link a plugin that may be unloaded with
/// `-Wl,-z,nodelete`).
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn exeunt_at_exit(handler: exeunt_fn, arg: *mut c_void) -> c_int {
    let face = stack_pointer();
    shielded(|| {
        let handler = handler.ok_or(Failure::Invalid("exeunt_at_exit: the handler is null"))?;
        // SAFETY: the caller's promise.
        let handler = try_box(move || unsafe { handler(arg) }).map_err(|_| refused())?;
        at_exit::register(handler, face).map_err(|(error, _)| error)?;
        Ok(())
    })
}

/// A handler, and the function that is called instead if the handler is dropped without a run.
struct Owned {
    handler: Option<unsafe extern "C-unwind" fn(*mut c_void)>,
    forget: exeunt_fn,
    arg: *mut c_void,
}

impl Owned {
    fn run(mut self) {
        if let Some(handler) = self.handler.take() {
            // SAFETY: the promise of the caller of `exeunt_at_exit_owned`.
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

/// Registers a handler that owns its `arg`, and returns the registration's number. `face` is the
/// stack pointer of the function that C calls.
///
/// # Safety
/// As `exeunt_at_exit`, for both functions.
unsafe fn register_owned(
    handler: exeunt_fn,
    forget: exeunt_fn,
    arg: *mut c_void,
    of_null: &'static str,
    face: usize,
) -> Result<u64, Failure> {
    if handler.is_none() {
        return Err(Failure::Invalid(of_null));
    }
    let owned = Owned { handler, forget, arg };
    // After an error the handler is not dropped, as that would call `forget`: `arg` is still the
    // caller's.
    let handler = match try_box(move || owned.run()) {
        Ok(handler) => handler as Handler,
        Err(handler) => {
            std::mem::forget(handler);
            return Err(refused().into());
        }
    };
    at_exit::register(handler, face).map_err(|(error, handler)| {
        let handler = Box::into_raw(handler) as *mut ManuallyDrop<dyn FnOnce()>;
        // SAFETY: the same box, whose memory is freed here.
        drop(unsafe { Box::from_raw(handler) });
        error.into()
    })
}

/// As `exeunt_at_exit`, for a handler that owns its `arg`. If `exeunt_unload` drops the handler,
/// `forget` is called with `arg` instead, to free it. After an error neither is called, and `arg`
/// is still yours.
///
/// Returns and thread safety: as `exeunt_at_exit`.
///
/// # Safety
/// As `exeunt_at_exit`, for both functions.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn exeunt_at_exit_owned(handler: exeunt_fn, forget: exeunt_fn, arg: *mut c_void) -> c_int {
    const OF_NULL: &str = "exeunt_at_exit_owned: the handler is null";
    let face = stack_pointer();
    // SAFETY: the caller's promise.
    shielded(|| unsafe { register_owned(handler, forget, arg, OF_NULL, face) }.map(drop))
}

/// As `exeunt_at_exit_owned`, and stores in `*registration` a number by which `exeunt_stop` takes
/// the handler back. It is never 0, and no other registration in the life of the process has it.
/// After an error `*registration` is 0.
///
/// It is for code that runs many times on a stack that goes on, as one request after the other on a
/// connection's thread.
///
/// Returns and thread safety: as `exeunt_at_exit`; also `EXEUNT_EINVALID` for a null
/// `registration`.
///
/// # Safety
/// As `exeunt_at_exit`, for both functions. `registration` must be null or good to write to.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn exeunt_at_exit_stoppable(
    handler: exeunt_fn,
    forget: exeunt_fn,
    arg: *mut c_void,
    registration: *mut u64,
) -> c_int {
    const OF_NULL: &str = "exeunt_at_exit_stoppable: the handler is null";
    let face = stack_pointer();
    shielded(|| {
        if registration.is_null() {
            return Err(Failure::Invalid("exeunt_at_exit_stoppable: there is no place for the registration's number"));
        }
        // SAFETY: not null, so good to write to: the caller's promise.
        unsafe { registration.write(0) };
        // SAFETY: the caller's promise.
        let number = unsafe { register_owned(handler, forget, arg, OF_NULL, face) }?;
        // SAFETY: as above.
        unsafe { registration.write(number) };
        Ok(())
    })
}

/// Takes back a handler of the running stack, which `exeunt_at_exit_stoppable` has registered: it
/// is not called any more. Its `forget` is called here with its `arg`.
///
/// A handler may stop another one that has not begun.
///
/// Returns 0; or `EXEUNT_EABSENT` if this stack has no such handler: it is running or has run, was
/// stopped before, or `exeunt_unload` has dropped it; or it belongs to another stack, and then it
/// will still be called. So it is where no walk leads from here to the stack's end (below code
/// without unwind tables). Free what the handler uses only after 0.
///
/// Thread-safe: it concerns the running stack alone. Not for signal handlers.
#[unsafe(no_mangle)]
pub extern "C" fn exeunt_stop(registration: u64) -> c_int {
    shielded(|| if at_exit::take_back(registration) { Ok(()) } else { Err(Failure::Absent) })
}

/// Destroys all values of the running stack, drops its handlers without calling them, and puts its
/// exit back. Then the stack is as it was before it was armed.
///
/// Returns 0, also if the stack is not armed; or `EXEUNT_EBUSY` if the call comes from a Rust
/// key's comparison.
///
/// Thread-safe: it concerns the running stack alone. Not for signal handlers.
#[unsafe(no_mangle)]
pub extern "C" fn exeunt_unload() -> c_int {
    shielded(|| Ok(crate::unload()?))
}

/// The identity of the running stack, unique in the life of the process. Arms the stack if it is
/// not armed. The identity stays the same until the stack ends or is unloaded, whichever thread
/// runs it. 0 if the stack cannot be armed: `exeunt_last_code` and `exeunt_last_error` say why.
///
/// Thread-safe: it concerns the running stack alone. Not for signal handlers.
#[unsafe(no_mangle)]
pub extern "C" fn exeunt_id() -> u64 {
    match at_exit::id_for(stack_pointer()) {
        Ok(id) => id.get(),
        Err(error) => {
            report(Failure::Error(error));
            0
        }
    }
}
