//! What differs between systems, each in a file with the same rooms.
//!
//! | name | what it does |
//! |---|---|
//! | `ready` | says before anything is planned that no patch can be applied in this process |
//! | `executable` | what `write` has to know of the memory at an address, if code can be read and run there |
//! | `write` | replaces one word of code |
//! | `occupied`, `LOWEST_ADDRESS` | the address space that is not free |
//! | `reserve`, `seal`, `unmap` | a stub's pages: writable, then executable, never both |

#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "macos")]
mod macos;

#[cfg(target_os = "linux")]
use linux as here;
#[cfg(target_os = "macos")]
use macos as here;

pub use here::{LOWEST_ADDRESS, executable, occupied, ready, reserve, seal, unmap, write};

/// The kernel's page size.
pub fn page_size() -> usize {
    // SAFETY: no arguments that could be wrong.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(size).expect("a page size is always known")
}
