//! Where a stack is created: the frames of its creator.

use crate::files;
use crate::table::{Birth, FRAMES};
use std::ffi::{c_int, c_void};
use std::sync::atomic::Ordering::Relaxed;

unsafe extern "C" {
    // The unwinder of the C++ ABI, which std links as well.
    fn _Unwind_Backtrace(visit: extern "C" fn(*mut c_void, *mut c_void) -> c_int, argument: *mut c_void) -> c_int;
    fn _Unwind_GetIP(context: *mut c_void) -> usize;
}

struct Walk {
    birth: *const Birth,
    found: usize,
}

/// Writes the running code's frames but for those of this library.
pub fn write(birth: &Birth) {
    extern "C" fn visit(context: *mut c_void, walk: *mut c_void) -> c_int {
        // SAFETY: `write` passes a `Walk` of its frame, and nothing else refers to it meanwhile.
        let (walk, address) = unsafe { (&mut *walk.cast::<Walk>(), _Unwind_GetIP(context)) };
        // SAFETY: the reference that `write` has.
        let birth = unsafe { &*walk.birth };
        if address == 0 || walk.found == FRAMES {
            // Any code but 0 ends the walk.
            return 5;
        }
        if !files::is_own(address) {
            birth.frames[walk.found].store(address as u64, Relaxed);
            birth.files[walk.found].store(files::of(address), Relaxed);
            walk.found += 1;
        }
        0
    }
    let mut walk = Walk { birth, found: 0 };
    // SAFETY: `visit` takes the pointer as what it is.
    unsafe { _Unwind_Backtrace(visit, (&raw mut walk).cast()) };
    if let Some(next) = birth.frames.get(walk.found) {
        // The row may have been another stack's.
        next.store(0, Relaxed);
    }
}
