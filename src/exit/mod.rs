//! Exits: where stacks end, and the two ways to redirect that.

#[cfg(target_os = "macos")]
#[path = "landing/apple.rs"]
pub(crate) mod landing;
#[cfg(target_os = "linux")]
#[path = "landing/glibc.rs"]
pub(crate) mod landing;
pub(crate) mod process_lock;
pub(crate) mod recognition;
pub(crate) mod redirect;
pub(crate) mod refusal;
pub(crate) mod shadow_stack;
pub(crate) mod trampoline;
pub(crate) mod walk;
