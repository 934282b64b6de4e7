//! macOS' libraries: which of their code stacks return into. Built and linked, but never run by its authors.

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
    // SAFETY: both only ask about the running thread.
    let (high, size) = unsafe {
        let me = libc::pthread_self();
        (libc::pthread_get_stackaddr_np(me) as usize, libc::pthread_get_stacksize_np(me))
    };
    Some(high.checked_sub(size)?..high)
}

/// Has `end` called, with null, when the running thread ends, before what else is waiting for that. It may be asked for
/// while the thread ends.
pub(crate) fn at_thread_end(end: unsafe extern "C" fn(*mut c_void)) {
    unsafe extern "C" {
        /// What C++ and Rust register destructors of thread-locals with.
        fn _tlv_atexit(end: unsafe extern "C" fn(*mut c_void), with: *mut c_void);
    }
    // SAFETY: `end` takes null, and this library, which it is of, is pinned.
    unsafe { _tlv_atexit(end, ptr::null_mut()) };
}

unsafe extern "C" {
    /// `asm/`: stores the address that it returns to.
    fn exeunt_probe(result: *mut c_void) -> *mut c_void;
}

/// The experiments that every process makes.
pub(crate) const PROBES: [Probe; 1] = [Probe { kind: Kind::Thread, name: c"_pthread_start", run: probe_thread }];

/// The address in `_pthread_start` that start routines return to, by starting a thread and asking it.
fn probe_thread() -> Result<usize, Error> {
    let mut address = 0_usize;
    let mut thread: libc::pthread_t = 0;
    // SAFETY: the thread only writes `address`, and is joined before that is read.
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

/// The name of the exit trampoline of `main`, if `address` is where `main` returns to, `outer` being the return addresses
/// further out: dyld's `start` calls `main` and hands its result to `exit`, and nothing is further out.
pub(crate) fn main_exit(address: usize, outer: &[usize]) -> Option<&'static CStr> {
    // SAFETY: asks only.
    let main_thread = unsafe { libc::pthread_main_np() } == 1;
    let named = exported_symbol(address - 1).is_some_and(|name| matches!(name.to_bytes(), b"start" | b"_start"));
    (main_thread && named && outer.iter().all(|&outer| outer == 0)).then_some(c"start")
}

/// `_pthread_start` calls `_pthread_exit` with what the start routine returns. `pthread_exit` and cancellation call the same from
/// where they are, without unwinding (`src/pthread.c` and `src/pthread_cancelable.c` of Apple's libpthread).
pub(crate) const ALL_ENDS_AT_HOOK: bool = false;
