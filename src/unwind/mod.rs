//! Unwinding the running stack quickly, without locks or allocation, so also in a signal handler.
//!
//! Unwinding is the judge of who owns a stack pointer, so it is asked often: whenever code reads on a page for the first
//! time. The unwind tables give the truth but cost about 100 ns a frame to interpret. Nearly all of their rules are of one
//! form (`rule.rs`), and are kept as long as the code is there (`cache.rs`, `objects.rs`), so a step up the stack costs a few
//! loads. Each address is known to be readable before it is read (`memory.rs`). Rules of other forms are followed as the
//! tables say (`general.rs`). Arming goes the same way again and again, which is kept as a whole (`memo.rs`).
//!
//! | walk | knows | follows |
//! |---|---|---|
//! | [`Unwinder`] | the stack pointer and the frame pointer | kept rules, and others that refer to these two |
//! | [`Thorough`] | all registers that functions save | the tables, each time |

mod cache;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod eh_return;
#[cfg(target_os = "linux")]
mod find_fde;
pub(crate) mod frame;
// Rules of any form, where tables give them.
#[cfg(target_os = "linux")]
mod general;
pub(crate) mod memo;
pub(crate) mod memory;
#[cfg(target_os = "linux")]
mod objects;
pub(crate) mod quick;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
pub(crate) mod rbx;
#[cfg(target_os = "linux")]
mod registers;
mod rule;
// Where rules come from.
#[cfg(target_os = "macos")]
#[path = "frame_records.rs"]
mod tables;
#[cfg(target_os = "linux")]
pub(crate) mod tables;
#[cfg(target_os = "linux")]
pub(crate) mod thorough;
