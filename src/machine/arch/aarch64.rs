//! aarch64: the return address arrives in x30, and the function that is called stores it wherever its own frame has
//! room for it, maybe signed with the stack pointer it was entered with (pointer authentication).

use super::cache_entry;
use std::arch::asm;

/// The stack pointer of the function that this is inlined into.
#[inline(always)]
pub fn stack_pointer() -> usize {
    let sp: usize;
    // SAFETY: reads a register. `pure` and `nomem` let the compiler read it once per function: within one activation
    // of a function the answer is always on the same stack, whichever thread runs it.
    unsafe { asm!("mov {}, sp", out(reg) sp, options(pure, nomem, nostack, preserves_flags)) };
    sp
}

/// The number of the block of 64 bytes that the stack pointer of the function that this is inlined into is in, which has no tag
/// ([`untagged`]). In assembly, for the compiler would shift twice: for all of the number, and for the lower half of it alone.
#[inline(always)]
pub(crate) fn stack_block() -> usize {
    let block: usize;
    // SAFETY: as in `stack_pointer`.
    unsafe {
        asm!("mov {0}, sp", "ubfx {0}, {0}, #6, #50", out(reg) block, options(pure, nomem, nostack, preserves_flags));
    }
    block
}

/// An address as addresses are compared and looked up: without its base byte. The processor ignores that byte of a pointer to data
/// (Arm ARM, "address tagging"), and memory tagging (MTE, HWASan) keeps a tag there: a stack from a tagged `malloc` has tagged stack
/// pointers. Memory itself is read and written by the address as it came, as MTE compares its tag with the memory's.
#[inline(always)]
pub(crate) const fn untagged(address: usize) -> usize {
    address & (usize::MAX >> 8)
}

/// `address` with the tag of `like`.
pub(crate) const fn tagged_as(address: usize, like: usize) -> usize {
    untagged(address) | (like & !(usize::MAX >> 8))
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
    unsafe { asm!("ldr {}, [{}]", out(reg) word, in(reg) address, options(readonly, nostack, preserves_flags)) };
    word
}

/// Whether a place of what a stack local remembers (`inline_cache::Place`) is `block`'s, and the canary that it names is there:
/// `offset` bytes from `places` on. In assembly, for compilers don't compare with memory that others may change without loading
/// it into a register first: 7 instructions instead of 9.
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
            "ldr x16, [{entry}, #{BLOCK}]",      // is the place the block's?
            "cmp x16, {block}",
            "b.ne {other}",
            "ldp x16, x17, [{entry}, #{CANARY}]",  // the address of the canary, and what it must be
            "ldr x16, [x16]",                    // is it?
            "cmp x16, x17",
            "b.ne {other}",
            entry = in(reg) entries.wrapping_byte_add(offset),
            block = in(reg) block,
            other = label { return false },
            BLOCK = const cache_entry::BLOCK,
            CANARY = const cache_entry::CANARY_AT,
            out("x16") _, out("x17") _,
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
    /// Frame pointer (x29), whatever the code uses it for.
    pub fp: usize,
    /// x30, for a function that has not stored its return address: only one that a signal interrupted.
    pub link: usize,
}

impl Registers {
    /// The registers of the function that this is inlined into.
    #[inline(always)]
    pub(crate) fn here() -> Self {
        let (pc, sp, fp): (usize, usize, usize);
        // SAFETY: reads registers only.
        unsafe {
            asm!("adr {}, .", "mov {}, sp", "mov {}, x29", out(reg) pc, out(reg) sp, out(reg) fp,
                options(nomem, nostack, preserves_flags));
        }
        Self { pc, sp, fp, link: 0 }
    }
}

/// Whether the code at `pc` is what the system has signal handlers return into: `mov x8, #139; svc #0`. A table may mark
/// other code as a signal's frame; corosensei does, for debuggers.
///
/// # Safety
/// `pc` must be the address of code.
#[cfg(target_os = "linux")]
pub(crate) unsafe fn returns_from_signal(pc: usize) -> bool {
    let code = pc as *const u32;
    // SAFETY: the caller promises code here; a function does not end with the first of these instructions.
    pc.is_multiple_of(4) && unsafe { code.read() == 0xd280_1168 && code.add(1).read() == 0xd400_0001 }
}

/// How far above the stack pointer its caller's frame begins, if the code at `pc` is in a stub of the procedure linkage
/// table. No linker describes these to unwinders, and a signal may arrive there. The return address is in the link
/// register. The form is that of the ABI for AArch64, sysvabi64, "procedure linkage table":
/// `adrp x16, page; ldr x17, [x16, slot]; add x16, x16, slot; br x17`, maybe after `bti c`.
///
/// # Safety
/// `pc` must be the address of an instruction that was just run, or is about to be.
pub(crate) unsafe fn linkage_stub(pc: usize) -> Option<usize> {
    const BTI: u32 = 0xd503_245f;
    const SAVE: u32 = 0xa9bf_7bf0; // stp x16, x30, [sp, #-16]!
    let read = |at: usize| {
        // SAFETY: the caller's promise for the first one; none of the instructions that are read over ends a function.
        unsafe { (at as *const u32).read() }
    };
    let is_middle = |word: u32| {
        word & 0x9f00_001f == 0x9000_0010 // adrp x16
            || word & 0xffc0_03ff == 0xf940_0211 // ldr x17, [x16, #n]
            || word & 0xff80_03ff == 0x9100_0210 // add x16, x16, #n
    };
    let is_last = |word: u32| word == 0xd61f_0220; // br x17
    if !pc.is_multiple_of(4) {
        return None;
    }
    let rest = (0..5).find(|&at| !matches!(read(pc + 4 * at), BTI | SAVE) && !is_middle(read(pc + 4 * at)))?;
    if !is_last(read(pc + 4 * rest)) {
        return None;
    }
    // The first stub, for functions that are not bound yet, has pushed two registers, and kept the link register.
    let mut before = pc;
    while !before.is_multiple_of(4096) && before + 16 > pc {
        before -= 4;
        match read(before) {
            SAVE => return Some(16),
            word if is_middle(word) => {}
            _ => break,
        }
    }
    Some(0)
}

/// The address in a return address word, without its signature.
pub(crate) fn strip(word: usize) -> usize {
    let address: usize;
    // SAFETY: `xpaclri` (hint 7) clears the signature of x30, and is a no-operation where there are no signatures.
    unsafe { asm!("hint #7", inout("x30") word => address, options(pure, nomem, nostack, preserves_flags)) };
    address
}

/// `address` signed with key A for a frame that was entered with the stack pointer `base`.
fn sign_a(address: usize, base: usize) -> usize {
    let word: usize;
    // SAFETY: `pacia1716` (hint 8) signs x17 with x16 as modifier, and is a no-operation where there are no signatures.
    unsafe {
        asm!("hint #8", inout("x17") address => word, in("x16") base, options(pure, nomem, nostack, preserves_flags));
    }
    word
}

/// The same with key B.
fn sign_b(address: usize, base: usize) -> usize {
    let word: usize;
    // SAFETY: `pacib1716` (hint 10), as above.
    unsafe {
        asm!("hint #10", inout("x17") address => word, in("x16") base, options(pure, nomem, nostack, preserves_flags));
    }
    word
}

/// How a function signs its return address. For all of it the modifier is the stack pointer that it was entered with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Signing {
    Plain,
    KeyA,
    KeyB,
}

/// The word to store where `found` is, so that the return goes to `new` instead of `original`; `None` if `found` is not
/// a way to write `original` for a frame that was entered with the stack pointer `base`.
///
/// A function built with `-mbranch-protection` signs its return address at its entry, with the stack pointer as the
/// modifier (`paciasp`, `pacibsp`). Signing the address found gives the word found only if key and modifier are the
/// right ones, so that is the proof that our address can be signed in the same way. But a signature has as few as seven
/// bits: in one process of 128 it is zero, or the same with both keys. Then `signing` is asked how the function does it.
pub(crate) fn replace_address(
    found: usize,
    original: usize,
    new: usize,
    base: usize,
    signing: impl FnOnce() -> Option<Signing>,
) -> Option<usize> {
    let sign = |how: Signing, address: usize| match how {
        Signing::Plain => address,
        Signing::KeyA => sign_a(address, base),
        Signing::KeyB => sign_b(address, base),
    };
    let ways = [Signing::Plain, Signing::KeyA, Signing::KeyB];
    let mut fitting = ways.into_iter().filter(|&how| sign(how, original) == found);
    let word = sign(fitting.next()?, new);
    if fitting.all(|how| sign(how, new) == word) {
        return Some(word);
    }
    let how = signing()?;
    (sign(how, original) == found).then(|| sign(how, new))
}

/// Whether this thread's returns are checked against a isolated control stack (GCS). `chkfeat x16` (hint 40) clears bit 0
/// of x16 where it is on, and is a no-operation on processors that do not know it (Arm ARM, CHKFEAT).
pub(crate) fn shadow_stack_active() -> bool {
    let off: usize;
    // SAFETY: changes x16 only.
    unsafe { asm!("hint #40", inout("x16") 1usize => off, options(nomem, nostack, preserves_flags)) };
    off & 1 == 0
}

/// The numbers that unwind tables give to registers (DWARF for the Arm 64-bit Architecture, table 4).
#[cfg(target_os = "linux")]
pub(crate) mod dwarf {
    pub(crate) const STACK_POINTER: u16 = 31;
    pub(crate) const FRAME_POINTER: u16 = 29;
    /// The pseudo-register that says whether the return address is signed.
    pub(crate) const SIGN_STATE: u16 = 34;
}

/// glibc's `jmp_buf` (`sysdeps/aarch64/jmpbuf-offsets.h`), and how it mixes pointers with its secret
/// (`sysdeps/unix/sysv/linux/aarch64/pointer_guard.h`: it does not rotate them).
#[cfg(target_os = "linux")]
pub(crate) mod landing {
    pub(crate) const WORDS: usize = 22;
    pub(crate) const STACK_POINTER: usize = 13;
    pub(crate) const PROGRAM_COUNTER: usize = 11;
    pub(crate) const ROTATION: u32 = 0;
}

/// Whether the code at `address` hands an entry function's result to `exit`: `bl exit`, as w0 is result and argument.
///
/// # Safety
/// `address` must be a return address, so that the word there is code.
#[cfg(target_os = "linux")]
pub(crate) unsafe fn ends_in_exit(address: usize, exit: usize) -> bool {
    // SAFETY: the caller promises code here, and code is made of aligned words.
    let instruction = unsafe { (address as *const u32).read() };
    if instruction >> 26 != 0b100101 {
        return false;
    }
    let distance = ((instruction << 6) as i32 >> 6) as isize * 4;
    address.wrapping_add_signed(distance) == exit
}

/// Where the direct call leads that returns to `address`; `None` if that call is none.
///
/// # Safety
/// The word before `address`, a return address, must be code.
#[cfg(target_os = "linux")]
pub(crate) unsafe fn called_directly(address: usize) -> Option<usize> {
    // SAFETY: the caller's promise.
    let instruction = unsafe { ((address - 4) as *const u32).read() };
    let distance = ((instruction << 6) as i32 >> 6) as isize * 4;
    (instruction >> 26 == 0b100101).then(|| (address - 4).wrapping_add_signed(distance))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_a_signature_says_nothing_the_tables_decide() {
        let (original, new) = (0x7f12_3456_7890, 0x5512_3456_7890);
        if sign_a(original, 16) == original && sign_a(original, 32) == original && sign_a(original, 48) == original {
            return println!("this processor signs nothing");
        }
        let unsaid = || None;
        let mut undecided = 0;
        for base in (0x7fff_0000_0000..).step_by(16).take(20_000) {
            let ways = [(Signing::Plain, original, new), (Signing::KeyA, sign_a(original, base), sign_a(new, base))];
            for (how, found, right) in ways {
                assert_eq!(replace_address(found, original, new, base, || Some(how)), Some(right));
                match replace_address(found, original, new, base, unsaid) {
                    Some(word) => assert_eq!(word, right),
                    None => undecided += 1,
                }
            }
            assert_eq!(replace_address(original ^ 4, original, new, base, unsaid), None);
        }
        assert!(undecided > 0, "there was nothing to decide");
    }
}
