//! What the film of a goroutine has to know of the processor. Each processor's file has the same
//! names.

/// Files of the module, by their names there. `cli/go` is a link to the module.
macro_rules! embedded {
    ($($name:literal)*) => {
        &[$(($name, include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/go/", $name)))),*]
    };
}
pub(super) use embedded;

#[cfg(target_arch = "aarch64")]
mod aarch64;
#[cfg(target_arch = "x86_64")]
mod x86_64;

#[cfg(target_arch = "aarch64")]
pub use aarch64::*;
#[cfg(target_arch = "x86_64")]
pub use x86_64::*;
