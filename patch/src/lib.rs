//! Retargets a call or branch in running code, or refuses.
#![cfg_attr(not(feature = "engine"), no_std)]
#![cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]

#[cfg(feature = "engine")]
pub mod engine;
pub mod heart;

#[cfg(feature = "engine")]
pub use engine::{Bytes, Error, Patch, Site};
pub use heart::Fallback;
