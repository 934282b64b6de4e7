//! What the film of a goroutine has to know of the processor. Each processor's file has the same
//! names.

#[cfg(target_arch = "aarch64")]
mod aarch64;
mod files;
#[cfg(target_arch = "x86_64")]
mod x86_64;

#[cfg(target_arch = "aarch64")]
pub use aarch64::*;
pub(super) use files::embedded;
#[cfg(target_arch = "x86_64")]
pub use x86_64::*;
