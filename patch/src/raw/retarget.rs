//! Retargets one branch, or replaces one instruction: look up the mapping, plan the store, write.

use super::arch;
use super::mapping::{self, Mapping};
use super::refusal::Refusal;
use super::store::Store;
use super::write::{Fallback, write};

/// A branch that was checked, and the store that would retarget it.
#[derive(Clone, Copy, Debug)]
pub struct Checked {
    /// The one store.
    pub store: Store,
    /// The mapping that it changes.
    pub mapping: Mapping,
}

/// Checks everything that can be checked without a change: protection, instruction, target, reach,
/// alignment.
///
/// `protection` is the page's `PROT_…` bits, or 0 to read them from `/proc/self/maps` (aarch64:
/// `smaps`, which also shows `PROT_BTI`). If the caller passes the bits, the mapping's bounds stay
/// unknown, and a write splits the mapping at the page's bounds.
///
/// # Safety
///
/// If `protection` is not 0, `site` points to at least 5 (aarch64: 4) readable bytes; otherwise it
/// may be any address. Memory that is mapped at `site` stays mapped during the call.
pub unsafe fn check(site: usize, expected: usize, new: usize, protection: u32) -> Result<Checked, Refusal> {
    let mut known = Mapping::unknown(protection);
    if protection == 0 {
        // The instruction can end on the next page, which can belong to another mapping.
        let last = site.wrapping_add(arch::BRANCH_LEN - 1);
        known = mapping::executable(site)?;
        if site >> 12 != last >> 12 {
            mapping::executable(last)?;
        }
    }
    // SAFETY: the whole instruction is mapped readable, by the lookup above or by the caller's
    // promise.
    let store = unsafe { arch::plan(site, expected, new)? };
    if protection == 0 && store.at >> 12 != site >> 12 {
        known = mapping::executable(store.at)?;
    }
    Ok(Checked { store, mapping: known })
}

/// Retargets the direct call or branch at `site` from `expected` to `new`. To undo it, exchange the
/// two.
///
/// # Safety
///
/// As for [`check`]. In addition: `site` is the first byte of an instruction; no other call of this
/// function or of [`write()`] runs at the same time in this process; no other code changes the
/// protection of a part of its mapping, or unmaps it, during the call; and `new` is code that may
/// be entered wherever `expected` may be.
pub unsafe fn retarget(
    site: usize,
    expected: usize,
    new: usize,
    protection: u32,
    fallback: Fallback,
) -> Result<(), Refusal> {
    // SAFETY: this function's contract includes that of `check`.
    let checked = unsafe { check(site, expected, new, protection)? };
    // SAFETY: `check` found, or the caller promised, that the word is mapped executable with this
    // protection; the rest is this function's contract.
    unsafe { write(checked.store, checked.mapping, fallback) }
}

/// Replaces the one instruction at `site`, which is `len` bytes long, with a branch to `new`.
///
/// The instruction must be at least as long as the branch, because a thread may be about to run the
/// next one. On aarch64 it must be one that may be replaced while it is executed. A thread that is
/// past the instruction already is not affected.
///
/// # Safety
///
/// As for [`retarget`] with a protection of 0, and `new` is code that may be entered wherever the
/// instruction may be run.
pub unsafe fn replace(site: usize, len: usize, new: usize, fallback: Fallback) -> Result<(), Refusal> {
    let mapping = mapping::executable(site)?;
    // SAFETY: the word that is read shares its page with the instruction's first byte, which was
    // just found mapped readable; the rest is this function's contract.
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
