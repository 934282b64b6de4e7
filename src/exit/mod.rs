//! Exits: where stacks end, and the two redirects.
//!
//! - `walk`: finds the running stack's foot.
//! - `recognition`: recognises exit trampolines, by experiment and by structure.
//! - `known_kinds`: recognises those of all threads and of `main`, without their stacks.
//! - `refusal`: the error for a stack on which no foot was found.
//! - `trampoline`: the pool of trampolines.
//! - `landing`: where a thread goes that ends without a return.
//! - `thread_end`: what libc keeps of a thread that ends.
//! - `redirect`: slot redirect and code redirect.
//! - `process_lock`: the lock of recognition and patching.
//! - `shadow_stack`: whether the running thread has one.

#[cfg(target_env = "gnu")]
pub(crate) mod known_kinds;
#[cfg(not(target_env = "gnu"))]
#[path = "landing/none.rs"]
pub(crate) mod landing;
#[cfg(target_env = "gnu")]
#[path = "landing/glibc.rs"]
pub(crate) mod landing;
pub(crate) mod process_lock;
pub(crate) mod recognition;
pub(crate) mod redirect;
pub(crate) mod refusal;
pub(crate) mod shadow_stack;
#[cfg(target_os = "linux")]
#[path = "thread_end/linux.rs"]
pub(crate) mod thread_end;
#[cfg(not(target_os = "linux"))]
#[path = "thread_end/unknown.rs"]
pub(crate) mod thread_end;
pub(crate) mod trampoline;
pub(crate) mod walk;
