//! A frame as the kernel's of a signal, for a thread that is stopped: by it the kernel's own
//! `rt_sigreturn` gives the thread back all that it had. Its layout is the processor's. That of
//! aarch64 is used by `tests/attach` alone, as `--pid` is for x86_64.

#[cfg(target_arch = "aarch64")]
mod aarch64;
pub mod placed;
#[cfg(target_arch = "x86_64")]
mod x86_64;

#[cfg(target_arch = "aarch64")]
pub use aarch64::{State, frame};
#[cfg(target_arch = "x86_64")]
pub use x86_64::{State, frame};
