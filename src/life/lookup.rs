//! From the running stack to its record, without arming it: `lookup`, `lookup_from`,
//! `lookup_verified`, `is_verified`, `find_other_stack`, `locate_foot`.

use crate::exit::walk::{self, Found};
use crate::machine::arch::{self, Registers};
use crate::record::header::{FOOT_MOVES, Record};
use crate::record::stacks::STACKS;
use crate::storage::inline_cache;

/// The record of the running stack; `None` where it is not armed. Never arms.
#[inline(always)]
pub(crate) fn lookup() -> Option<&'static Record> {
    lookup_from(arch::stack_pointer())
}

/// As [`lookup`]. The block of `sp`, a stack pointer of this stack, is in the stack map afterwards
/// where that may be. Then the next look-up from there is quick.
#[inline(always)]
pub(crate) fn lookup_from(sp: usize) -> Option<&'static Record> {
    match STACKS.find(sp) {
        Some(record) => Some(record),
        None => search(sp),
    }
}

/// As [`lookup`], for code that changes or drops something: never the record of an abandoned stack.
#[inline(always)]
pub(crate) fn lookup_verified() -> Option<&'static Record> {
    let record = lookup()?;
    if is_verified(record, arch::stack_pointer()) { Some(record) } else { lookup_again() }
}

/// The blocks that led to an abandoned stack's record are gone now. Another one's may be there.
#[cold]
#[inline(never)]
fn lookup_again() -> Option<&'static Record> {
    const MOST: usize = 16;
    for _ in 0..MOST {
        let record = lookup()?;
        if is_verified(record, arch::stack_pointer()) {
            return Some(record);
        }
    }
    // SAFETY: these are registers of the running stack.
    match unsafe { walk::walk_frames(Registers::here()) } {
        Some(Found::Armed(record, _)) => Some(record),
        _ => None,
    }
}

/// Whether `record`, which the stack map has for `sp`, belongs to the running stack, and not to one
/// that was abandoned on the same memory and whose canary is still there.
#[inline(always)]
pub(crate) fn is_verified(record: &'static Record, sp: usize) -> bool {
    !record.canary_may_be_stale() || find_other_stack(record, sp).is_none()
}

/// Walks to the running stack's foot. If that is not the record's, removes the record's blocks from
/// `sp` outwards from the stack map, and returns what the next walk finds. That may be another
/// abandoned stack's record.
#[cold]
#[inline(never)]
pub(crate) fn find_other_stack(record: &'static Record, sp: usize) -> Option<Found> {
    if !record.canary_may_be_stale() || !record.is_found_by_walk() {
        return None;
    }
    // SAFETY: these are registers of the running stack. Where no walk leads to a foot, the question
    // stays open.
    let found = unsafe { walk::walk_frames(Registers::here()) }?;
    let base = match found {
        Found::Armed(found, _) if std::ptr::eq(found, record) => return None,
        Found::Armed(found, _) => found.base(),
        Found::Unarmed(foot, _) => foot.base,
    };
    // All memory from here to its base is the running stack's.
    let own = arch::untagged(sp)..arch::untagged(base);
    STACKS.remove_blocks_of(record, &own);
    inline_cache::invalidate_range(&own);
    // With the stack map: neither a C scope nor a drain without a foot is found by frames.
    // SAFETY: as above.
    match unsafe { walk::walk_known(Registers::here()) } {
        Some(Found::Armed(other, contiguous)) if !std::ptr::eq(other, record) => Some(Found::Armed(other, contiguous)),
        _ => Some(found),
    }
}

/// Whether a walk leads to the running stack's foot, and the foot is the record's. Then the record
/// has the foot's present address.
///
/// Only on aarch64 can a foot be elsewhere than it was when the stack was armed
/// ([`Record::move_foot`]).
pub(crate) fn locate_foot(record: &'static Record) -> bool {
    if !FOOT_MOVES || !record.is_found_by_walk() {
        return true;
    }
    // SAFETY: these are registers of the running stack.
    let found = unsafe { walk::walk_frames(Registers::here()) };
    matches!(found, Some(Found::Armed(found, _)) if std::ptr::eq(found, record))
}

#[cold]
#[inline(never)]
fn search(sp: usize) -> Option<&'static Record> {
    if !STACKS.is_used() {
        return None;
    }
    let here = Registers::here();
    // SAFETY: these are registers of the running stack.
    match unsafe { walk::walk_known(here) } {
        Some(Found::Armed(record, contiguous)) => {
            add_block_if_contiguous(sp, record, contiguous);
            Some(record)
        }
        _ => None,
    }
}

/// Makes the next look-up with the stack pointer `sp` quick, if `sp` is on the very memory that
/// ends at the record's foot. It is not on a segment that was switched to (which will serve other
/// stacks), nor on a signal stack.
#[inline]
pub(super) fn add_block_if_contiguous(sp: usize, record: &'static Record, contiguous: bool) {
    if contiguous && arch::untagged(sp) < record.base() {
        STACKS.add_block(sp, record);
    }
}
