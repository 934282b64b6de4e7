//! What differs between systems: a new one provides these names.
//!
//! | name | what it does | file |
//! |---|---|---|
//! | `wait_while`, `wake_one` | sleep until a word changes, and end such a sleep | the system's |
//! | `prepare_for_new_code` | what a patch of code needs and takes less time early; where code can be patched | the system's |
//! | `read_word` | reads a word of memory that may not be mapped | the system's |
//! | `is_readable` | whether eight bytes of memory can be read | `readable.rs`; the system's |
//! | `is_valgrind` | whether the process runs under valgrind; glibc only | `readable.rs` |
//! | `object_at` | the program or library that an address lies in; Linux only | `objects.rs` |
//! | `map_zeroes`, `unmap` | address space that costs memory only where it is touched | `unix.rs` |
//! | `has_memory` | whether a block could be allocated now | `unix.rs` |
//! | `mapping_around` | the mapping that an address lies in | `unix.rs` |
//! | `on_signal_stack` | whether the thread runs on its alternate signal stack | `unix.rs` |
//! | `signal_stack_room` | how much room is left on that stack | `unix.rs` |
//! | `pin` | keeps this library loaded for ever | `unix.rs` |

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
pub(crate) use readable::is_readable;
#[cfg(target_env = "gnu")]
pub(crate) use readable::is_valgrind;
pub(crate) use unix::*;
