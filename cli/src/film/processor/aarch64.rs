//! What the recorder has to know of aarch64.

use crate::film::recording::{Flow, Line, Word};
use crate::film::result::Result;
use disarm64::decoder;
use disarm64::format_insn::format_insn_pc;
use gimli::Vendor;
use nix::sys::ptrace::{self, regset::NT_PRSTATUS};
use nix::unistd::Pid;
use object::Architecture;

pub const NAME: &str = "aarch64";
pub const VENDOR: Vendor = Vendor::AArch64;
pub const ARCHITECTURE: Architecture = Architecture::Aarch64;

/// The instruction that stops a process (`brk #0`), and how far behind it the program counter is
/// then.
pub const BREAKPOINT: &[u8] = &[0x00, 0x00, 0x20, 0xd4];
pub const BREAKPOINT_ADVANCES: u64 = 0;

/// The registers that steps show.
pub const REGISTERS: [&str; 34] = [
    "pc", "sp", "x0", "x1", "x2", "x3", "x4", "x5", "x6", "x7", "x8", "x9", "x10", "x11", "x12", "x13", "x14", "x15",
    "x16", "x17", "x18", "x19", "x20", "x21", "x22", "x23", "x24", "x25", "x26", "x27", "x28", "x29", "x30", "pstate",
];

/// The register that calls put the return address into, by its number in [`REGISTERS`].
pub const LINK_REGISTER: Option<usize> = Some(32);

/// The landing in glibc's `__pthread_unwind_buf_t`: its program counter is so many words below the
/// buffer's last word, and these words are from there upwards and downwards (`setjmp` stores x19 to
/// x30, the stack pointer, d8 to d15; the flag and four words follow).
pub const LANDING_BELOW_SPARE: u64 = 15;
pub const JUMP_BUFFER: [(i64, &str); 4] =
    [(2, "landing: sp"), (0, "landing: x30"), (-1, "landing: x29"), (-2, "landing: x28")];

/// The column of the return address, and the names of columns, in unwind tables (DWARF for the Arm
/// 64-bit Architecture, section 4.1).
pub const RETURN_COLUMN: u16 = 30;
pub const STACK_POINTER_COLUMN: u16 = 31;
pub const COLUMNS: [&str; 32] = [
    "x0", "x1", "x2", "x3", "x4", "x5", "x6", "x7", "x8", "x9", "x10", "x11", "x12", "x13", "x14", "x15", "x16", "x17",
    "x18", "x19", "x20", "x21", "x22", "x23", "x24", "x25", "x26", "x27", "x28", "x29", "x30", "sp",
];

/// Bits of a process's addresses on Linux; a signature is above them.
const ADDRESS: u32 = 48;

/// The registers of a stopped thread.
#[derive(Clone, Copy)]
pub struct Registers(libc::user_regs_struct);

impl Registers {
    pub fn of(thread: Pid) -> nix::Result<Self> {
        ptrace::getregset::<NT_PRSTATUS>(thread).map(Self)
    }

    /// From a stub's packet: x0 to x30, sp, pc, and four bytes of cpsr.
    pub fn of_stub(bytes: &[u8]) -> Result<Self> {
        let Some((words, rest)) = bytes.split_at_checked(33 * 8) else {
            return Err("the stub sends other registers than those of aarch64".into());
        };
        let mut words = words.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().unwrap_or_default()));
        let regs = std::array::from_fn(|_| words.next().unwrap_or_default());
        let [sp, pc] = std::array::from_fn(|_| words.next().unwrap_or_default());
        let pstate = rest.first_chunk().map_or(0, |flags| u32::from_le_bytes(*flags).into());
        Ok(Self(libc::user_regs_struct { regs, sp, pc, pstate }))
    }

    pub fn set_pc(&mut self, thread: Pid, pc: u64) -> nix::Result<()> {
        self.0.pc = pc;
        ptrace::setregset::<NT_PRSTATUS>(thread, self.0)
    }

    pub fn pc(&self) -> u64 {
        self.0.pc
    }

    pub fn sp(&self) -> u64 {
        self.0.sp
    }

    pub fn frame_pointer(&self) -> u64 {
        self.0.regs[29]
    }

    /// The register that holds a function's result.
    pub fn result(&self) -> u64 {
        self.0.regs[0]
    }

    /// In the order of [`REGISTERS`].
    pub fn all(&self) -> Vec<Word> {
        let others = self.0.regs.iter().copied();
        [self.0.pc, self.0.sp].into_iter().chain(others).chain([self.0.pstate]).map(Word).collect()
    }

    /// By the columns of unwind tables.
    pub fn columns(&self) -> Vec<Option<u64>> {
        self.0.regs.iter().copied().chain([self.0.sp]).map(Some).collect()
    }
}

/// An address without what a signature puts into it.
pub fn plain(address: u64) -> u64 {
    address & ((1 << ADDRESS) - 1)
}

/// Disassembles the code at `at`.
pub fn disassemble(code: &[u8], at: u64, name: &dyn Fn(u64) -> Option<String>) -> Vec<Line> {
    let words = code.chunks_exact(4).map(|bytes| u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]));
    let lines = words.zip((at..).step_by(4)).map(|(word, at)| {
        let mut text = String::new();
        let is_known = decoder::decode(word).is_some_and(|opcode| format_insn_pc(at, &mut text, &opcode).is_ok());
        if !is_known {
            text = format!(".inst {word:#010x}");
        }
        text = preferred(&text.split_whitespace().collect::<Vec<_>>().join(" "));
        if let Some(name) = target(word, at).and_then(name) {
            text += &format!("  # {name}");
        }
        let bytes: Vec<String> = word.to_le_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        Line { at: Word(at), bytes: bytes.join(" "), text, flow: flow(word) }
    });
    lines.collect()
}

/// The form in which assemblers and manuals have an instruction, where the decoder gives another
/// one (Arm Architecture Reference Manual, C6.2: "MOV (register)", "CMP" and others are aliases).
fn preferred(text: &str) -> String {
    let (name, operands) = text.split_once(' ').unwrap_or((text, ""));
    let operands: Vec<&str> = operands.split(", ").collect();
    match (name, &operands[..]) {
        ("orr", [to, "xzr" | "wzr", from]) => format!("mov {to}, {from}"),
        ("add", [to, from, "#0x0"]) if [*to, *from].contains(&"sp") => format!("mov {to}, {from}"),
        ("movn", [to, "#0x0", "lsl #0x0"]) if to.starts_with('x') => format!("mov {to}, #-1"),
        ("subs", ["xzr" | "wzr", one, other @ ..]) => format!("cmp {one}, {}", other.join(", ")),
        ("ret", ["x30"]) => name.to_owned(),
        _ => text.to_owned(),
    }
}

/// Where a sequence ends that a single step breaks: a store-exclusive fails if the thread has stopped
/// since the load-exclusive, so a loop of these two would never end. `code` begins with the
/// instruction at `at`. The ends are behind the store, and where branches on the way lead to. There
/// are none if the instruction is no load-exclusive.
pub fn unbroken(code: &[u8], at: u64) -> Vec<u64> {
    let words = code.chunks_exact(4).map(|bytes| u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]));
    let mut ends = Vec::new();
    for (word, here) in words.zip((at..).step_by(4)) {
        // ldxr, ldaxr and those of other sizes and of pairs; then the stores (C4.1.94).
        if here == at && word & 0x3fc0_0000 != 0x0840_0000 {
            return Vec::new();
        }
        if word & 0x3fc0_0000 == 0x0800_0000 {
            ends.push(here + 4);
            return ends;
        }
        let distance = match word {
            _ if word & 0xff00_0000 == 0x5400_0000 || word & 0x7e00_0000 == 0x3400_0000 => (word << 8) as i32 >> 13,
            _ if word & 0x7e00_0000 == 0x3600_0000 => (word << 13) as i32 >> 18,
            _ => continue,
        };
        ends.push(here.wrapping_add_signed(4 * i64::from(distance)));
    }
    Vec::new()
}

/// The target of `b` and `bl`.
fn target(word: u32, at: u64) -> Option<u64> {
    let distance = i64::from((word << 6) as i32 >> 4);
    (word & 0x7c00_0000 == 0x1400_0000).then(|| at.wrapping_add_signed(distance))
}

/// By the encodings of branches (Arm Architecture Reference Manual, C4.1.93).
fn flow(word: u32) -> Flow {
    match word {
        _ if word & 0xfc00_0000 == 0x9400_0000 => Flow::Call,
        // blr, and its forms that authenticate.
        _ if word & 0xfeff_f000 == 0xd63f_0000 => Flow::Call,
        // ret, retaa, retab.
        _ if word & 0xffff_f000 == 0xd65f_0000 => Flow::Return,
        // br, and its forms that authenticate.
        _ if word & 0xfeff_f000 == 0xd61f_0000 => Flow::Jump,
        _ if word & 0xfc00_0000 == 0x1400_0000 => Flow::Jump,
        // b.cond; cbz, cbnz; tbz, tbnz.
        _ if word & 0xff00_0000 == 0x5400_0000 || word & 0x7c00_0000 == 0x3400_0000 => Flow::Jump,
        _ => Flow::On,
    }
}
