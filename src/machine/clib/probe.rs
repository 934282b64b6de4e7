//! Experiments that show where stacks end.

use crate::base::error::Error;
use crate::base::kind::Kind;
use std::ffi::CStr;

/// An experiment that shows where stacks of one kind end.
pub(crate) struct Probe {
    pub(crate) kind: Kind,
    pub(crate) name: &'static CStr,
    /// Gives the return address of the entry function, or says which call has failed.
    pub(crate) run: fn() -> Result<usize, Error>,
}
