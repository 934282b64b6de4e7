//! musl: thread ends and exit trampolines. The head of `mod.rs` lists the names.
//!
//! musl is built without unwind tables, and its exit trampolines are local functions, which no
//! dynamic linker knows (`src/thread/pthread_create.c`, `src/env/__libc_start_main.c`):
//!
//! ```text
//!   start                      start_c11                  libc_start_main_stage2
//!
//!   call *start_func           call *start_func           call *main
//!   mov  %rax,%rdi             movslq %eax,%rdi           mov  %eax,%edi
//!   call __pthread_exit        call __pthread_exit        call exit
//! ```
//!
//! So every walk ends at the return address into one of them. An experiment finds the first
//! ([`PROBES`]), and the second where a walk ends at code of this shape ([`ends_in_pthread_exit`]).
//! The shape alone decides on the third ([`main_exit`]). There is no `makecontext`.

use super::probe::Probe;
use super::threads::probe_thread;
use crate::base::error::Error;
use crate::base::kind::Kind;
use crate::machine::arch;
use std::ffi::{CStr, c_int, c_void};
use std::sync::atomic::{AtomicU32, Ordering};

/// The key whose destructor [`at_thread_end`] has registered, plus one; zero before that.
static KEY: AtomicU32 = AtomicU32::new(0);

/// Registers `end`, the same function in every call, to be called at the end of the running thread.
/// musl runs no function at a thread's end but the destructors of keys, in the order in which the
/// keys were created, up to four times (`src/thread/pthread_key_create.c`). It also works while
/// they run, except in the last of these rounds.
///
/// # Errors
/// [`Error::CallFailed`] where the process has no key to spare.
pub(crate) fn at_thread_end(end: unsafe extern "C" fn(*mut c_void)) -> Result<(), Error> {
    if KEY.load(Ordering::Acquire) == 0 {
        let mut key = 0;
        // SAFETY: `end` lies in this library, which is pinned before a stack is armed.
        let error = unsafe { libc::pthread_key_create(&raw mut key, Some(end)) };
        if error != 0 {
            return Err(Error::CallFailed { call: "pthread_key_create", errno: error });
        }
        if KEY.compare_exchange(0, key + 1, Ordering::AcqRel, Ordering::Acquire).is_err() {
            // Another thread was faster.
            // SAFETY: no code has seen this key.
            unsafe { libc::pthread_key_delete(key) };
        }
    }
    let key = KEY.load(Ordering::Acquire) - 1;
    // SAFETY: the key exists for ever. Its destructor reads no value, so any value but null will do.
    let error = unsafe { libc::pthread_setspecific(key, (&raw const KEY).cast()) };
    if error == 0 { Ok(()) } else { Err(Error::CallFailed { call: "pthread_setspecific", errno: error }) }
}

/// `exit` runs no destructors of keys.
pub(crate) const EXIT_ENDS_THREAD: bool = false;

/// The experiments that every process makes.
pub(crate) const PROBES: [Probe; 1] = [Probe { kind: Kind::Thread, name: c"start", run: probe_thread }];

/// Whether the code that the return address `address` leads to passes a result to `pthread_exit`.
///
/// # Safety
/// `address` must be a return address.
pub(crate) unsafe fn ends_in_pthread_exit(address: usize) -> bool {
    // SAFETY: the caller's promise.
    unsafe { arch::passes_result_to(address, libc::pthread_exit as *const () as usize) }
}

/// The name of the exit trampoline of `main`, if `main` returns to `address`. The code there passes
/// the result to `exit`. It lies in `__libc_start_main`, or in a function beside it that
/// `__libc_start_main` calls. It has no unwind table, so the walk must have ended there: `outer` is
/// empty.
pub(crate) fn main_exit(address: usize, outer: &[usize]) -> Option<&'static CStr> {
    unsafe extern "C" {
        /// What the program's first code calls.
        fn __libc_start_main(
            main: *const c_void,
            count: c_int,
            arguments: *const c_void,
            begin: *const c_void,
            end: *const c_void,
            linker: *const c_void,
        ) -> c_int;
    }
    /// More bytes than the functions of `__libc_start_main.c` have together.
    const REACH: usize = 4096;

    if !outer.is_empty() || (__libc_start_main as *const () as usize).abs_diff(address) > REACH {
        return None;
    }
    // SAFETY: unwinding has given the return address `address`.
    let is_main = unsafe { arch::ends_in_exit(address, libc::exit as *const () as usize) };
    is_main.then_some(c"libc_start_main_stage2")
}

/// `start` calls `__pthread_exit` with the start routine's result. `pthread_exit` and cancellation
/// run the same code from where they are, without unwinding.
pub(crate) const ALL_ENDS_AT_HOOK: bool = false;
