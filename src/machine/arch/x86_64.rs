//! x86_64: the return address is pushed by `call`, so it always lies right below the caller's frame.

use super::cache_entry;
use std::arch::asm;

/// The stack pointer of the function that this is inlined into.
#[inline(always)]
pub fn stack_pointer() -> usize {
    let sp: usize;
    // SAFETY: reads a register. `pure` and `nomem` let the compiler read it once per function: within one activation
    // of a function the answer is always on the same stack, whichever thread runs it.
    unsafe { asm!("mov {}, rsp", out(reg) sp, options(pure, nomem, nostack, preserves_flags)) };
    sp
}

/// The number of the block of 64 bytes that the stack pointer of the function that this is inlined into is in.
#[inline(always)]
pub(crate) fn stack_block() -> usize {
    stack_pointer() >> 6
}

/// An address as addresses are compared and looked up: all of it.
#[inline(always)]
pub(crate) const fn untagged(address: usize) -> usize {
    address
}

/// `address` with the tag of `like`: there are none.
pub(crate) const fn tagged_as(address: usize, _like: usize) -> usize {
    address
}

/// The word at an address of a stack, whatever is kept there. It is out of sanitizers' sight, which would take a look at what
/// lies between two variables for an error.
///
/// # Safety
/// `address` must be aligned, and be of a stack that is there.
#[inline(always)]
pub(crate) unsafe fn word_of_stack(address: usize) -> usize {
    let word: usize;
    // SAFETY: the caller's promise.
    unsafe { asm!("mov {}, [{}]", out(reg) word, in(reg) address, options(readonly, nostack, preserves_flags)) };
    word
}

/// Whether a place of what a stack local remembers (`inline_cache::Place`) is `block`'s, and the canary that it names is there:
/// `offset` bytes from `places` on. In assembly, for compilers don't compare with memory that others may change without loading
/// it into a register first: 6 instructions instead of 8.
///
/// The order of the loads is the processor's affair. The stack that runs is the only one to change a place of its own blocks, and where
/// it is another thread's turn to run it, whoever moved it there has seen to their order.
///
/// # Safety
/// The place must be there, and if it is `block`'s, so must be the word that it names the address of.
#[inline(always)]
pub(crate) unsafe fn hits(entries: *const u8, offset: usize, block: usize) -> bool {
    // SAFETY: reads what the caller promises to be there, and two registers.
    unsafe {
        asm!(
            "cmp [{entries} + {offset} + {BLOCK}], {block}", // is the place the block's?
            "jne {other}",
            "mov rax, [{entries} + {offset} + {CANARY}]",      // the address of the canary,
            "mov rcx, [{entries} + {offset} + {CANARY} + 8]",  // and what it must be
            "cmp [rax], rcx",                               // is it?
            "jne {other}",
            entries = in(reg) entries,
            offset = in(reg) offset,
            block = in(reg) block,
            other = label { return false },
            BLOCK = const cache_entry::BLOCK,
            CANARY = const cache_entry::CANARY_AT,
            out("rax") _, out("rcx") _,
            options(readonly, nostack),
        );
    }
    true
}

/// Where an unwinder stands: the registers that unwind rules refer to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Registers {
    /// Program counter: an exact one for `here` and `interrupted`, else a return address.
    pub pc: usize,
    /// Stack pointer.
    pub sp: usize,
    /// Frame pointer (rbp), whatever the code uses it for.
    pub fp: usize,
    /// Not used on x86_64: the return address is never in a register.
    pub link: usize,
}

impl Registers {
    /// The registers of the function that this is inlined into.
    #[inline(always)]
    pub(crate) fn here() -> Self {
        let (pc, sp, fp): (usize, usize, usize);
        // SAFETY: reads registers only.
        unsafe {
            asm!("lea {}, [rip]", "mov {}, rsp", "mov {}, rbp", out(reg) pc, out(reg) sp, out(reg) fp,
                options(nomem, nostack, preserves_flags));
        }
        Self { pc, sp, fp, link: 0 }
    }
}

/// Whether the code at `pc` is what the system has signal handlers return into: `mov $15,%rax; syscall`. A table may mark
/// other code as a signal's frame; corosensei does, for debuggers.
///
/// # Safety
/// `pc` must be the address of code.
#[cfg(target_os = "linux")]
pub(crate) unsafe fn returns_from_signal(pc: usize) -> bool {
    let sigreturn = [0x48, 0xc7, 0xc0, 0x0f, 0x00, 0x00, 0x00, 0x0f, 0x05];
    // SAFETY: the caller promises code here, and each byte is read only if those before it are the beginning of a longer
    // instruction or of this very sequence.
    (0..).zip(sigreturn).all(|(at, byte): (usize, u8)| unsafe { (pc as *const u8).add(at).read() } == byte)
}

/// How far above the stack pointer its caller's frame begins, if the code at `pc` is in a stub of the procedure linkage
/// table. Not every linker describes these to unwinders (LLVM's does not), and a signal may arrive there. The forms are
/// those of the System V ABI, x86_64, section 5.2, and with `endbr64` of its section on control flow protection.
///
/// # Safety
/// `pc` must be the address of an instruction that was just run, or is about to be.
pub(crate) unsafe fn linkage_stub(pc: usize) -> Option<usize> {
    // SAFETY: stubs are 16 bytes and so aligned, and 16 bytes so aligned lie in one page, with the instruction at `pc`.
    let code: [u8; 16] = unsafe { ((pc & !15) as *const [u8; 16]).read() };
    let at = pc & 15;
    // Where a stub begins there are the bytes `begins`; the places of its instructions, and how much is on the stack there.
    type Form<'a> = (&'a [u8], &'a [(usize, usize)]);
    let forms: [Form; 5] = [
        // The first one, for functions that are not bound yet: `push link; jmp *resolver`. The index is on the stack already.
        (&[0xff, 0x35], &[(0, 16), (6, 24)]),
        // `jmp *slot`, and maybe `push index; jmp first`.
        (&[0xff, 0x25], &[(0, 8), (6, 8), (11, 16)]),
        // The two halves with `endbr64`: `jmp *slot`, and `push index; jmp first`; the jumps may have a prefix.
        (&[0xf3, 0x0f, 0x1e, 0xfa, 0xff, 0x25], &[(0, 8), (4, 8)]),
        (&[0xf3, 0x0f, 0x1e, 0xfa, 0xf2, 0xff, 0x25], &[(0, 8), (4, 8)]),
        (&[0xf3, 0x0f, 0x1e, 0xfa, 0x68], &[(0, 8), (4, 8), (9, 16)]),
    ];
    let (_, places) = forms.iter().find(|(begins, _)| code.starts_with(begins))?;
    places.iter().find(|(place, _)| *place == at).map(|(_, above)| *above)
}

/// The address in a return address word: x86_64 has no signatures.
pub(crate) fn strip(word: usize) -> usize {
    word
}

/// The word to store where `found` is, so that the return goes to `new` instead of `original`; `None` if `found` is not
/// a way to write `original`.
pub(crate) fn replace_address(
    found: usize,
    original: usize,
    new: usize,
    _base: usize,
    _signing: impl FnOnce() -> Option<Signing>,
) -> Option<usize> {
    (found == original).then_some(new)
}

/// How a function signs its return address: never.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(dead_code, reason = "aarch64 has it")]
pub(crate) enum Signing {
    Plain,
}

/// Whether this thread's returns are checked against a shadow stack (CET). `rdsspq` gives the shadow stack's pointer,
/// and is a no-operation where there is none (Intel SDM vol. 2, RDSSPQ), so zero stays zero.
pub(crate) fn shadow_stack_active() -> bool {
    let pointer: usize;
    // SAFETY: reads a register, or does nothing.
    unsafe { asm!("xor {0:e}, {0:e}", "rdsspq {0}", out(reg) pointer, options(nomem, nostack)) };
    pointer != 0
}

/// The numbers that unwind tables give to registers (System V ABI, x86_64, figure 3.36).
#[cfg(target_os = "linux")]
pub(crate) mod dwarf {
    pub(crate) const STACK_POINTER: u16 = 7;
    pub(crate) const FRAME_POINTER: u16 = 6;
}

/// glibc's `jmp_buf` (`sysdeps/x86_64/jmpbuf-offsets.h`), and how it mixes pointers with its secret
/// (`sysdeps/unix/sysv/linux/x86_64/pointer_guard.h`).
#[cfg(target_os = "linux")]
pub(crate) mod landing {
    pub(crate) const WORDS: usize = 8;
    pub(crate) const STACK_POINTER: usize = 6;
    pub(crate) const PROGRAM_COUNTER: usize = 7;
    pub(crate) const ROTATION: u32 = 17;
}

/// Whether the code at `address` hands an entry function's result to `exit`: `mov %eax,%edi; call exit`.
///
/// # Safety
/// `address` must be a return address, so that the seven bytes from there are code.
#[cfg(target_os = "linux")]
pub(crate) unsafe fn ends_in_exit(address: usize, exit: usize) -> bool {
    // SAFETY: the caller promises code here; a function that calls another does not end within seven bytes of a page
    // that is not mapped, as at least this call's own encoding follows where the first bytes match.
    unsafe {
        let code = address as *const u8;
        if [code.read(), code.add(1).read()] != [0x89, 0xc7] || code.add(2).read() != 0xe8 {
            return false;
        }
        let distance = code.add(3).cast::<i32>().read_unaligned();
        (address + 7).wrapping_add_signed(distance as isize) == exit
    }
}

/// Where the direct call leads that returns to `address`; `None` if that call is none.
///
/// # Safety
/// The five bytes before `address`, a return address, must be code.
#[cfg(target_os = "linux")]
pub(crate) unsafe fn called_directly(address: usize) -> Option<usize> {
    // SAFETY: the caller's promise.
    let code = unsafe { ((address - 5) as *const [u8; 5]).read() };
    // An indirect call (`ff /2`) is shorter or longer than a direct one, and ends in bytes that may look like one's.
    let is_indirect = matches!(code, [.., 0xff, 0xd0..=0xd7] | [.., 0xff, 0x10..=0x17, _] | [.., 0xff, 0x50..=0x57, _])
        || matches!(code, [.., 0xff, 0x10..=0x17] | [_, 0xff, 0x54, ..]);
    if code[0] != 0xe8 || is_indirect {
        return None;
    }
    let distance = i32::from_le_bytes([code[1], code[2], code[3], code[4]]);
    Some(address.wrapping_add_signed(distance as isize))
}
