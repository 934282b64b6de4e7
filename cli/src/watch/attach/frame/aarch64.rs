//! The layout is the kernel's interface: `struct rt_sigframe` (`arch/arm64/kernel/signal.c`), `struct
//! ucontext` and `struct sigcontext` with its records (`asm/sigcontext.h`).
//!
//! A thread that waits in a system call has no more of vectors than this: by the kernel's rule a
//! call leaves the parts of SVE's registers undefined that FPSIMD's do not have. SME's `ZA` would
//! need a record of its own.

use super::placed::Frame;
use libc::{user_fpsimd_struct as Vectors, user_regs_struct as Registers};

/// `siginfo`, which nobody reads.
const INFORMATION: usize = 128;
/// `uc_flags`, `uc_link` and `uc_stack`. A stack of no size is none that the kernel would take.
const BEFORE_MASK: usize = 40;
/// From the mask to the registers' context, which is aligned to 16 bytes.
const MASK: usize = 136;
/// The records' place in the context.
const RECORDS: usize = 288;
/// Their room.
const ROOM: usize = 4096;
/// `FPSIMD_MAGIC`.
const VECTORS: u32 = 0x4650_8001;
/// The size of that record.
const SIZE_OF_VECTORS: u32 = 528;

/// All of a thread's state that code could change.
pub struct State {
    pub registers: Registers,
    /// `NT_PRFPREG`.
    pub vectors: Vectors,
    /// The signals that it blocks.
    pub blocked: u64,
}

/// The frame with which `rt_sigreturn` makes `state` anew. A function returns through it if its link
/// register has the address of the kernel's code that makes the call: memory does not have it here.
pub fn frame(state: &State, _: u64) -> Option<Frame> {
    let registers = &state.registers;
    let mut bytes = vec![0; INFORMATION + BEFORE_MASK];
    bytes.extend(state.blocked.to_ne_bytes());
    bytes.resize(INFORMATION + BEFORE_MASK + MASK, 0);
    let context = bytes.len();
    // The address of a fault, which the kernel does not read.
    bytes.extend([0; 8]);
    let words = registers.regs.iter().chain([&registers.sp, &registers.pc, &registers.pstate]);
    bytes.extend(words.flat_map(|word| word.to_ne_bytes()));
    bytes.resize(context + RECORDS, 0);
    for word in [VECTORS, SIZE_OF_VECTORS, state.vectors.fpsr, state.vectors.fpcr] {
        bytes.extend(word.to_ne_bytes());
    }
    bytes.extend(state.vectors.vregs.iter().flat_map(|vector| vector.to_ne_bytes()));
    // Zeros are the record behind the last one.
    bytes.resize(context + RECORDS + ROOM, 0);
    let stack_pointer = registers.sp.checked_sub(bytes.len() as u64)? & !15;
    Some(Frame { stack_pointer, bytes })
}
