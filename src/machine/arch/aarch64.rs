//! aarch64. The return address arrives in x30. The called function stores it anywhere in its own
//! frame, possibly signed, with the stack pointer at the function's entry as the modifier (pointer
//! authentication). The head of `mod.rs` lists the names.

#[cfg(asm_labels)]
use super::cache_entry;
use std::arch::asm;

/// The stack pointer of the function that this is inlined into.
#[inline(always)]
pub fn stack_pointer() -> usize {
    let sp: usize;
    // SAFETY: reads a register. `pure` and `nomem` let the compiler read it once per function:
    // within one activation of a function the result is always on the same stack, on whichever
    // thread it runs.
    unsafe { asm!("mov {}, sp", out(reg) sp, options(pure, nomem, nostack, preserves_flags)) };
    sp
}

/// The number of the 64-byte block that contains the stack pointer of the function that this is
/// inlined into, without a tag ([`untagged`]). In assembly, since the compiler would shift twice:
/// once for the whole number, and once for its lower half alone.
#[inline(always)]
pub(crate) fn stack_block() -> usize {
    let block: usize;
    // SAFETY: as in `stack_pointer`.
    unsafe {
        asm!("mov {0}, sp", "ubfx {0}, {0}, #6, #50", out(reg) block, options(pure, nomem, nostack, preserves_flags));
    }
    block
}

/// The part of an address by which addresses are compared and looked up: all but its highest byte.
/// The processor ignores that byte in pointers to data (Arm ARM, "address tagging"), and memory
/// tagging (MTE, HWASan) keeps a tag there. A stack from a tagged `malloc` has tagged stack
/// pointers. Memory is accessed by the tagged address, since MTE compares its tag with the
/// memory's.
#[inline(always)]
pub(crate) const fn untagged(address: usize) -> usize {
    address & (usize::MAX >> 8)
}

/// `address` with the tag of `like`.
pub(crate) const fn tagged_as(address: usize, like: usize) -> usize {
    untagged(address) | (like & !(usize::MAX >> 8))
}

/// The word at an address of a stack, whatever it holds. Sanitizers do not see this load; they
/// would report a load between two variables as an error.
///
/// # Safety
/// `address` must be aligned, and the stack must be mapped.
#[inline(always)]
pub(crate) unsafe fn word_of_stack(address: usize) -> usize {
    let word: usize;
    // SAFETY: the caller promises that the word is mapped and aligned.
    unsafe { asm!("ldr {}, [{}]", out(reg) word, in(reg) address, options(readonly, nostack, preserves_flags)) };
    word
}

/// Where the frame of `exeunt_trampoline_body` (`asm/`) keeps the first register of the entry
/// function's result. `base` is that of the stack that drains.
pub(crate) const fn trampoline_result(base: usize) -> usize {
    base - 144
}

/// Where the same frame keeps the address that the trampoline goes on to, signed.
pub(crate) const fn trampoline_goes_on_to(base: usize) -> usize {
    base - 152
}

/// Where the frame of `exeunt_exit_hook_body` keeps the first argument of the call that led to the
/// hook.
pub(crate) const fn hook_argument(base: usize) -> usize {
    base - 208
}

/// Whether an entry of an inline cache (`inline_cache::CacheEntry`), `offset` bytes behind
/// `entries`, is valid for `block`: it is the block's entry, and the canary that it refers to is
/// intact. In assembly, since compilers load memory that other threads may change into a register
/// before they compare it: 7 instructions instead of 9.
///
/// The processor may reorder these loads. Only the running stack changes entries of its own blocks.
/// Where a stack moves to another thread, the code that moves it synchronises the two threads.
///
/// # Safety
/// The entry must be mapped. If it is the block's entry, so must be the canary.
#[cfg(asm_labels)]
#[inline(always)]
pub(crate) unsafe fn hits(entries: *const u8, offset: usize, block: usize) -> bool {
    // SAFETY: reads the words that the caller promises to be mapped, and clobbers two registers.
    unsafe {
        asm!(
            "ldr x16, [{entry}, #{BLOCK}]",      // is this the block's entry?
            "cmp x16, {block}",
            "b.ne {other}",
            "ldp x16, x17, [{entry}, #{CANARY}]",  // the address of the canary, and what it must be
            "ldr x16, [x16]",                    // is it intact?
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

/// The state from which unwinding starts: the registers that unwind rules refer to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Registers {
    /// Program counter: a return address, except in the first frame and in one that a signal has
    /// interrupted, where it is exact.
    pub pc: usize,
    /// Stack pointer.
    pub sp: usize,
    /// Frame pointer (x29), whatever the code uses it for.
    pub fp: usize,
    /// x30, for a function that has not stored its return address: only one that a signal has
    /// interrupted.
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

/// Whether signal handlers return into the code at `pc`: `mov x8, #139; svc #0`. A table may mark
/// other code as a signal's frame; corosensei's tables do, for debuggers.
///
/// # Safety
/// `pc` must be the address of code.
#[cfg(target_os = "linux")]
pub(crate) unsafe fn returns_from_signal(pc: usize) -> bool {
    let code = pc as *const u32;
    // SAFETY: the caller promises code here; no function ends with the first of these instructions.
    pc % 4 == 0 && unsafe { code.read() == 0xd280_1168 && code.add(1).read() == 0xd400_0001 }
}

/// The distance from the stack pointer to the beginning of the caller's frame, if the code at `pc`
/// is in a stub of the procedure linkage table. No linker makes unwind tables for these stubs, and
/// a signal may arrive there. The return address is in the link register. The form is that of the
/// ABI for AArch64, sysvabi64, "procedure linkage table": `adrp x16, page; ldr x17, [x16, slot];
/// add x16, x16, slot; br x17`, possibly after `bti c`.
///
/// # Safety
/// `pc` must be the address of an instruction that has just run, or is about to run.
pub(crate) unsafe fn linkage_stub(pc: usize) -> Option<usize> {
    const BTI: u32 = 0xd503_245f;
    const SAVE: u32 = 0xa9bf_7bf0; // stp x16, x30, [sp, #-16]!
    let read = |at: usize| {
        // SAFETY: the caller promises code at `pc`; none of the instructions that the loops step
        // over ends a function.
        unsafe { (at as *const u32).read() }
    };
    let is_middle = |word: u32| {
        word & 0x9f00_001f == 0x9000_0010 // adrp x16
            || word & 0xffc0_03ff == 0xf940_0211 // ldr x17, [x16, #n]
            || word & 0xff80_03ff == 0x9100_0210 // add x16, x16, #n
    };
    let is_last = |word: u32| word == 0xd61f_0220; // br x17
    if pc % 4 != 0 {
        return None;
    }
    let rest = (0..5).find(|&at| !matches!(read(pc + 4 * at), BTI | SAVE) && !is_middle(read(pc + 4 * at)))?;
    if !is_last(read(pc + 4 * rest)) {
        return None;
    }
    // The first stub, for functions that are not bound yet, has pushed two registers, and left the
    // link register as it was.
    let mut before = pc;
    while before % 4096 != 0 && before + 16 > pc {
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
    // SAFETY: `xpaclri` (hint 7) clears the signature of x30. It is a no-operation on processors
    // without signatures.
    unsafe { asm!("hint #7", inout("x30") word => address, options(pure, nomem, nostack, preserves_flags)) };
    address
}

/// `address` signed with key A, as in a frame whose function was entered with the stack pointer
/// `base`.
fn sign_a(address: usize, base: usize) -> usize {
    let word: usize;
    // SAFETY: `pacia1716` (hint 8) signs x17 with x16 as the modifier. It is a no-operation on
    // processors without signatures.
    unsafe {
        asm!("hint #8", inout("x17") address => word, in("x16") base, options(pure, nomem, nostack, preserves_flags));
    }
    word
}

/// `address` signed with key B, for such a frame.
fn sign_b(address: usize, base: usize) -> usize {
    let word: usize;
    // SAFETY: `pacib1716` (hint 10), as above.
    unsafe {
        asm!("hint #10", inout("x17") address => word, in("x16") base, options(pure, nomem, nostack, preserves_flags));
    }
    word
}

/// How a function signs its return address. The modifier is always the stack pointer at its entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Signing {
    Plain,
    KeyA,
    KeyB,
}

/// The word that leads to `new` instead of `original`, for the place where `found` is. `None` if
/// `found` does not lead to `original`, in a frame whose function was entered with the stack
/// pointer `base`.
///
/// A function built with `-mbranch-protection` signs its return address at its entry, with the
/// stack pointer as the modifier (`paciasp`, `pacibsp`). If signing `original` gives `found`, then
/// key and modifier are the right ones, so that `new` can be signed in the same way. But a
/// signature may have as few as seven bits: in one process of 128 it is zero, or the same with both
/// keys. Then `signing` decides, which reads how the function signs from its unwind table.
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

/// Whether the processor checks this thread's returns against a guarded control stack (GCS).
/// `chkfeat x16` (hint 40) clears bit 0 of x16 where it does. It is a no-operation on processors
/// without that instruction (Arm ARM, CHKFEAT).
pub(crate) fn shadow_stack_active() -> bool {
    let off: usize;
    // SAFETY: changes x16 only.
    unsafe { asm!("hint #40", inout("x16") 1usize => off, options(nomem, nostack, preserves_flags)) };
    off & 1 == 0
}

/// The numbers of registers in unwind tables (DWARF for the Arm 64-bit Architecture, table 4).
#[cfg(target_os = "linux")]
pub(crate) mod dwarf {
    pub(crate) const STACK_POINTER: u16 = 31;
    pub(crate) const FRAME_POINTER: u16 = 29;
    /// The pseudo-register whose value is 1 where the return address is signed.
    pub(crate) const SIGN_STATE: u16 = 34;
}

/// The layout of glibc's `jmp_buf` (`sysdeps/aarch64/jmpbuf-offsets.h`), and how glibc encrypts the
/// pointers in it (`sysdeps/unix/sysv/linux/aarch64/pointer_guard.h`: it does not rotate them).
#[cfg(target_env = "gnu")]
pub(crate) mod landing {
    pub(crate) const WORDS: usize = 22;
    pub(crate) const STACK_POINTER: usize = 13;
    pub(crate) const PROGRAM_COUNTER: usize = 11;
    pub(crate) const ROTATION: u32 = 0;
}

/// Whether the code at `address` passes an entry function's result to `exit`: `bl exit`. The
/// register of the result, w0, is that of the argument.
///
/// # Safety
/// `address` must be a return address, so that the word there is code.
#[cfg(target_os = "linux")]
pub(crate) unsafe fn ends_in_exit(address: usize, exit: usize) -> bool {
    // SAFETY: the caller promises code here; code consists of aligned words.
    let instruction = unsafe { (address as *const u32).read() };
    if instruction >> 26 != 0b100101 {
        return false;
    }
    let distance = ((instruction << 6) as i32 >> 6) as isize * 4;
    address.wrapping_add_signed(distance) == exit
}

/// Whether the call that returns to `address` is made through a register.
///
/// # Safety
/// The word before `address` must be code.
#[cfg(target_env = "gnu")]
pub(crate) unsafe fn called_indirectly(address: usize) -> bool {
    // SAFETY: the caller promises code here.
    let instruction = unsafe { ((address - 4) as *const u32).read() };
    // `blr`, and with pointer authentication `blraa`, `blrab`, `blraaz`, `blrabz`.
    instruction & 0xffff_fc1f == 0xd63f_0000 || instruction & 0xfeff_f800 == 0xd63f_0800
}

/// Whether the code at `address` passes an entry function's result to `target`: at most one
/// instruction that extends it, and `bl target`.
///
/// # Safety
/// `address` must be a return address.
#[cfg(target_env = "musl")]
pub(crate) unsafe fn passes_result_to(address: usize, target: usize) -> bool {
    // SAFETY: the caller promises code here. `sxtw x0, w0` (or `mov x0, x0`) is not a function's
    // last instruction.
    unsafe {
        ends_in_exit(address, target)
            || (address as *const u32).read() == 0x9340_7c00 && ends_in_exit(address + 4, target)
    }
}

/// The target of the direct call that returns to `address`; `None` if that call is not direct.
///
/// # Safety
/// The word before `address`, a return address, must be code.
#[cfg(target_env = "gnu")]
pub(crate) unsafe fn called_directly(address: usize) -> Option<usize> {
    // SAFETY: the caller promises code here.
    let instruction = unsafe { ((address - 4) as *const u32).read() };
    let distance = ((instruction << 6) as i32 >> 6) as isize * 4;
    (instruction >> 26 == 0b100101).then(|| (address - 4).wrapping_add_signed(distance))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tables_decide_where_a_signature_is_ambiguous() {
        let (original, new) = (0x7f12_3456_7890, 0x5512_3456_7890);
        if sign_a(original, 16) == original && sign_a(original, 32) == original && sign_a(original, 48) == original {
            return println!("this processor signs nothing");
        }
        let unknown = || None;
        let mut undecided = 0;
        for base in (0x7fff_0000_0000..).step_by(16).take(20_000) {
            let ways = [(Signing::Plain, original, new), (Signing::KeyA, sign_a(original, base), sign_a(new, base))];
            for (how, found, right) in ways {
                assert_eq!(replace_address(found, original, new, base, || Some(how)), Some(right));
                match replace_address(found, original, new, base, unknown) {
                    Some(word) => assert_eq!(word, right),
                    None => undecided += 1,
                }
            }
            assert_eq!(replace_address(original ^ 4, original, new, base, unknown), None);
        }
        assert!(undecided > 0, "there was nothing to decide");
    }
}
