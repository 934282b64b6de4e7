//! All the registers that unwind tables refer to, under the tables' numbers.
//!
//! The simple rules (`rule.rs`) refer to the stack pointer and the frame pointer alone. Others
//! refer to any register that functions save for their callers: the rules of functions that realign
//! their stack, for example.

use super::memory::Memory;
use crate::machine::arch::{self, dwarf};
use std::arch::asm;
use std::mem::offset_of;

#[cfg(target_arch = "x86_64")]
mod numbers {
    /// The number of registers; the last one is the return address (System V ABI, x86_64, figure
    /// 3.36).
    pub(crate) const COUNT: usize = 17;
    pub(crate) const RETURN: u16 = 16;
    /// `rbx`, `rbp`, `rsp`, `r12` to `r15`.
    pub(super) const KEPT: u64 = 1 << 3 | 1 << 6 | 1 << 7 | 0b1111 << 12;
}

#[cfg(target_arch = "aarch64")]
mod numbers {
    /// The number of registers: `x0` to `x30`, of which the last one is the return address, and
    /// `sp` (DWARF for the Arm 64-bit Architecture, table 4).
    pub(crate) const COUNT: usize = 32;
    pub(crate) const RETURN: u16 = 30;
    /// `x19` to `x29`, and `sp`.
    pub(super) const KEPT: u64 = 0b111_1111_1111 << 19 | 1 << 31;
}

pub(super) use numbers::{COUNT, RETURN};

/// The values of registers in a frame, as far as they are known.
#[derive(Clone, Copy, Debug)]
pub(super) struct Registers {
    pub(super) pc: usize,
    values: [usize; COUNT],
    /// The known ones, one bit for each.
    known: u64,
}

impl Registers {
    /// The registers of the function that this is inlined into.
    #[inline(always)]
    pub(super) fn here() -> Self {
        let mut values = [0; COUNT];
        let pc: usize;
        // SAFETY: reads registers, and writes within the array.
        #[cfg(target_arch = "x86_64")]
        unsafe {
            asm!(
                "mov [{to} + 8 * 3], rbx", "mov [{to} + 8 * 6], rbp", "mov [{to} + 8 * 7], rsp",
                "mov [{to} + 8 * 12], r12", "mov [{to} + 8 * 13], r13", "mov [{to} + 8 * 14], r14",
                "mov [{to} + 8 * 15], r15", "lea {pc}, [rip]",
                to = in(reg) values.as_mut_ptr(), pc = out(reg) pc, options(nostack, preserves_flags));
        }
        // SAFETY: as above.
        #[cfg(target_arch = "aarch64")]
        unsafe {
            asm!(
                "stp x19, x20, [{to}, #8 * 19]", "stp x21, x22, [{to}, #8 * 21]", "stp x23, x24, [{to}, #8 * 23]",
                "stp x25, x26, [{to}, #8 * 25]", "stp x27, x28, [{to}, #8 * 27]", "str x29, [{to}, #8 * 29]",
                "mov {pc}, sp", "str {pc}, [{to}, #8 * 31]", "adr {pc}, .",
                to = in(reg) values.as_mut_ptr(), pc = out(reg) pc, options(nostack, preserves_flags));
        }
        Self { pc, values, known: numbers::KEPT }
    }

    /// The registers that a quick walk has.
    pub(super) fn of(registers: arch::Registers, exact: bool) -> Self {
        let mut all = Self { pc: registers.pc, values: [0; COUNT], known: 0 };
        all.set(dwarf::STACK_POINTER, Some(registers.sp));
        all.set(dwarf::FRAME_POINTER, Some(registers.fp));
        if cfg!(target_arch = "aarch64") && exact {
            all.set(RETURN, Some(registers.link));
        }
        all
    }

    /// The registers that a quick walk continues with; `None` if one of them is not known.
    pub(super) fn of_quick_walk(&self) -> Option<arch::Registers> {
        let link = if cfg!(target_arch = "aarch64") { self.get(RETURN).unwrap_or(0) } else { 0 };
        Some(arch::Registers { pc: self.pc, sp: self.sp()?, fp: self.get(dwarf::FRAME_POINTER)?, link })
    }

    /// The registers of the code that a signal has interrupted, which the kernel has saved in the
    /// `ucontext` at `context`.
    pub(super) fn interrupted(context: usize, memory: &Memory) -> Option<Self> {
        let mut all = Self { pc: 0, values: [0; COUNT], known: 0 };
        let machine = context + offset_of!(libc::ucontext_t, uc_mcontext);
        #[cfg(target_arch = "x86_64")]
        {
            /// The places of the registers 0 to 15 in `gregs`.
            const PLACES: [i32; 16] = [
                libc::REG_RAX,
                libc::REG_RDX,
                libc::REG_RCX,
                libc::REG_RBX,
                libc::REG_RSI,
                libc::REG_RDI,
                libc::REG_RBP,
                libc::REG_RSP,
                libc::REG_R8,
                libc::REG_R9,
                libc::REG_R10,
                libc::REG_R11,
                libc::REG_R12,
                libc::REG_R13,
                libc::REG_R14,
                libc::REG_R15,
            ];
            let load = |which: i32| memory.load(machine + offset_of!(libc::mcontext_t, gregs) + 8 * which as usize);
            for (number, which) in (0..).zip(PLACES) {
                all.set(number, Some(load(which)?));
            }
            all.pc = load(libc::REG_RIP)?;
        }
        #[cfg(target_arch = "aarch64")]
        {
            for number in 0..31 {
                let at = machine + offset_of!(libc::mcontext_t, regs) + 8 * usize::from(number);
                all.set(number, Some(memory.load(at)?));
            }
            all.set(dwarf::STACK_POINTER, Some(memory.load(machine + offset_of!(libc::mcontext_t, sp))?));
            all.pc = memory.load(machine + offset_of!(libc::mcontext_t, pc))?;
        }
        Some(all)
    }

    pub(super) fn sp(&self) -> Option<usize> {
        self.get(dwarf::STACK_POINTER)
    }

    /// A register's value; `None` if it is not known.
    pub(super) fn get(&self, register: u16) -> Option<usize> {
        // In expressions the number of the return address stands for the frame's own program
        // counter.
        if register == RETURN && self.known & 1 << RETURN == 0 {
            return Some(self.pc);
        }
        // LLVM's number for it, in the tables of trampolines of another copy of exeunt.
        if cfg!(target_arch = "aarch64") && register == 32 {
            return Some(self.pc);
        }
        (usize::from(register) < COUNT && self.known & 1 << register != 0).then(|| self.values[usize::from(register)])
    }

    pub(super) fn set(&mut self, register: u16, value: Option<usize>) {
        match value {
            Some(value) => {
                self.values[usize::from(register)] = value;
                self.known |= 1 << register;
            }
            None => self.known &= !(1 << register),
        }
    }

    /// The registers of the calling frame, at `pc`: those that a call preserves.
    pub(super) fn kept(&self, pc: usize) -> Self {
        Self { pc, known: self.known & numbers::KEPT, ..*self }
    }
}
