//! What the recorder has to know of x86_64.

use crate::film::recording::{Flow, Line, Word};
use crate::film::result::Result;
use gimli::Vendor;
use iced_x86::{Decoder, DecoderOptions, FlowControl, Formatter, GasFormatter};
use nix::sys::ptrace;
use nix::unistd::Pid;
use object::Architecture;

pub const NAME: &str = "x86_64";
pub const VENDOR: Vendor = Vendor::Default;
pub const ARCHITECTURE: Architecture = Architecture::X86_64;

/// The instruction that stops a process, and how far behind it the program counter is then.
pub const BREAKPOINT: &[u8] = &[0xcc];
pub const BREAKPOINT_ADVANCES: u64 = 1;

/// The registers that steps show.
pub const REGISTERS: [&str; 18] = [
    "rip", "rsp", "rax", "rdx", "rdi", "rsi", "rcx", "r8", "r9", "r10", "r11", "rbx", "rbp", "r12", "r13", "r14",
    "r15", "eflags",
];

/// Calls put the return address on the stack, and not into a register.
pub const LINK_REGISTER: Option<usize> = None;

/// The landing in glibc's `__pthread_unwind_buf_t`: its program counter is so many words below the
/// buffer's last word, and these words are from there downwards (`setjmp` stores eight registers;
/// the flag and four words follow).
pub const LANDING_BELOW_SPARE: u64 = 5;
pub const JUMP_BUFFER: [(i64, &str); 8] = [
    (0, "landing: rip"),
    (-1, "landing: rsp"),
    (-2, "landing: r15"),
    (-3, "landing: r14"),
    (-4, "landing: r13"),
    (-5, "landing: r12"),
    (-6, "landing: rbp"),
    (-7, "landing: rbx"),
];

/// The column of the return address, and the names of columns, in unwind tables (System V ABI,
/// x86_64, figure 3.36).
pub const RETURN_COLUMN: u16 = 16;
pub const STACK_POINTER_COLUMN: u16 = 7;
pub const COLUMNS: [&str; 17] = [
    "rax", "rdx", "rcx", "rbx", "rsi", "rdi", "rbp", "rsp", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "rip",
];

/// The registers of a stopped thread.
#[derive(Clone, Copy)]
pub struct Registers(libc::user_regs_struct);

impl Registers {
    pub fn of(thread: Pid) -> nix::Result<Self> {
        ptrace::getregs(thread).map(Self)
    }

    /// From a stub's packet: the registers as below, and four bytes of eflags.
    pub fn of_stub(bytes: &[u8]) -> Result<Self> {
        let Some((words, rest)) = bytes.split_at_checked(17 * 8) else {
            return Err("the stub sends other registers than those of x86_64".into());
        };
        let mut words = words.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().unwrap_or_default()));
        let [rax, rbx, rcx, rdx, rsi, rdi, rbp, rsp, r8, r9, r10, r11, r12, r13, r14, r15, rip] =
            std::array::from_fn(|_| words.next().unwrap_or_default());
        let eflags = rest.first_chunk().map_or(0, |flags| u32::from_le_bytes(*flags).into());
        // SAFETY: the structure has integers alone, so zeros are a value of it.
        let others: libc::user_regs_struct = unsafe { std::mem::zeroed() };
        Ok(Self(libc::user_regs_struct {
            rax,
            rbx,
            rcx,
            rdx,
            rsi,
            rdi,
            rbp,
            rsp,
            r8,
            r9,
            r10,
            r11,
            r12,
            r13,
            r14,
            r15,
            rip,
            eflags,
            ..others
        }))
    }

    pub fn set_pc(&mut self, thread: Pid, pc: u64) -> nix::Result<()> {
        self.0.rip = pc;
        ptrace::setregs(thread, self.0)
    }

    pub fn pc(&self) -> u64 {
        self.0.rip
    }

    pub fn sp(&self) -> u64 {
        self.0.rsp
    }

    pub fn frame_pointer(&self) -> u64 {
        self.0.rbp
    }

    /// The register that holds a function's result.
    pub fn result(&self) -> u64 {
        self.0.rax
    }

    /// In the order of [`REGISTERS`].
    pub fn all(&self) -> Vec<Word> {
        let r = &self.0;
        [
            r.rip, r.rsp, r.rax, r.rdx, r.rdi, r.rsi, r.rcx, r.r8, r.r9, r.r10, r.r11, r.rbx, r.rbp, r.r12, r.r13,
            r.r14, r.r15, r.eflags,
        ]
        .map(Word)
        .to_vec()
    }

    /// By the columns of unwind tables.
    pub fn columns(&self) -> Vec<Option<u64>> {
        let r = &self.0;
        [
            r.rax, r.rdx, r.rcx, r.rbx, r.rsi, r.rdi, r.rbp, r.rsp, r.r8, r.r9, r.r10, r.r11, r.r12, r.r13, r.r14,
            r.r15, r.rip,
        ]
        .map(Some)
        .to_vec()
    }
}

/// An address without what a signature puts into it.
pub fn plain(address: u64) -> u64 {
    address
}

/// Where a sequence ends that a single step breaks: this processor has none.
pub fn unbroken(_: &[u8], _: u64) -> Vec<u64> {
    Vec::new()
}

/// Disassembles the code at `at`.
pub fn disassemble(code: &[u8], at: u64, name: &dyn Fn(u64) -> Option<String>) -> Vec<Line> {
    let mut formatter = GasFormatter::new();
    formatter.options_mut().set_space_after_operand_separator(true);
    formatter.options_mut().set_small_hex_numbers_in_decimal(true);
    formatter.options_mut().set_rip_relative_addresses(true);
    formatter.options_mut().set_branch_leading_zeros(false);
    formatter.options_mut().set_uppercase_hex(false);
    formatter.options_mut().set_gas_show_mnemonic_size_suffix(false);
    let decoder = Decoder::with_ip(64, code, at, DecoderOptions::NONE);
    let mut lines = Vec::new();
    for instruction in decoder {
        let mut text = String::new();
        formatter.format(&instruction, &mut text);
        let target = if instruction.is_ip_rel_memory_operand() {
            Some(instruction.ip_rel_memory_address())
        } else if instruction.near_branch_target() != 0 {
            Some(instruction.near_branch_target())
        } else {
            None
        };
        let shown = target.and_then(name).or_else(|| {
            let is_distance = instruction.is_ip_rel_memory_operand();
            target.filter(|_| is_distance).map(|target| format!("{target:#x}"))
        });
        if let Some(shown) = shown {
            text += &format!("  # {shown}");
        }
        let start = (instruction.ip() - at) as usize;
        let bytes = &code[start..start + instruction.len()];
        lines.push(Line {
            at: Word(instruction.ip()),
            bytes: bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" "),
            text,
            flow: match instruction.flow_control() {
                FlowControl::Call | FlowControl::IndirectCall => Flow::Call,
                FlowControl::Return => Flow::Return,
                FlowControl::UnconditionalBranch | FlowControl::IndirectBranch | FlowControl::ConditionalBranch => {
                    Flow::Jump
                }
                _ => Flow::On,
            },
        });
    }
    lines
}
