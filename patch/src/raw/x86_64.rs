//! x86_64: plans for `call rel32` and `jmp rel32`, the 8-byte store, system calls.

use super::refusal::{Reason, Refusal};
use super::store::Store;
pub use super::store::Word;
use core::arch::asm;

/// Length of a call or branch that can be retargeted.
pub const BRANCH_LEN: usize = 5;

/// System call numbers.
pub mod nr {
    #![allow(missing_docs)]
    pub const READ: usize = 0;
    pub const CLOSE: usize = 3;
    pub const MPROTECT: usize = 10;
    pub const PWRITE64: usize = 18;
    pub const MSYNC: usize = 26;
    pub const FLOCK: usize = 73;
    pub const OPENAT: usize = 257;
    pub const MEMBARRIER: usize = 324;
    pub const MLOCK2: usize = 325;
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
    // SAFETY: by the kernel's calling convention `rcx` and `r11` are lost, and everything else but
    // `rax` is preserved; effects on memory are the caller's promise.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number as isize => answer,
            in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d,
            lateout("rcx") _, lateout("r11") _,
            options(nostack),
        );
    }
    answer
}

/// The target of the direct call or branch at `site`, if there is one.
///
/// # Safety
///
/// `BRANCH_LEN` bytes at `site` are readable.
pub unsafe fn target(site: usize) -> Option<usize> {
    // SAFETY: the caller's promise; volatile, because other code may be patching here.
    let (opcode, displacement) = unsafe { ((site as *const u8).read_volatile(), read_rel32(site.wrapping_add(1))) };
    if opcode == 0xe8 || opcode == 0xe9 {
        Some(site.wrapping_add(BRANCH_LEN).wrapping_add(displacement as i32 as usize))
    } else {
        None
    }
}

/// Reads four bytes at any alignment, each once.
///
/// # Safety
///
/// They are readable.
unsafe fn read_rel32(at: usize) -> u32 {
    let bytes = at as *const u8;
    // SAFETY: the caller's promise.
    unsafe {
        u32::from_le_bytes([
            bytes.read_volatile(),
            bytes.add(1).read_volatile(),
            bytes.add(2).read_volatile(),
            bytes.add(3).read_volatile(),
        ])
    }
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
    let changed = displacement(site, expected)? ^ displacement(site, new)?;

    // The displacement begins `into` bytes into its aligned word; `spill` of its bits lie in the
    // next one:
    //
    //     |. . . . . d d d|d . . . . . . .|     into = 5, spill = 8
    //
    // If nothing changes on one side of the boundary, the store leaves that side out.
    let at = site.wrapping_add(1) & !7;
    let into = (site.wrapping_add(1) & 7) as u32 * 8;
    let spill = (into + 32).saturating_sub(64);
    let (at, flip) = if changed >> (31 - spill) >> 1 == 0 {
        (at, (changed as u64) << into)
    } else if changed << spill == 0 {
        (at.wrapping_add(8), (changed >> (32 - spill)) as u64)
    } else {
        return Err(Refusal::new(Reason::Straddles));
    };
    // SAFETY: the aligned word holds a byte of the instruction, so it shares that byte's page.
    let before = unsafe { read(at) };
    Ok(Store { at, before, after: before ^ flip })
}

/// The last four bytes of a branch at `site` that leads to `target`.
fn displacement(site: usize, target: usize) -> Result<u32, Refusal> {
    let distance = target.wrapping_sub(site.wrapping_add(BRANCH_LEN)) as isize;
    if distance == distance as i32 as isize { Ok(distance as u32) } else { Err(Refusal::new(Reason::OutOfReach)) }
}

/// The store that replaces the instruction at `site`, which is `len` bytes long, with a branch to
/// `new`. Bytes of the instruction that remain lie behind the branch and are not executed.
///
/// # Safety
///
/// The aligned word that holds the byte at `site` is readable.
pub unsafe fn plan_replacement(site: usize, len: usize, new: usize) -> Result<Store, Refusal> {
    if len < BRANCH_LEN {
        return Err(Refusal::new(Reason::TooShort));
    }
    let into = (site & 7) as u32 * 8;
    if into > 24 {
        return Err(Refusal::new(Reason::Straddles));
    }
    let branch = (displacement(site, new)? as u64) << 8 | 0xe9;
    let at = site & !7;
    // SAFETY: the caller's promise.
    let before = unsafe { read(at) };
    Ok(Store { at, before, after: before & !(0xff_ffff_ffff << into) | branch << into })
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
    let found: Word;
    // SAFETY: the caller's promise. In assembly, so that no helper for atomics is called, however
    // this is compiled.
    unsafe {
        asm!(
            "lock cmpxchg qword ptr [{at}], {after}",
            at = in(reg) at,
            after = in(reg) after,
            inlateout("rax") before => found,
            options(nostack),
        );
    }
    found == before
}

/// Valgrind's request to forget its translations of a range (`VG_USERREQ__DISCARD_TRANSLATIONS` in
/// its `valgrind.h`).
const DISCARD_TRANSLATIONS: usize = 0x1002;

/// Makes the word visible to instruction fetches of all processors. The processors' caches are
/// coherent, so only Valgrind needs a request: it executes translations, and keeps those of a
/// file's code until a program asks it to discard them.
///
/// The request is what `valgrind.h` has for amd64 (`__SPECIAL_INSTRUCTION_PREAMBLE`,
/// `VALGRIND_DO_CLIENT_REQUEST_EXPR`). A processor executes seven instructions that change nothing
/// but flags:
///
/// ```text
///   lea  request, %rax     the request's number and five arguments
///   xor  %edx, %edx        the result of the request where there is no Valgrind
///   rol  $3,  %rdi         four rotations by 128 bits in all: %rdi is as before,
///   rol  $13, %rdi         and no compiler generates such code
///   rol  $61, %rdi
///   rol  $51, %rdi
///   xchg %rbx, %rbx        the kind of request: to Valgrind, by %rax, with the result in %rdx
/// ```
///
/// # Safety
///
/// Nothing is required here; the version for aarch64 needs a readable address.
pub unsafe fn flush(at: usize) {
    let request = [DISCARD_TRANSLATIONS, at, size_of::<Word>(), 0, 0, 0];
    // SAFETY: `rdi` and `rbx` are as before, and the other changes are declared. Valgrind reads the
    // request's six words.
    unsafe {
        asm!(
            "rol rdi, 3",
            "rol rdi, 13",
            "rol rdi, 61",
            "rol rdi, 51",
            "xchg rbx, rbx",
            inlateout("rax") &raw const request => _,
            inlateout("rdx") 0usize => _,
            options(nostack, readonly),
        );
    }
}
