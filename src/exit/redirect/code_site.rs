//! [`CodeSite`]: the public description of a site.

use crate::base::error::Error;
use crate::base::kind::Kind;
use crate::exit::trampoline;
use std::fmt;

/// An instruction at which code redirect enters an exit trampoline, patched or not: see
/// [`code_sites`](crate::code_sites).
#[derive(Clone)]
#[non_exhaustive]
pub struct CodeSite {
    /// The exit trampoline's name.
    pub trampoline: String,
    /// The kind of stack that ends there.
    pub kind: Kind,
    /// The address of the instruction. Zero if none was found.
    pub address: usize,
    /// The address behind it. A backtrace from a handler shows the exit trampoline at this address.
    pub behind: usize,
    /// Bytes without the patch, and with the feature `symbols` their disassembly.
    pub before: String,
    /// The same with it.
    pub after: String,
    /// The address of the stub that leads to the hook, if the hook is out of the instruction's
    /// reach.
    pub stub: Option<usize>,
    /// Whether the instruction is patched now.
    pub applied: bool,
    /// Why it cannot be patched, if it cannot.
    pub problem: Option<Error>,
}

impl fmt::Debug for CodeSite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CodeSite")
            .field("trampoline", &self.trampoline)
            .field("kind", &self.kind)
            .field("address", &format_args!("{:#x}", self.address))
            .field("behind", &format_args!("{:#x}", self.behind))
            .field("before", &self.before)
            .field("after", &self.after)
            .field("stub", &format_args!("{:#x?}", self.stub))
            .field("applied", &self.applied)
            .field("problem", &self.problem)
            .finish()
    }
}

impl CodeSite {
    /// A description of the exit trampoline `number` alone.
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
