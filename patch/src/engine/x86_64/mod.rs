//! x86_64 instructions.
//!
//! ```text
//!   site ->  e9 <rel32>          stub ->  ff 25 00000000 <hook>   (relay: no register is touched)
//!            (rest unchanged)    resume -> the displaced instruction
//!   next ->                               e9 <rel32 to next>
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
