//! Checks one direct call or branch and retargets it in code that other threads may be running; or
//! replaces one instruction with a branch.
//!
//! This folder uses only `core` and raw system calls. It has no statics, no allocation, no panic
//! and no symbol from outside: compiled alone (`rustc --emit=obj -Copt-level=s -Cpanic=abort`) it
//! is a small object that any linker takes, Go's included. So nothing in this folder names
//! `crate::`. The files `aarch64.rs` and `x86_64.rs` define the same items.
//!
//! ```text
//!            before                                   after
//!   site ->  e8 <rel32 to expected>      (x86_64)     e8 <rel32 to new>       one aligned 8-byte compare-and-swap
//!   site ->  bl expected                 (aarch64)    bl new                  one aligned 4-byte compare-and-swap
//!   site ->  five or more bytes          (x86_64)     e9 <rel32 to new> ..    one aligned 8-byte compare-and-swap
//! ```
//!
//! | [`retarget()`] promises | the caller promises |
//! |---|---|
//! | everything that can be refused is refused before a byte changes | `site` is the first byte of an instruction |
//! | a thread running there executes the old branch or the new one | the code stays mapped, and no other code changes the protection of its mapping |
//! | the mapping is one piece with its former protection again, also after a failure (see `write.rs`) | one call at a time (other copies of this crate in the process wait, see `write.rs`) |
//! | when it returns, every thread executes the new branch | `new` can be called wherever `expected` could |
//!
//! # Why one store is safe
//!
//! *x86_64*: every byte that differs lies within one aligned quadword and belongs to one
//! instruction. AMD64 Architecture Programmer's Manual vol. 2, 7.6.1 "Cache Coherency and
//! Self-Modifying Code", allows asynchronous cross-modification by such a store. Intel's manual does
//! not: SDM vol. 3, "Handling Self- and Cross-Modifying Code", asks that each processor serialises
//! before it runs the new code, and a thread may run it before `membarrier` reaches it. There the
//! store rests on practice: HotSpot has retargeted aligned calls, and replaced the first instruction
//! of methods with a jump, in this way for decades. `membarrier(SYNC_CORE)` makes every thread of
//! the process serialise before the call returns. Until then a thread fetches the old or the new
//! bytes.
//!
//! *aarch64*: B, BL and NOP are in the list of instructions that may be modified while they are
//! executed (Arm ARM, B2.2.5 "Concurrent modification and execution of instructions"). Cache
//! maintenance and a context synchronisation event on every processor (again `membarrier`) follow.
//!
//! # What stays as it was
//!
//! Return addresses on the stack do not change, so unwinders, pointer authentication and shadow
//! stacks (SHSTK, GCS) are not affected. An object built with
//! `-mbranch-protection=bti` keeps its guarded pages: `PROT_BTI` is read back from the kernel and
//! restored, and a direct branch needs no landing pad at its target.

#[cfg(target_arch = "aarch64")]
pub mod aarch64;
pub mod mapping;
mod refusal;
mod retarget;
mod store;
pub mod syscall;
mod write;
#[cfg(target_arch = "x86_64")]
pub mod x86_64;

#[cfg(target_arch = "aarch64")]
pub use aarch64 as arch;
#[cfg(target_arch = "x86_64")]
pub use x86_64 as arch;

pub use mapping::Mapping;
pub use refusal::{Reason, Refusal};
pub use retarget::{Checked, check, replace, retarget, retarget_code};
pub use store::Store;
pub use write::{Fallback, write};
