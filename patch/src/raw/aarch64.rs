//! aarch64: plans for `B` and `BL`, the 4-byte store, cache maintenance, system calls.

use super::refusal::{Reason, Refusal};
use super::store::Store;
pub use super::store::Word;
use core::arch::asm;

/// Length of a call or branch that can be retargeted.
pub const BRANCH_LEN: usize = 4;

/// System call numbers.
pub mod nr {
    #![allow(missing_docs)]
    pub const FLOCK: usize = 32;
    pub const OPENAT: usize = 56;
    pub const CLOSE: usize = 57;
    pub const READ: usize = 63;
    pub const PWRITE64: usize = 68;
    pub const MPROTECT: usize = 226;
    pub const MSYNC: usize = 227;
    pub const MEMBARRIER: usize = 283;
    pub const MLOCK2: usize = 284;
}

/// Makes a system call of up to four arguments. Returns the kernel's result unchanged, including
/// negative error numbers.
///
/// # Safety
///
/// The effect of the system call with these arguments must be sound.
#[inline(always)]
pub unsafe fn syscall(number: usize, a: usize, b: usize, c: usize, d: usize) -> isize {
    let answer;
    // SAFETY: by the kernel's calling convention everything but `x0` is preserved; effects on
    // memory are the caller's promise.
    unsafe {
        asm!(
            "svc 0",
            in("x8") number,
            inlateout("x0") a => answer,
            in("x1") b, in("x2") c, in("x3") d,
            options(nostack),
        );
    }
    answer
}

/// `B` is `000101 imm26`, `BL` is `100101 imm26`: they differ in bit 31.
const OPCODE: Word = 0x7c00_0000;
const BRANCH: Word = 0x1400_0000;
const IMM26: Word = 0x03ff_ffff;
const NOP: Word = 0xd503_201f;

/// The target of the direct call or branch at `site`, if there is one.
///
/// # Safety
///
/// `BRANCH_LEN` bytes at `site` are readable.
pub unsafe fn target(site: usize) -> Option<usize> {
    if site & 3 != 0 {
        return None;
    }
    // SAFETY: aligned, and readable by the caller's promise.
    let instruction = unsafe { read(site) };
    if instruction & OPCODE != BRANCH {
        return None;
    }
    // imm26 counts words and is signed: shift its sign bit to bit 31, then back by 2 bits less.
    let distance = (instruction << 6) as i32 >> 4;
    Some(site.wrapping_add(distance as usize))
}

/// The store that retargets the branch at `site`.
///
/// # Safety
///
/// `BRANCH_LEN` bytes at `site` are readable.
pub unsafe fn plan(site: usize, expected: usize, new: usize) -> Result<Store, Refusal> {
    // SAFETY: the caller's promise.
    match unsafe { target(site) } {
        None => return Err(Refusal::new(Reason::NotABranch)),
        Some(found) if found != expected => return Err(Refusal::new(Reason::OtherTarget)),
        Some(_) => {}
    }
    let imm26 = distance(site, new)?;
    // SAFETY: `target` found an instruction, so the site is aligned; it is readable by the caller's
    // promise.
    let before = unsafe { read(site) };
    Ok(Store { at: site, before, after: before & !IMM26 | imm26 })
}

/// The lowest 26 bits of a branch at `site` that leads to `target`.
fn distance(site: usize, target: usize) -> Result<Word, Refusal> {
    let distance = target.wrapping_sub(site) as isize;
    if distance & 3 != 0 || distance >> 27 != distance >> 63 {
        return Err(Refusal::new(Reason::OutOfReach));
    }
    Ok((distance >> 2) as Word & IMM26)
}

/// The store that replaces the instruction at `site`, which is `len` bytes long, with a branch to
/// `new`. Of the instructions that may be replaced while they are executed, only branches and `NOP`
/// are accepted. There is no instruction at an unaligned address.
///
/// # Safety
///
/// The word at `site`, if it is aligned, is readable.
pub unsafe fn plan_replacement(site: usize, len: usize, new: usize) -> Result<Store, Refusal> {
    if site & 3 != 0 || len != BRANCH_LEN {
        return Err(Refusal::new(Reason::NotABranch));
    }
    // SAFETY: aligned; readable by the caller's promise.
    let before = unsafe { read(site) };
    if before & OPCODE != BRANCH && before != NOP {
        return Err(Refusal::new(Reason::NotWhileRunning));
    }
    Ok(Store { at: site, before, after: BRANCH | distance(site, new)? })
}

/// Reads one word of code.
///
/// # Safety
///
/// `at` is aligned to the word and readable.
pub unsafe fn read(at: usize) -> Word {
    // SAFETY: the caller's promise.
    unsafe { (at as *const Word).read_volatile() }
}

/// Stores `after` at `at` if `before` is still there, as one access. Returns whether it did.
///
/// # Safety
///
/// `at` is aligned to the word and writable, and each value is code that may be executed there.
pub unsafe fn compare_and_store(at: usize, before: Word, after: Word) -> bool {
    let different: Word;
    // SAFETY: the caller's promise. In assembly, because compilers would call an "outline atomics"
    // helper here.
    unsafe {
        asm!(
            "2: ldaxr {found:w}, [{at}]",
            "eor {found:w}, {found:w}, {before:w}",
            "cbnz {found:w}, 3f",
            "stlxr {failed:w}, {after:w}, [{at}]",
            "cbnz {failed:w}, 2b",
            "3: clrex",
            at = in(reg) at,
            before = in(reg) before,
            after = in(reg) after,
            found = out(reg) different,
            failed = out(reg) _,
            options(nostack),
        );
    }
    different == 0
}

/// Makes the word visible to instruction fetches of all processors: cleans the data cache to the
/// point of unification and invalidates the instruction cache there. This is the sequence that the
/// Arm ARM gives for instructions that were written as data. `CTR_EL0.IDC` and `.DIC` show where a
/// step is not needed; then it does no harm. The word lies within one line of either cache, so the
/// sizes of lines do not matter: both instructions accept any address in the line. Translators
/// (QEMU, Valgrind) take the second one as the sign that code has changed.
///
/// # Safety
///
/// `at` is readable.
pub unsafe fn flush(at: usize) {
    // SAFETY: Linux allows programs both instructions (`SCTLR_EL1.UCI`) on readable addresses.
    unsafe {
        asm!(
            "dc cvau, {at}",
            "dsb ish",
            "ic ivau, {at}",
            "dsb ish",
            "isb",
            at = in(reg) at,
            options(nostack),
        );
    }
}
