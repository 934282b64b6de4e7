//! The heart: check one direct call or branch, and retarget it, in code that other threads may be running; or put a branch in place of one
//! instruction.
//!
//! Only `core`, raw system calls, no statics, no allocation, no panic, and no symbol from outside: compiled alone
//! (`rustc --emit=obj -Copt-level=s -Cpanic=abort`) it is a small object that any linker takes, Go's included. So nothing
//! in this folder names `crate::`, and each processor's file has the same rooms.
//!
//! ```text
//!            before                                   after
//!   site ->  e8 <rel32 to expected>      (x86_64)     e8 <rel32 to new>       one aligned 8-byte compare-and-swap
//!   site ->  bl expected                 (aarch64)    bl new                  one aligned 4-byte compare-and-swap
//!   site ->  five or more bytes          (x86_64)     e9 <rel32 to new> ..    one aligned 8-byte compare-and-swap
//! ```
//!
//! | [`retarget`]: the heart promises | the caller promises |
//! |---|---|
//! | all that can be refused is refused before a byte changes | `site` is the first byte of an instruction |
//! | a thread running there executes the old branch or the new one | the code stays mapped, and nobody else re-protects its mapping |
//! | the mapping is one piece with its former protection again, also after a failure (see `write.rs`) | one call at a time in the process (the heart has no lock) |
//! | when it returns, every thread executes the new branch | `new` can be called wherever `expected` could |
//!
//! # Why one store is safe
//!
//! *x86_64*: every byte that differs lies within one aligned quadword, and belongs to one instruction. AMD64
//! Architecture Programmer's Manual vol. 2, 7.6.1 "Cache Coherency and Self-Modifying Code", allows asynchronous
//! cross-modification by such a store. Intel SDM vol. 3, "Handling Self- and Cross-Modifying Code", asks that each
//! processor serialises before it runs the new code: `membarrier(SYNC_CORE)` makes every thread of the process do that before
//! the call returns. Until then a thread fetches the old or the new bytes; HotSpot has retargeted aligned calls, and made the first instruction
//! of methods a jump, so for decades.
//!
//! *aarch64*: B, BL and NOP are in the list of instructions that may be modified while they are executed (Arm ARM, B2.2.5
//! "Concurrent modification and execution of instructions"); cache maintenance and a context synchronisation event on
//! every processor (again `membarrier`) follow.
//!
//! # What stays as it was
//!
//! Return addresses on the stack, so unwinders, pointer authentication and shadow stacks (SHSTK, GCS) see nothing new.
//! An object built with `-mbranch-protection=bti` keeps its guarded pages: `PROT_BTI` is read back from the kernel and
//! restored, and a direct branch needs no landing pad at its target.

#[cfg(target_arch = "aarch64")]
#[path = "aarch64.rs"]
pub mod arch;
#[cfg(target_arch = "x86_64")]
#[path = "x86_64.rs"]
pub mod arch;

pub mod mapping;
pub mod syscall;
pub mod write;

pub use mapping::Mapping;
pub use write::{Store, write};

/// Why nothing was changed (or, for [`Reason::NotRestored`], what could not be put back).
///
/// The numbers are part of the C and Go faces and never change.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// There is no direct call or branch at the site (x86_64: `e8`/`e9`; aarch64: `B`/`BL`, aligned to 4).
    NotABranch = 1,
    /// There is one, but it does not lead to the expected target.
    OtherTarget = 2,
    /// The new target is further away than the instruction can express.
    OutOfReach = 3,
    /// x86_64: the bytes that would change cross an aligned 8-byte boundary, so no single store can change them.
    Straddles = 4,
    /// The site is not in memory that is mapped readable and executable.
    NotExecutable = 5,
    /// The kernel's list of mappings could not be read, so the page's protection is not known.
    NoMaps = 6,
    /// Writing was refused: by `mprotect`, and by `/proc/self/mem` where that was allowed.
    Protect = 7,
    /// `membarrier` was refused, so other processors could not be made to see the new code.
    Membarrier = 8,
    /// The bytes changed between the check and the store; somebody else patches here.
    Changed = 9,
    /// The former protection was refused. The bytes are as before, but they are still writable.
    NotRestored = 10,
    /// x86_64: the instruction is shorter than the branch that is to take its place.
    TooShort = 11,
    /// aarch64: the architecture does not allow this instruction to be replaced while a thread may be executing it.
    NotWhileRunning = 12,
}

/// A [`Reason`], and the kernel's error number where a system call gave one (else 0).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What was found.
    pub reason: Reason,
    /// The error number of the system call that was refused, or 0.
    pub errno: u16,
}

impl Refusal {
    /// A refusal that no system call caused.
    pub const fn new(reason: Reason) -> Self {
        Self { reason, errno: 0 }
    }

    /// A refusal with the error number that caused it.
    pub const fn with(reason: Reason, errno: u16) -> Self {
        Self { reason, errno }
    }

    /// As one positive integer: the reason in the low 8 bits, the error number above them.
    pub const fn code(self) -> i32 {
        self.reason as i32 | (self.errno as i32) << 8
    }
}

/// What may be done when `mprotect` of the code page is refused (seccomp, SELinux `execmod`, a sealed mapping).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fallback {
    /// Nothing: refuse.
    Refuse,
    /// Write through `/proc/self/mem`, which asks no page protection.
    ///
    /// The kernel then copies the bytes, and no manual says that its copy is one store. It is one `mov` (x86_64) or `str`
    /// (aarch64) in Linux's own `memcpy`, except on x86_64 processors with fast short `rep movsb`, where it is that
    /// instruction. No torn store was ever seen, but the guarantee is weaker than with `mprotect`.
    ProcMem,
}

/// A branch that was checked, and the store that would retarget it.
#[derive(Clone, Copy, Debug)]
pub struct Checked {
    /// The one store.
    pub store: Store,
    /// Where it goes to.
    pub mapping: Mapping,
}

/// Checks everything that can be checked without a change: protection, instruction, target, reach, alignment.
///
/// `protection` is the page's `PROT_…` bits if the caller knows them, or 0 to read them from `/proc/self/maps`
/// (aarch64: `smaps`, which also tells of `PROT_BTI`). With bits of the caller's own the mapping's
/// bounds stay unknown, and a write cuts the mapping at the page's.
///
/// # Safety
///
/// If `protection` is not 0, `site` points to at least 5 (aarch64: 4) readable bytes; else it may be any address.
/// Whatever is mapped at `site` stays mapped during the call.
pub unsafe fn check(site: usize, expected: usize, new: usize, protection: u32) -> Result<Checked, Refusal> {
    let mut known = Mapping::unknown(protection);
    if protection == 0 {
        // The instruction can end on the next page, which can be another mapping.
        let last = site.wrapping_add(arch::BRANCH_LEN - 1);
        known = mapping::executable(site)?;
        if site >> 12 != last >> 12 {
            mapping::executable(last)?;
        }
    }
    // SAFETY: the whole instruction is mapped readable: just looked up, or promised by the caller.
    let store = unsafe { arch::plan(site, expected, new)? };
    if protection == 0 && store.at >> 12 != site >> 12 {
        known = mapping::executable(store.at)?;
    }
    Ok(Checked { store, mapping: known })
}

/// Retargets the direct call or branch at `site` from `expected` to `new`. Undo it by exchanging the two.
///
/// # Safety
///
/// As for [`check`]; and `site` is the first byte of an instruction, no other call of this function or of [`write()`] runs at the same time
/// in this process, nobody re-protects or unmaps a part of its mapping meanwhile, and `new` is code
/// that may be entered wherever `expected` may be.
pub unsafe fn retarget(
    site: usize,
    expected: usize,
    new: usize,
    protection: u32,
    fallback: Fallback,
) -> Result<(), Refusal> {
    // SAFETY: this function's contract includes that of `check`.
    let checked = unsafe { check(site, expected, new, protection)? };
    // SAFETY: `check` found or was told that the word is mapped executable with this protection; the rest is this function's contract.
    unsafe { write(checked.store, checked.mapping, fallback) }
}

/// Puts a branch to `new` in place of the one instruction at `site`, which is `len` bytes long: at least as long as the branch, since a thread may
/// be about to run the next one, and on aarch64 one that may be replaced while it is executed. A thread that was behind it already goes on there.
///
/// # Safety
///
/// As for [`retarget`] with a protection of 0, and `new` is code that may be entered wherever the instruction may be run.
pub unsafe fn replace(site: usize, len: usize, new: usize, fallback: Fallback) -> Result<(), Refusal> {
    let mapping = mapping::executable(site)?;
    // SAFETY: the word that is read shares its page with the instruction's first byte, which was just found mapped readable; the rest is this
    // function's contract.
    unsafe { write(arch::plan_replacement(site, len, new)?, mapping, fallback) }
}

/// [`retarget`] with a C return value: 0, or [`Refusal::code`].
///
/// # Safety
///
/// As for [`retarget`].
pub unsafe fn retarget_code(site: usize, expected: usize, new: usize, protection: u32, fallback: Fallback) -> i32 {
    // SAFETY: this function's contract is that of `retarget`.
    match unsafe { retarget(site, expected, new, protection, fallback) } {
        Ok(()) => 0,
        Err(refusal) => refusal.code(),
    }
}
