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
use crate::base::cancellation::Uncancelled;
use crate::base::error::Error;
use crate::base::kind::Kind;
use crate::machine::arch;
use std::cell::UnsafeCell;
use std::ffi::{CStr, c_int, c_void};
use std::ptr;

/// `struct __ptcb` of `<pthread.h>`: a cleanup handler of a thread.
#[repr(C)]
struct Cleanup {
    run: Option<unsafe extern "C" fn(*mut c_void)>,
    argument: *mut c_void,
    next: *mut Cleanup,
}

unsafe extern "C" {
    /// What `pthread_cleanup_push` calls in C: puts a handler in front of the thread's list, and
    /// stores the former first one in it.
    fn _pthread_cleanup_push(handler: *mut Cleanup, run: unsafe extern "C" fn(*mut c_void), argument: *mut c_void);
    fn _pthread_cleanup_pop(handler: *mut Cleanup, execute: c_int);
}

thread_local! {
    // Nothing in it needs a destructor, so it is there to the very end.
    static LAST: UnsafeCell<Cleanup> =
        const { UnsafeCell::new(Cleanup { run: None, argument: ptr::null_mut(), next: ptr::null_mut() }) };
}

/// Registers `end` for the end of the running thread, once for each thread. It becomes the thread's
/// last cleanup handler. `pthread_exit` and cancellation run the handlers of the code that they
/// leave, then this one, and then the destructors of keys, among which are those of thread-locals
/// (`__pthread_exit` in musl's `src/thread/pthread_create.c`). So does a thread that returns.
///
/// Code that registers handlers later puts them in front, and takes them away again.
pub(crate) fn at_thread_end(end: unsafe extern "C" fn(*mut c_void)) -> Result<(), Error> {
    let _uncancelled = Uncancelled::new();
    let own = LAST.with(UnsafeCell::get);
    // SAFETY: the list is this thread's, of frames that have not ended and of this thread-local,
    // and no other thread uses it.
    unsafe {
        _pthread_cleanup_push(own, end, ptr::null_mut());
        let mut last = own;
        while !(*last).next.is_null() {
            last = (*last).next;
        }
        if last != own {
            _pthread_cleanup_pop(own, 0);
            (*own).next = ptr::null_mut();
            (*last).next = own;
        }
    }
    Ok(())
}

/// `exit` runs neither cleanup handlers nor destructors of keys.
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
    // SAFETY: the caller has checked that the return address leads to code (`exit/recognition.rs`,
    // `of_code`).
    let is_main = unsafe { arch::ends_in_exit(address, libc::exit as *const () as usize) };
    is_main.then_some(c"libc_start_main_stage2")
}

/// `start` calls `__pthread_exit` with the start routine's result. `pthread_exit` and cancellation
/// run the same code from where they are, without unwinding.
pub(crate) const ALL_ENDS_AT_HOOK: bool = false;
