//! Names for addresses.
//!
//! | function | gives |
//! |---|---|
//! | [`exported_symbol`] | the exported symbol, by the dynamic linker |
//! | [`object_file`] | the file of the program or library |
//! | [`object_offset`] | the same with the address's offset in that file's image |
//! | [`function_name`] | the function: by debug information (feature `symbols`), or exported |

#[cfg(feature = "symbols")]
use super::cancellation::Uncancelled;
use std::ffi::{CStr, c_void};

/// The exported symbol that an address lies in.
#[cfg(any(not(target_env = "musl"), not(feature = "symbols")))]
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
    object(address).map(|(file, _)| file)
}

/// The file of the object that an address lies in, and the address's offset from where the object
/// is loaded: `addr2line -e FILE OFFSET` has its source line (a program that is not
/// position-independent needs the address itself).
pub(crate) fn object_offset(address: usize) -> Option<(String, usize)> {
    object(address).map(|(file, base)| (file, address - base))
}

/// The file of the object that an address lies in, and where it is loaded.
fn object(address: usize) -> Option<(String, usize)> {
    // SAFETY: as above.
    unsafe {
        let mut info: libc::Dl_info = std::mem::zeroed();
        let found = libc::dladdr(address as *const c_void, &raw mut info) != 0 && !info.dli_fname.is_null();
        found.then(|| (CStr::from_ptr(info.dli_fname).to_string_lossy().into_owned(), info.dli_fbase.addr()))
    }
}

/// The name of the function that a return address lies in.
#[cfg(feature = "symbols")]
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

/// The name of the function that a return address lies in, if the dynamic linker has one.
#[cfg(not(feature = "symbols"))]
pub(crate) fn function_name(address: usize) -> Option<String> {
    // A return address may already be the first one of the next function; the call is before it.
    exported_symbol(address.checked_sub(1)?).map(|name| name.to_string_lossy().into_owned())
}
