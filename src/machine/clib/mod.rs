//! What differs between C libraries: a new one provides these names.
//!
//! | name | what it does |
//! |---|---|
//! | `thread_bounds` | the memory of the running thread's stack |
//! | `at_thread_end` | registers a function for the end of the running thread, also while it ends |
//! | `EXIT_ENDS_THREAD` | whether `exit` runs these functions of the thread that calls it |
//! | `PROBES` | experiments that find the addresses of exit trampolines ([`probe::Probe`]) |
//! | `probe_c11` | the same for C11's threads; Linux only |
//! | `main_exit` | the exit trampoline of `main`, by the shape of its code |
//! | `start_and_exit`, `main_exit_name` | the functions at the two ends of `main`, and the exit trampoline's name; glibc only |
//! | `is_start` | whether an address lies in the function that calls `main`; glibc only |
//! | `is_behind_indirect_call` | whether a return address follows a call by a pointer; Linux only |
//! | `ends_in_pthread_exit` | whether the code at a return address calls `pthread_exit`; musl only |
//! | `thread_end` | what libc keeps of a thread's end; Linux only |
//! | `ALL_ENDS_AT_HOOK` | whether code redirect's hook runs for threads that end without a return |

#[cfg(target_os = "macos")]
mod apple;
#[cfg(target_env = "gnu")]
mod glibc;
#[cfg(target_env = "musl")]
mod musl;
mod probe;
#[cfg(target_os = "linux")]
pub(crate) mod thread_end;
#[cfg(target_os = "linux")]
mod threads;

#[cfg(target_os = "macos")]
pub(crate) use apple::*;
#[cfg(target_env = "gnu")]
pub(crate) use glibc::*;
#[cfg(target_env = "musl")]
pub(crate) use musl::*;
#[cfg(target_os = "linux")]
pub(crate) use threads::{is_behind_indirect_call, probe_c11, thread_bounds};
