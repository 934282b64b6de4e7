//! The registers that unwinding needs, by the numbers that unwind tables use (the psABI of each
//! processor), and their values at a place in this program.

use std::arch::asm;

/// A thread's registers where it stopped, or what unwinding knows of them in an outer frame.
#[derive(Clone, Debug)]
pub struct Registers {
    pub pc: usize,
    values: [Option<usize>; COUNT],
}

#[cfg(target_arch = "x86_64")]
mod machine {
    pub const COUNT: usize = 17;
    pub const FRAME_POINTER: u16 = 6;
    pub const STACK_POINTER: u16 = 7;
    pub const RETURN_ADDRESS: u16 = 16;
    pub const NAMES: [&str; COUNT] = [
        "rax",
        "rdx",
        "rcx",
        "rbx",
        "rsi",
        "rdi",
        "rbp",
        "rsp",
        "r8",
        "r9",
        "r10",
        "r11",
        "r12",
        "r13",
        "r14",
        "r15",
        "return address",
    ];
    /// What the kernel's `user_regs_struct` holds, in its order (`asm/ptrace.h`).
    pub const WORDS: usize = 27;
    pub const PC: usize = 16;
    pub const IN_KERNEL_ORDER: [(u16, usize); 16] = [
        (15, 0),
        (14, 1),
        (13, 2),
        (12, 3),
        (6, 4),
        (3, 5),
        (11, 6),
        (10, 7),
        (9, 8),
        (8, 9),
        (0, 10),
        (2, 11),
        (1, 12),
        (4, 13),
        (5, 14),
        (7, 19),
    ];
}

#[cfg(target_arch = "aarch64")]
mod machine {
    pub const COUNT: usize = 32;
    pub const FRAME_POINTER: u16 = 29;
    pub const STACK_POINTER: u16 = 31;
    pub const RETURN_ADDRESS: u16 = 30;
    pub const NAMES: [&str; COUNT] = [
        "x0",
        "x1",
        "x2",
        "x3",
        "x4",
        "x5",
        "x6",
        "x7",
        "x8",
        "x9",
        "x10",
        "x11",
        "x12",
        "x13",
        "x14",
        "x15",
        "x16",
        "x17",
        "x18",
        "x19",
        "x20",
        "x21",
        "x22",
        "x23",
        "x24",
        "x25",
        "x26",
        "x27",
        "x28",
        "x29",
        "return address",
        "sp",
    ];
    /// What the kernel's `user_pt_regs` holds, in its order (`asm/ptrace.h`).
    pub const WORDS: usize = 34;
    pub const PC: usize = 32;
    pub const IN_KERNEL_ORDER: [(u16, usize); COUNT] = {
        let mut order = [(0, 0); COUNT];
        let mut at = 0;
        while at < COUNT {
            order[at] = (at as u16, at);
            at += 1;
        }
        order
    };
}

use machine::{COUNT, IN_KERNEL_ORDER, NAMES, PC};
pub use machine::{FRAME_POINTER, RETURN_ADDRESS, STACK_POINTER, WORDS};

/// A register's name.
pub fn name(number: u16) -> String {
    NAMES.get(usize::from(number)).map_or_else(|| format!("register {number}"), |&name| name.to_owned())
}

impl Registers {
    /// From the words of a stopped thread that the kernel gives.
    pub fn of_the_kernel(words: &[usize; WORDS]) -> Self {
        let mut registers = Self { pc: words[PC], values: [None; COUNT] };
        for (number, at) in IN_KERNEL_ORDER {
            registers.set(number, Some(words[at]));
        }
        registers
    }

    pub fn get(&self, number: u16) -> Option<usize> {
        self.values.get(usize::from(number)).copied().flatten()
    }

    /// Registers that unwinding does not need are left out.
    pub fn set(&mut self, number: u16, value: Option<usize>) {
        if let Some(register) = self.values.get_mut(usize::from(number)) {
            *register = value;
        }
    }

    pub fn stack_pointer(&self) -> usize {
        self.get(STACK_POINTER).unwrap_or(0)
    }
}

/// Calls `then` with the registers of this function, whose frame lives until it returns.
#[inline(never)]
pub fn with_registers<R>(then: impl FnOnce(Registers) -> R) -> R {
    let mut words = [0_usize; 16];
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the stores fill eight of the array's words. `nostack`: the stack pointer is the
    // function's in the whole block, so that one row of the unwind table holds for all of it.
    unsafe {
        asm!(
            "lea {pc}, [rip]",
            "mov [{words}], {pc}",
            "mov [{words} + 8], rsp",
            "mov [{words} + 16], rbp",
            "mov [{words} + 24], rbx",
            "mov [{words} + 32], r12",
            "mov [{words} + 40], r13",
            "mov [{words} + 48], r14",
            "mov [{words} + 56], r15",
            words = in(reg) words.as_mut_ptr(),
            pc = out(reg) _,
            options(nostack, preserves_flags)
        );
    }
    #[cfg(target_arch = "x86_64")]
    let order: [u16; 7] = [STACK_POINTER, FRAME_POINTER, 3, 12, 13, 14, 15];
    #[cfg(target_arch = "aarch64")]
    // SAFETY: the stores fill 14 of the array's words; otherwise as above.
    unsafe {
        asm!(
            "adr {pc}, .",
            "mov {sp}, sp",
            "stp {pc}, {sp}, [{words}]",
            "stp x29, x30, [{words}, #16]",
            "stp x19, x20, [{words}, #32]",
            "stp x21, x22, [{words}, #48]",
            "stp x23, x24, [{words}, #64]",
            "stp x25, x26, [{words}, #80]",
            "stp x27, x28, [{words}, #96]",
            words = in(reg) words.as_mut_ptr(),
            pc = out(reg) _,
            sp = out(reg) _,
            options(nostack, preserves_flags)
        );
    }
    #[cfg(target_arch = "aarch64")]
    let order: [u16; 13] = [STACK_POINTER, FRAME_POINTER, RETURN_ADDRESS, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28];
    let mut registers = Registers { pc: words[0], values: [None; COUNT] };
    for (&number, &word) in order.iter().zip(&words[1..]) {
        registers.set(number, Some(word));
    }
    let result = then(registers);
    // The call above must not become a jump: this frame is in the picture.
    std::hint::black_box(&mut words);
    result
}
