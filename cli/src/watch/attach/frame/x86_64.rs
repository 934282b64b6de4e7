//! The layout is the kernel's interface: `struct rt_sigframe`, `struct ucontext`, `struct sigcontext`
//! (`asm/sigcontext.h`) and the extended state behind it, whose end `_fpx_sw_bytes` tells.

use super::placed::Frame;
use libc::user_regs_struct as Registers;
use std::arch::x86_64::__cpuid_count;

/// What the code below the stack pointer may use without moving it (System V ABI, 3.2.2).
const RED_ZONE: u64 = 128;
/// `FP_XSTATE_MAGIC1` and `FP_XSTATE_MAGIC2`.
const MAGIC: [u32; 2] = [0x4650_5853, 0x4650_5845];
/// `UC_FP_XSTATE | UC_SIGCONTEXT_SS | UC_STRICT_RESTORE_SS`.
const FLAGS: u64 = 7;
/// Where the extended state says what it has, for software: in the 512 bytes of FXSAVE.
const SOFTWARE: usize = 464;
/// Where it says which of its parts are in use (`XSTATE_BV`).
const IN_USE: usize = 512;
/// The least size: FXSAVE's, and the header.
const LEAST: usize = 576;
/// The parts that the kernel leaves out of a signal's frame unless the thread uses them: AMX.
const ON_DEMAND: u64 = 1 << 17 | 1 << 18;
/// The frame below the extended state: the return address, `ucontext` and room for `siginfo`, which
/// nobody reads.
const SIZE: usize = 8 + 304 + 128;

/// All of a thread's state that code could change.
pub struct State {
    pub registers: Registers,
    /// `NT_X86_XSTATE`.
    pub extended: Vec<u8>,
    /// The signals that it blocks.
    pub blocked: u64,
}

/// The frame with which `rt_sigreturn` makes `state` anew. None if the state's form is not known.
pub fn frame(state: &State, restorer: u64) -> Option<Frame> {
    let registers = &state.registers;
    let mut extended = state.extended.clone();
    let word = |bytes: &[u8], at: usize| Some(u64::from_ne_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
    let mut features = word(&extended, SOFTWARE)?;
    if word(&extended, IN_USE)? & ON_DEMAND == 0 {
        features &= !ON_DEMAND;
    }
    let size = size_of_extended(features).min(extended.len());
    extended.truncate(size);
    let software = extended.get_mut(SOFTWARE..IN_USE).filter(|_| size >= LEAST)?;
    software.fill(0);
    software[..4].copy_from_slice(&MAGIC[0].to_ne_bytes());
    software[4..8].copy_from_slice(&(size as u32 + 4).to_ne_bytes());
    software[8..16].copy_from_slice(&features.to_ne_bytes());
    software[16..20].copy_from_slice(&(size as u32).to_ne_bytes());
    extended.extend(MAGIC[1].to_ne_bytes());

    let extended_at = (registers.rsp - RED_ZONE - extended.len() as u64) & !63;
    // As behind a call: the stack pointer is 8 off a multiple of 16.
    let stack_pointer = ((extended_at - SIZE as u64) & !15) - 8;
    let selectors = registers.cs & 0xffff | (registers.ss & 0xffff) << 48;
    let mut words = vec![restorer, FLAGS, 0, 0, 0, 0];
    words.extend([registers.r8, registers.r9, registers.r10, registers.r11]);
    words.extend([registers.r12, registers.r13, registers.r14, registers.r15]);
    words.extend([registers.rdi, registers.rsi, registers.rbp, registers.rbx]);
    words.extend([registers.rdx, registers.rax, registers.rcx, registers.rsp]);
    words.extend([registers.rip, registers.eflags, selectors, 0, 0, 0, 0, extended_at]);
    // Eight reserved words, and the mask.
    words.extend([0; 8]);
    words.push(state.blocked);
    let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
    bytes.resize((extended_at - stack_pointer) as usize, 0);
    bytes.extend(extended);
    Some(Frame { stack_pointer, bytes })
}

/// The size of the extended state with these parts, in the form that is not compacted.
fn size_of_extended(features: u64) -> usize {
    let ends = (2..63).filter(|part| features & 1 << part != 0).map(|part| {
        let answer = __cpuid_count(0xd, part);
        (answer.eax + answer.ebx) as usize
    });
    ends.max().unwrap_or(0).max(LEAST)
}

#[cfg(test)]
mod tests {
    use super::{Frame, SOFTWARE, State, frame};
    use std::arch::x86_64::{__cpuid_count, _xgetbv, _xsave64};

    #[repr(align(64))]
    struct Area([u8; 1 << 14]);

    /// The thread's own state, but for the general registers, which are patterns.
    #[target_feature(enable = "xsave")]
    fn state(stack_pointer: u64) -> State {
        let mut area = Box::new(Area([0; 1 << 14]));
        // SAFETY: the area is aligned, and larger than what the processor writes (asserted below).
        let features = unsafe {
            let features = _xgetbv(0);
            _xsave64(area.0.as_mut_ptr(), features);
            features
        };
        area.0[SOFTWARE..SOFTWARE + 8].copy_from_slice(&features.to_ne_bytes());
        let size = __cpuid_count(0xd, 0).ebx as usize;
        assert!(size <= area.0.len());
        // SAFETY: all zeros are valid registers.
        let mut registers: libc::user_regs_struct = unsafe { std::mem::zeroed() };
        registers.rsp = stack_pointer;
        registers.r12 = 0x1212;
        registers.rip = 0x1111;
        registers.cs = 0x33;
        registers.ss = 0x2b;
        State { registers, extended: area.0[..size].to_vec(), blocked: 1 << 9 }
    }

    #[test]
    fn the_frame_is_below_the_red_zone_and_aligned() {
        for low in 0..256 {
            // SAFETY: every x86_64 processor that runs the kernel's signal frames of today has it.
            let state = unsafe { state(0x7000_0000 + low) };
            let Frame { stack_pointer, bytes } = frame(&state, 0x4242).expect("a known form");
            let word = |at: u64| {
                let at = (at - stack_pointer) as usize;
                u64::from_ne_bytes(bytes[at..at + 8].try_into().expect("8 bytes"))
            };
            assert_eq!(stack_pointer % 16, 8);
            assert!(stack_pointer + bytes.len() as u64 <= state.registers.rsp - 128);
            assert_eq!(word(stack_pointer), 0x4242);
            // The offsets of `ucontext`: registers from 40, the pointer to the extended state, mask.
            let context = stack_pointer + 8;
            assert_eq!(word(context + 40 + 8 * 4), 0x1212);
            assert_eq!(word(context + 40 + 8 * 15), state.registers.rsp);
            assert_eq!(word(context + 40 + 8 * 16), 0x1111);
            assert_eq!(word(context + 296), 1 << 9);
            let extended = word(context + 40 + 8 * 23);
            assert_eq!(extended % 64, 0);
            let size = word(extended + SOFTWARE as u64 + 16) & 0xffff_ffff;
            assert_eq!(word(extended + size - 4) >> 32, 0x4650_5845, "the second magic number follows");
        }
    }
}
