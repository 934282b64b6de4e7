//! The end of a stack: what the trampolines call.

use crate::record::Record;
use crate::{arch, os, registry};
use std::cell::Cell;

/// Called by a trampoline when an entry function has returned: runs this stack's handlers, drops its values, and gives
/// its record back. `slot` is the word where the trampoline keeps the original return address, and `top` the stack
/// pointer at which the entry function returned.
///
/// # Safety
/// Only for the trampolines in `asm/`, whose frame `slot` is in.
#[unsafe(no_mangle)]
unsafe extern "C" fn exeunt_drain(slot: *mut usize, top: usize) {
    // A stack without a record (its `unload` ran in the very moment of its return) just goes on to its exit.
    let Some(record) = registry::ending_at(top) else { return };
    record.ending();
    // SAFETY: the trampoline's frame holds this word until the drain is over.
    let word = unsafe { *slot };
    // The foot as such is gone. For the time of the drain the trampoline's own return address stands for it.
    record.watch(slot as usize, word);
    finish(record);
}

/// Drains a record on its own stack, whose entry function will not return: it was unwound, or jumped out of.
///
/// The frames above may be gone, and the foot with them. A word of this frame stands for it meanwhile.
#[inline(never)]
pub(crate) fn without_return(record: &'static Record) {
    record.ending();
    let stands_for_foot = Cell::new(&raw const *record as usize);
    record.watch(stands_for_foot.as_ptr() as usize, stands_for_foot.get());
    finish(record);
    std::hint::black_box(&stands_for_foot);
}

/// Drains a record on its own stack and gives it back.
///
/// No cancellation may strike meanwhile: it would unwind through frames of ours, and what is left would be lost.
#[inline(never)]
pub(crate) fn finish(record: &'static Record) {
    let _uncancelled = os::Uncancelled::new();
    // Handlers find this block when they unwind: everything above it on the stack may be gone.
    registry::prove(arch::stack_pointer(), record);
    record.drain();
    record.retire();
}
