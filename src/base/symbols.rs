//! Names for addresses.
//!
//! | function | gives |
//! |---|---|
//! | [`exported_symbol`] | the exported symbol, by the dynamic linker |
//! | [`object_file`] | the file of the program or library |
//! | [`function_name`] | the function, by debug information where there is some |

use super::cancellation::Uncancelled;
use std::ffi::{CStr, c_void};

/// The exported symbol that an address lies in.
#[cfg(not(target_env = "musl"))]
pub(crate) fn exported_symbol(address: usize) -> Option<&'static CStr> {
    // SAFETY: `dladdr` fills in `info`; the name lives as long as the object is loaded.
    unsafe {
        let mut info: libc::Dl_info = std::mem::zeroed();
        let found = libc::dladdr(address as *const c_void, &raw mut info) != 0 && !info.dli_sname.is_null();
        found.then(|| CStr::from_ptr(info.dli_sname))
    }
}

/// The file of the object that an address lies in.
pub(crate) fn object_file(address: usize) -> Option<String> {
    // SAFETY: as above.
    unsafe {
        let mut info: libc::Dl_info = std::mem::zeroed();
        let found = libc::dladdr(address as *const c_void, &raw mut info) != 0 && !info.dli_fname.is_null();
        found.then(|| CStr::from_ptr(info.dli_fname).to_string_lossy().into_owned())
    }
}

/// The name of the function that a return address lies in.
pub(crate) fn function_name(address: usize) -> Option<String> {
    // Reading debug information opens files, and `open` is a cancellation point.
    let _uncancelled = Uncancelled::new();
    let mut name = None;
    // A return address may already be the first one of the next function; the call is before it.
    backtrace::resolve(address.checked_sub(1)? as *mut _, |symbol| {
        if name.is_none() {
            // The alternate form leaves out the hash that the compiler appends.
            name = symbol.name().map(|symbol| format!("{symbol:#}"));
        }
    });
    name
}
