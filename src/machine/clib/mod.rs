//! What differs between C libraries.

use crate::base::error::Error;
use crate::base::kind::Kind;
use std::ffi::CStr;

#[cfg(target_os = "macos")]
mod apple;
#[cfg(target_os = "linux")]
mod glibc;

#[cfg(target_os = "macos")]
pub(crate) use apple::*;
#[cfg(target_os = "linux")]
pub(crate) use glibc::*;

/// An experiment that shows where stacks of one kind end.
pub(crate) struct Probe {
    pub(crate) kind: Kind,
    pub(crate) name: &'static CStr,
    /// Gives the return address of the entry function, or says which call has failed.
    pub(crate) run: fn() -> Result<usize, Error>,
}
