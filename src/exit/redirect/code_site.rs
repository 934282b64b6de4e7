//! What is known of a place at which code redirect enters an exit trampoline.

use crate::base::error::Error;
use crate::base::kind::Kind;
use crate::exit::trampoline;

/// What is known of a place at which code redirect enters an exit trampoline, patched or not: see [`code_sites`](crate::code_sites).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct CodeSite {
    /// The exit trampoline's name.
    pub trampoline: String,
    /// What kind of stack ends there.
    pub kind: Kind,
    /// The address of the instruction; zero where none was found.
    pub address: usize,
    /// The address behind it: that is where a backtrace from a handler has the exit trampoline.
    pub behind: usize,
    /// Bytes and disassembly without the patch.
    pub before: String,
    /// Bytes and disassembly with it.
    pub after: String,
    /// Where the code in reach of it is that leads to the hook.
    pub stub: Option<usize>,
    /// Whether it is patched now.
    pub applied: bool,
    /// Why it cannot be, if it cannot.
    pub problem: Option<Error>,
}

impl CodeSite {
    /// One of the exit trampoline `number`, of which nothing more is known.
    pub(super) fn blank(number: usize) -> Self {
        Self {
            trampoline: trampoline::name(number).to_string_lossy().into_owned(),
            kind: trampoline::kind(number),
            address: 0,
            behind: 0,
            before: String::new(),
            after: String::new(),
            stub: None,
            applied: false,
            problem: None,
        }
    }
}
