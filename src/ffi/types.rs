//! The types of functions that C hands to the library.

use std::ffi::c_void;

/// A handler or a destructor. A handler gets the `arg` that it was registered with, and a
/// destructor gets the value.
///
/// It must return. An exception that leaves it ends the process, and so does `pthread_exit` in it.
pub type exeunt_fn = Option<unsafe extern "C-unwind" fn(arg: *mut c_void)>;

/// A fiber's function, for `exeunt_enter`. It gets the `arg` of that call. A C++ exception or
/// forced unwinding may leave it.
pub type exeunt_entry = Option<unsafe extern "C-unwind" fn(arg: *mut c_void) -> *mut c_void>;
