//! What differs between systems, each in a file with the same rooms.
//!
//! | name | what it does |
//! |---|---|
//! | `ready` | says before anything is planned that no patch can be applied in this process |
//! | `executable` | what `write` has to know of the memory at an address, if code can be read and run there |
//! | `write` | replaces one word of code |
//! | `taken`, `LOWEST` | the address space that is not free |
//! | `reserve`, `seal`, `unmap` | a stub's pages: writable, then executable, never both |
//! | `WORDS` | what errors call all that |

#[cfg(target_os = "linux")]
#[path = "linux.rs"]
mod here;
#[cfg(target_os = "macos")]
#[path = "macos.rs"]
mod here;

pub use here::{LOWEST, WORDS, executable, ready, reserve, seal, taken, unmap, write};

use crate::raw::{Reason, Refusal};

/// Why the system changed nothing (or, for [`Reason::NotRestored`], what it could not put back).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    pub reason: Reason,
    /// The system's own number: an error number, or a `kern_return_t`.
    pub number: i32,
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        Self { reason: refusal.reason, number: refusal.errno.into() }
    }
}

/// What errors and plans call the parts of a system.
pub struct Words {
    /// What its error numbers are called.
    pub number: &'static str,
    /// What could not be done when no protection can be looked up.
    pub look_up: &'static str,
    /// And what helps.
    pub look_up_advice: &'static str,
    /// Who may forbid that code is made writable.
    pub protect_advice: &'static str,
    /// What is refused when other processors cannot be made to see new code.
    pub synchronise: &'static str,
    /// And what helps.
    pub synchronise_advice: &'static str,
    /// What follows a store, in a plan.
    pub then: &'static str,
}

/// The kernel's page size.
pub fn page_size() -> usize {
    // SAFETY: no arguments that could be wrong.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(size).expect("a page size is always known")
}
