//! macOS' system libraries: thread bounds, thread ends, and exit trampolines. The authors have
//! built and linked this file, but never run it.

use super::probe::Probe;
use crate::base::error::Error;
use crate::base::kind::Kind;
use crate::base::symbols::exported_symbol;
use crate::machine::arch;
use std::ffi::{CStr, c_void};
use std::ops::Range;
use std::ptr;

/// The memory of the running thread's stack.
pub(crate) fn thread_bounds() -> Option<Range<usize>> {
    // SAFETY: both functions read the running thread's attributes.
    let (high, size) = unsafe {
        let me = libc::pthread_self();
        (libc::pthread_get_stackaddr_np(me) as usize, libc::pthread_get_stacksize_np(me))
    };
    Some(high.checked_sub(size)?..high)
}

/// Registers `end` to be called, with null, at the end of the running thread, before what was
/// registered earlier. It also works while the thread ends.
pub(crate) fn at_thread_end(end: unsafe extern "C" fn(*mut c_void)) -> Result<(), Error> {
    unsafe extern "C" {
        /// C++ and Rust register the destructors of thread-locals with this function.
        fn _tlv_atexit(end: unsafe extern "C" fn(*mut c_void), with: *mut c_void);
    }
    // SAFETY: `end` takes null, and lies in this library, which is pinned.
    unsafe { _tlv_atexit(end, ptr::null_mut()) };
    Ok(())
}

/// `exit` runs what [`at_thread_end`] has registered for the thread that calls it (`_tlv_exit` in
/// dyld).
pub(crate) const EXIT_ENDS_THREAD: bool = true;

unsafe extern "C" {
    /// `asm/`: stores the address that it returns to.
    fn exeunt_probe(result: *mut c_void) -> *mut c_void;
}

/// The experiments that every process makes.
pub(crate) const PROBES: [Probe; 1] = [Probe { kind: Kind::Thread, name: c"_pthread_start", run: probe_thread }];

/// The address in `_pthread_start` that start routines return to: starts a thread with
/// `exeunt_probe`, which stores it.
fn probe_thread() -> Result<usize, Error> {
    let mut address = 0_usize;
    let mut thread: libc::pthread_t = 0;
    // SAFETY: the thread writes nothing but `address`, which is read after the thread was joined.
    let error = unsafe {
        let start = std::mem::transmute::<
            unsafe extern "C" fn(*mut c_void) -> *mut c_void,
            extern "C" fn(*mut c_void) -> *mut c_void,
        >(exeunt_probe);
        let error = libc::pthread_create(&raw mut thread, ptr::null(), start, (&raw mut address).cast());
        if error == 0 {
            libc::pthread_join(thread, ptr::null_mut());
        }
        error
    };
    if error == 0 { Ok(arch::strip(address)) } else { Err(Error::CallFailed { call: "pthread_create", errno: error }) }
}

/// The name of the exit trampoline of `main`, if `main` returns to `address`. dyld's `start` calls
/// `main` and passes its result to `exit`. It is the outermost function: `outer`, the return
/// addresses of the outer frames, must all be zero.
pub(crate) fn main_exit(address: usize, outer: &[usize]) -> Option<&'static CStr> {
    // SAFETY: `pthread_main_np` has no preconditions.
    let main_thread = unsafe { libc::pthread_main_np() } == 1;
    let named = exported_symbol(address - 1).is_some_and(|name| matches!(name.to_bytes(), b"start" | b"_start"));
    (main_thread && named && outer.iter().all(|&outer| outer == 0)).then_some(c"start")
}

/// `_pthread_start` calls `_pthread_exit` with the start routine's result. `pthread_exit` and
/// cancellation call the same function from where they are, without unwinding (`src/pthread.c` and
/// `src/pthread_cancelable.c` of Apple's libpthread).
pub(crate) const ALL_ENDS_AT_HOOK: bool = false;
