//! `exeunt_version`.

use std::ffi::{CStr, c_char};

const VERSION: &CStr = match CStr::from_bytes_with_nul(concat!(env!("CARGO_PKG_VERSION"), "\0").as_bytes()) {
    Ok(version) => version,
    Err(_) => panic!("a version has no zero byte"),
};

/// The version of the library that runs, such as "0.1.0". If it differs from `EXEUNT_VERSION`, then
/// the program was compiled with the header of another version. The string is static: never null,
/// and never to be freed.
///
/// Thread-safe and async-signal-safe.
#[unsafe(no_mangle)]
pub extern "C" fn exeunt_version() -> *const c_char {
    VERSION.as_ptr()
}
