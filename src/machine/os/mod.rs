//! What differs between systems.
//!
//! | name | what it does |
//! |---|---|
//! | `map_zeroes`, `unmap` | address space that costs memory only where it is touched |
//! | `read_word` | a word of memory that may not be there |
//! | `is_readable` | whether memory can be read |
//! | `on_signal_stack`, `signal_stack_room` | whether the thread runs on its alternate signal stack, and how much of it is left |
//! | `thread_bounds`, `mapping_around` | the memory of a stack |
//! | `pin` | keeps this library loaded for ever |
//! | `Uncancelled` | no cancellation of this thread while it lives |
//! | `has_memory` | whether a block could be allocated now |
//! | `at_thread_end` | a function to be called when the thread ends, also while it does |
//! | `wait_while`, `wake_one` | sleeping until a word changes |
//! | `PROBES`, `probe_c11` | the addresses of the system's exit trampolines, by experiment; the second on Linux only |
//! | `Landing` | where a thread goes that ends without a return |
//! | `ALL_ENDS_AT_HOOK` | whether code redirect's hook sees threads that end without a return |
//! | `prepare_forks` | lets a `fork` wait while code is patched, and its child know which threads it does not have |
//! | `main_exit`, `is_behind_indirect_call` | recognise exit trampolines by structure; the second on Linux only |
//! | `object_at` | the program or library that an address lies in |

#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "macos")]
mod macos;
#[cfg(target_os = "linux")]
mod objects;
#[cfg(target_os = "linux")]
mod readable;
mod unix;

#[cfg(target_os = "linux")]
pub(crate) use linux::*;
#[cfg(target_os = "macos")]
pub(crate) use macos::*;
#[cfg(target_os = "linux")]
pub(crate) use objects::object_at;
#[cfg(target_os = "linux")]
pub(crate) use readable::{is_readable, is_valgrind};
pub(crate) use unix::*;

#[cfg(not(any(target_os = "linux", target_os = "macos")))]
compile_error!("exeunt knows the exit trampolines of Linux and macOS only");
