//! A function that is called at every end: `exeunt_on_every_end`, `exeunt_on_every_thread_end`,
//! `exeunt_stop_every_end`.

use super::code::{Failure, shielded};
use crate::StackEnd;
use std::ffi::{c_int, c_void};

/// The end of a stack, as `exeunt_on_every_end` and `exeunt_on_every_thread_end` describe it.
#[repr(C)]
pub struct exeunt_stack_end {
    /// `EXEUNT_KIND_THREAD` or `EXEUNT_KIND_MAIN`.
    pub kind: c_int,
    /// `EXEUNT_ENDING_RETURNED`, `EXEUNT_ENDING_EXITED`, `EXEUNT_ENDING_CANCELLED`, or
    /// `EXEUNT_ENDING_UNKNOWN`.
    pub ending: c_int,
    /// What the stack's function has returned, or what `pthread_exit` was given; null with other
    /// endings. Of `main` and C11's threads it is the `int`.
    pub value: *mut c_void,
    /// 1 if the stack is armed: then its handlers run next. Otherwise 0, also where slot redirect
    /// has armed it: then they have run.
    pub armed: c_int,
}

/// A function for `exeunt_on_every_end` and `exeunt_on_every_thread_end`. `end` is good until it
/// returns. `arg` is what that call was given.
pub type exeunt_end_fn = Option<unsafe extern "C" fn(end: *const exeunt_stack_end, arg: *mut c_void)>;

struct Call {
    function: unsafe extern "C" fn(end: *const exeunt_stack_end, arg: *mut c_void),
    arg: *mut c_void,
}

// SAFETY: the promise of the caller of `exeunt_on_every_end`: any thread may make the call.
unsafe impl Send for Call {}
// SAFETY: as above.
unsafe impl Sync for Call {}

impl Call {
    fn with(&self, end: &StackEnd) {
        let end = exeunt_stack_end {
            kind: end.kind as c_int,
            ending: end.ending as c_int,
            value: std::ptr::with_exposed_provenance_mut(end.value.unwrap_or(0)),
            armed: c_int::from(end.is_armed),
        };
        // SAFETY: the promise of the caller of `exeunt_on_every_end`.
        unsafe { (self.function)(&raw const end, self.arg) }
    }
}

/// Has `function` called with `arg` at the end of every thread (of `pthread_create` and of C11) and
/// of `main`, whether their stacks are armed or not, and whether they are there already or begin
/// later. It is for tools that watch a whole program.
///
/// This needs code redirect, and chooses it for the process if nothing is chosen yet. It patches
/// libc's code for all these kinds at once, on any thread.
///
/// `function` runs on the stack that ends, when the frames of the stack's function are gone, before
/// the thread's pthread keys and C++ `thread_local` destructors, and before the stack's own handlers.
/// It is called by returns, `pthread_exit` and cancellation. It is not called by `exit`, `_exit` or a
/// fatal signal, which end the process, nor for fibers. Before glibc 2.34 it is not called where
/// `main` ends by `pthread_exit`.
///
/// exeunt allocates nothing for the call and takes no lock. `function` may run on several threads at
/// once, and is no signal handler. It must return: it must not end the thread, nor throw.
/// Cancellation is deferred meanwhile. It must not arm the stack nor use storage, nor call
/// `exeunt_restore_code_sites`.
///
/// Returns 0; `EXEUNT_EINVALID` for a null `function`; `EXEUNT_EREDIRECT` if the process uses slot
/// redirect; `EXEUNT_EBUSY` if another function is registered; `EXEUNT_ENO_CODE_SITE` where not all
/// of libc's code can be found and patched, and with musl and on macOS; or a code of
/// `exeunt_at_exit`. After an error no code has changed.
///
/// Thread-safe. Not for signal handlers.
///
/// # Safety
/// `function` must be good to call with `arg` on any thread at any time, and its code must stay
/// loaded, also after it was taken back: a thread may be running it.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn exeunt_on_every_end(function: exeunt_end_fn, arg: *mut c_void) -> c_int {
    shielded(|| {
        let function = function.ok_or(Failure::Invalid("exeunt_on_every_end: the function is null"))?;
        let call = Call { function, arg };
        // It stays until `exeunt_stop_every_end`.
        drop(crate::on_every_end(move |end| call.with(end))?);
        Ok(())
    })
}

/// Has `function` called with `arg` at the end of every thread, as `exeunt_on_every_end` does, and
/// leaves `main` alone: libc's code that it returns into is not patched.
///
/// This chooses no redirect: the process may use slot redirect, or choose either one later. A stack
/// that slot redirect has armed has run its handlers before `function` is called. All else that
/// `exeunt_on_every_end` says of threads and of `function` holds here as well. One function can be
/// registered in a process, by this or by that call.
///
/// Returns what `exeunt_on_every_end` does, but for `EXEUNT_EREDIRECT`. After an error no code has
/// changed.
///
/// Thread-safe. Not for signal handlers.
///
/// # Safety
/// As `exeunt_on_every_end`.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn exeunt_on_every_thread_end(function: exeunt_end_fn, arg: *mut c_void) -> c_int {
    shielded(|| {
        let function = function.ok_or(Failure::Invalid("exeunt_on_every_thread_end: the function is null"))?;
        let call = Call { function, arg };
        // It stays until `exeunt_stop_every_end`.
        drop(crate::on_every_thread_end(move |end| call.with(end))?);
        Ok(())
    })
}

/// Takes back the function of `exeunt_on_every_end` or `exeunt_on_every_thread_end`: no call of it
/// begins from now on. Calls that have begun on other threads go on. `exeunt_restore_code_sites`
/// then puts libc's code back.
///
/// Returns 0; or `EXEUNT_EABSENT` if there is none.
///
/// Thread-safe. Not for signal handlers.
#[unsafe(no_mangle)]
pub extern "C" fn exeunt_stop_every_end() -> c_int {
    #[cfg(code_redirect)]
    let was_there = crate::life::every_end::take_back_any();
    #[cfg(not(code_redirect))]
    let was_there = false;
    shielded(|| if was_there { Ok(()) } else { Err(Failure::Absent) })
}
