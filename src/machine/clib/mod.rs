//! What differs between C libraries.

#[cfg(target_os = "macos")]
mod apple;
#[cfg(target_os = "linux")]
mod glibc;
mod probe;

#[cfg(target_os = "macos")]
pub(crate) use apple::*;
#[cfg(target_os = "linux")]
pub(crate) use glibc::*;
