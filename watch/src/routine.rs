//! The start routine of a thread that this library has not seen begin: a word of libc's description of
//! the thread. A thread whose routine is known shows at which place.

use std::ffi::c_void;
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Where the description has the start routine, or 0.
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "for `attach` and its test"))]
static START_AT: AtomicUsize = AtomicUsize::new(0);

/// Finds the place, on a thread with this start routine and this argument: they are neighbours there.
///
/// # Safety
/// glibc has created the running thread.
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "for `attach` and its test"))]
pub unsafe fn find(start: usize, argument: usize) {
    // SAFETY: has no conditions.
    let this = unsafe { libc::pthread_self() } as usize;
    // `struct pthread` of glibc has more than 0x880 bytes.
    let found = (0..0x870).step_by(8).find(|at| {
        // SAFETY: words of the description, by the contract. libc may be changing them.
        let word = |at: usize| unsafe { ((this + at) as *const usize).read_volatile() };
        word(*at) == start && word(*at + 8) == argument
    });
    START_AT.store(found.unwrap_or(0), Relaxed);
}

/// Finds this place, and that of the stack's bounds, by a thread that ends at once.
pub fn find_by_thread() {
    extern "C" fn run(argument: *mut c_void) -> *mut c_void {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: this is what `find_by_thread` has created the thread for.
        unsafe {
            find(run as *const () as usize, argument as usize)
        };
        crate::touched::find_block();
        argument
    }
    /// A word that no other code has.
    static ARGUMENT: u8 = 0;
    let argument = (&raw const ARGUMENT).cast_mut().cast();
    // SAFETY: `run` takes any pointer. A thread that was created is joined, once.
    unsafe {
        let mut thread = 0;
        if libc::pthread_create(&mut thread, ptr::null(), run, argument) == 0 {
            libc::pthread_join(thread, ptr::null_mut());
        }
    }
}

/// The place, or 0.
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "for `attach` and its test"))]
pub fn place() -> usize {
    START_AT.load(Relaxed)
}

/// The start routine of the running thread, if the place is known.
#[cfg(target_arch = "x86_64")]
pub fn of_running() -> Option<usize> {
    let at = place();
    // SAFETY: the place of the start routine in libc's description of this thread.
    (at != 0).then(|| unsafe { ((libc::pthread_self() as usize + at) as *const usize).read_volatile() })
}
