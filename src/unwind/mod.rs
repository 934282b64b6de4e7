//! Unwinding the running stack quickly, without locks or allocation, so that a signal handler may
//! do it.
//!
//! Only a walk shows reliably which stack the running code is on, so exeunt walks often: whenever
//! code reads on a page for the first time. Interpreting an unwind table takes about 100 ns a
//! frame. Nearly all rules have one simple form (`rule.rs`). A cache keeps those as long as the
//! code is loaded (`cache.rs`, `objects.rs`), so that a step outwards takes a few loads. Arming
//! walks the same way again and again, so whole walks are remembered as well (`memo.rs`). Every
//! address is checked before it is read (`memory.rs`).
//!
//! | walk | registers | rules |
//! |---|---|---|
//! | [`quick::Unwinder`] | stack and frame pointer | cached ones; others where these two suffice |
//! | [`full_walk::FullWalk`] | all that functions save | any, by the DWARF tables, each time |
//!
//! | file | what is in it |
//! |---|---|
//! | `frame` | a frame, and what a step from it finds |
//! | `quick`, `full_walk` | the two walks |
//! | `rule`, `cache` | the simple rule, and the cache of rules by program counter |
//! | `tables`, `row` | the source of rules on Linux: DWARF tables |
//! | `frame_records` | the source of rules on macOS: a frame record of every function |
//! | `general`, `registers` | the step by any rule, with all registers |
//! | `around` | the frame that holds a piece of memory |
//! | `memo` | remembered walks |
//! | `memory` | which memory a walk may read |
//! | `objects`, `find_fde` | the loaded object that code belongs to, and its tables |
//! | `link_register` | aarch64: whether the system's unwinder has return addresses in `x30` |
//! | `rbx`, `eh_return` | x86_64: a saved register, and the end of the unwinder's own functions |

pub(crate) mod around;
mod cache;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod eh_return;
#[cfg(target_os = "linux")]
mod find_fde;
pub(crate) mod frame;
// The step by a rule of any form.
#[cfg(target_os = "linux")]
mod general;
#[cfg(all(target_os = "linux", target_arch = "aarch64"))]
pub(crate) mod link_register;
pub(crate) mod memo;
pub(crate) mod memory;
#[cfg(target_os = "linux")]
mod objects;
pub(crate) mod quick;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
pub(crate) mod rbx;
#[cfg(target_os = "linux")]
mod registers;
#[cfg(target_os = "linux")]
mod row;
mod rule;
// The source of rules.
#[cfg(target_os = "linux")]
pub(crate) mod full_walk;
#[cfg(target_os = "macos")]
#[path = "frame_records.rs"]
mod tables;
#[cfg(target_os = "linux")]
pub(crate) mod tables;
