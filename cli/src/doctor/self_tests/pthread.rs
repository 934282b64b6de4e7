//! The C library's threads, as a C program uses them.

use std::ffi::{c_int, c_void};

pub type Start = extern "C-unwind" fn(*mut c_void) -> *mut c_void;

// As in libc, but unwinding may pass: `pthread_exit` and cancellation unwind the thread (forced
// unwinding).
unsafe extern "C-unwind" {
    pub fn pthread_create(
        thread: *mut libc::pthread_t,
        attributes: *const libc::pthread_attr_t,
        start: Start,
        argument: *mut c_void,
    ) -> c_int;
    pub fn pthread_exit(result: *mut c_void) -> !;
    pub safe fn pause() -> c_int;
}
unsafe extern "C" {
    pub fn pthread_cancel(thread: libc::pthread_t) -> c_int;
}

pub const RESULT: *mut c_void = 42 as *mut c_void;
pub const CANCELLED: *mut c_void = usize::MAX as *mut c_void;
