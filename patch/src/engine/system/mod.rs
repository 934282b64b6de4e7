//! The calls of one system. Each system's file defines the same items.
//!
//! | name | purpose |
//! |---|---|
//! | `ready` | finds out, before anything is planned, whether no patch can be applied in this process |
//! | `executable`, `executable_range` | look up memory that is readable and executable; `write` needs the first one's result |
//! | `write` | replaces one word of code |
//! | `occupied`, `LOWEST_ADDRESS` | the parts of the address space that are not free |
//! | `reserve`, `seal`, `unmap` | a stub's pages: writable, then executable, never both |

#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "macos")]
mod macos;

#[cfg(target_os = "linux")]
use linux as here;
#[cfg(target_os = "macos")]
use macos as here;

pub use here::{LOWEST_ADDRESS, executable, executable_range, occupied, ready, reserve, seal, unmap, write};

/// The kernel's page size.
pub fn page_size() -> usize {
    // SAFETY: only reads a setting.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(size).expect("the page size is always known")
}
