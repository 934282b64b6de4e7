//! The engine: sites, patches, stubs. Data goes one way: [`Site`] → plan ([`Patch`]) → apply → undo.

pub mod aarch64;
mod code;
pub mod error;
pub mod flow;
mod free_space;
pub mod patch;
mod registry;
pub mod site;
mod stub;
mod system;
pub mod window;
mod wording;
#[cfg(target_arch = "x86_64")]
pub mod x86_64;

#[cfg(target_arch = "aarch64")]
use aarch64 as arch;
#[cfg(target_arch = "x86_64")]
use x86_64 as arch;

pub use error::{Bytes, Error};
pub use patch::Patch;
pub use site::Site;
