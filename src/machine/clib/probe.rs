//! [`Probe`]: an experiment that finds an exit trampoline.

use crate::base::error::Error;
use crate::base::kind::Kind;
use std::ffi::CStr;

/// An experiment that finds the exit trampoline of one kind of stack.
pub(crate) struct Probe {
    pub(crate) kind: Kind,
    pub(crate) name: &'static CStr,
    /// Runs a function on such a stack, and returns the address that the function returns to.
    pub(crate) run: fn() -> Result<usize, Error>,
}
