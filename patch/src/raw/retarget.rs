//! Checks and changes of one instruction.

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
