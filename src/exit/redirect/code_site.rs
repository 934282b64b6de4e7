//! [`CodeSite`]: the public description of a site.

use crate::base::error::Error;
use crate::base::kind::Kind;
use crate::exit::trampoline;

/// An instruction at which code redirect enters an exit trampoline, patched or not: see
/// [`code_sites`](crate::code_sites).
#[derive(Clone, Debug)]
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
