//! The frames of the running code, and where a stack is created: the frames of its creator.

use crate::files;
use crate::table::{Birth, FRAMES};
use std::ffi::{c_int, c_void};
use std::ops::ControlFlow;
use std::sync::atomic::Ordering::Relaxed;

unsafe extern "C" {
    // The unwinder of the C++ ABI, which std links as well.
    fn _Unwind_Backtrace(visit: extern "C" fn(*mut c_void, *mut c_void) -> c_int, argument: *mut c_void) -> c_int;
    fn _Unwind_GetIP(context: *mut c_void) -> usize;
    #[cfg(target_arch = "x86_64")]
    fn _Unwind_FindEnclosingFunction(address: *mut c_void) -> *mut c_void;
}

/// Calls `visit` with the return addresses of the running code, innermost first.
pub fn walk(mut visit: &mut dyn FnMut(usize) -> ControlFlow<()>) {
    extern "C" fn each(context: *mut c_void, visit: *mut c_void) -> c_int {
        // SAFETY: `walk` passes its parameter, and nothing else refers to it meanwhile.
        let (visit, address) =
            unsafe { (&mut *visit.cast::<&mut dyn FnMut(usize) -> ControlFlow<()>>(), _Unwind_GetIP(context)) };
        // Any code but 0 ends the walk.
        if address == 0 || visit(address).is_break() { 5 } else { 0 }
    }
    // SAFETY: `each` takes the pointer as what it is.
    unsafe { _Unwind_Backtrace(each, (&raw mut visit).cast()) };
}

/// Where the function begins that makes the call before this address, or 0.
#[cfg(target_arch = "x86_64")]
pub fn function(address: usize) -> usize {
    // SAFETY: looks the address up.
    unsafe { _Unwind_FindEnclosingFunction(address as *mut c_void) }.addr()
}

/// Writes the running code's frames but for those of this library.
pub fn write(birth: &Birth) {
    let mut found = 0;
    walk(&mut |address| {
        if found == FRAMES {
            return ControlFlow::Break(());
        }
        if !files::is_own(address) {
            birth.frames[found].store(address as u64, Relaxed);
            birth.files[found].store(files::of(address), Relaxed);
            found += 1;
        }
        ControlFlow::Continue(())
    });
    if let Some(next) = birth.frames.get(found) {
        // The row may have been another stack's.
        next.store(0, Relaxed);
    }
}
