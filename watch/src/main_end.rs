//! How `main` ends in a process that ran already. No code of libc's is patched for it, and its stack
//! is left alone: so other code that arms it, such as another copy of exeunt, finds all as it was,
//! also when this library has let go. `exit` runs the function that `watch` registers, before those
//! that the program registered earlier; and the frames below it say whether `main` has returned.

use crate::{backtrace, files};
use std::ffi::{c_int, c_void};
use std::ops::ControlFlow;
use std::sync::Once;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

unsafe extern "C" {
    // glibc's, which passes the status on.
    fn on_exit(function: extern "C" fn(status: c_int, argument: *mut c_void), argument: *mut c_void) -> c_int;
}

/// Where the function begins that has called main's, directly or by another one of libc's.
static START: AtomicUsize = AtomicUsize::new(0);

/// Has `ends` called when the process ends by `exit`, on the thread that ends it. It stays registered.
pub fn watch() {
    static REGISTERED: Once = Once::new();
    // SAFETY: the name ends with a zero. The function takes any argument, and is code of this
    // library, which is never unloaded.
    REGISTERED.call_once(|| unsafe {
        START.store(libc::dlsym(libc::RTLD_DEFAULT, c"__libc_start_main".as_ptr()).addr(), Relaxed);
        on_exit(ends, std::ptr::null_mut());
    });
}

extern "C" fn ends(status: c_int, _: *mut c_void) {
    crate::attach::main_exits(|| has_returned().then_some(status));
}

/// Whether `main` has returned, where `exit` runs on its thread: then libc's code alone is between
/// this library's frames and the function that has called `main`.
fn has_returned() -> bool {
    let start = START.load(Relaxed);
    let Some(libc) = files::range(start) else { return false };
    let mut has_returned = false;
    backtrace::walk(&mut |address| {
        if files::is_own(address) {
            return ControlFlow::Continue(());
        }
        // The address is behind the call, which may be the function's last instruction.
        has_returned = backtrace::function(address) == start;
        if has_returned || !libc.contains(&address) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    has_returned
}
