//! The engine plans and applies patches with stubs: [`Site`] → plan ([`Patch`]) → apply → undo.
//!
//! Each file imports only files above it in this list:
//!
//! | file | content |
//! |---|---|
//! | `window`, `flow` | plain data: addresses where a stub may begin; where execution continues after an instruction |
//! | `aarch64/`, `x86_64/` | one processor's instructions: decode, displace, encode branches, disassemble |
//! | `wording`, `error` | errors, and the system's names in their text |
//! | `system/` | one system's calls: look code up, write it, map stubs |
//! | `code`, `free_space`, `stub` | reads code; finds addresses for a stub; maps a stub |
//! | `registry` | the applied patches of this process, and its lock |
//! | `patch` | a planned change: apply, undo |
//! | `site` | an instruction of running code, and the plans that can be made for it |

// The hidden modules are public for the fuzz targets and the tests alone.
#[doc(hidden)]
pub mod aarch64;
mod code;
mod error;
#[doc(hidden)]
pub mod flow;
mod free_space;
mod patch;
mod registry;
mod site;
mod stub;
mod system;
#[doc(hidden)]
pub mod window;
mod wording;
#[cfg(target_arch = "x86_64")]
#[doc(hidden)]
pub mod x86_64;

#[cfg(target_arch = "aarch64")]
use aarch64 as arch;
#[cfg(target_arch = "x86_64")]
use x86_64 as arch;

pub use error::{Bytes, Error};
pub use patch::Patch;
pub use site::Site;
