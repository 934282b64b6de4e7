//! aarch64 instructions: pure arithmetic, so this folder compiles on every processor.
//!
//! ```text
//!   site ->  b stub              stub   -> b hook                    (or: ldr x16, #8; br x16; hook)
//!   next ->                      resume -> the displaced instruction
//!                                          b next
//! ```

pub mod branch;
#[cfg(feature = "disassembly")]
pub mod disassemble;
pub mod displace;
pub mod flow;
pub mod instruction;

pub use branch::{BRANCH_LEN, STUB_LEN, jump, jump_windows, relay, retarget_windows, retargeted};
#[cfg(feature = "disassembly")]
pub use disassemble::disassemble;
pub use displace::displace;
pub use flow::flow;
pub use instruction::{length, may_be_replaced_while_running};
