//! The end of a stack: what the trampolines call.

use crate::record::Record;
use crate::{arch, registry};
use std::cell::Cell;

/// Called by a trampoline when an entry function has returned: runs this stack's handlers, drops its values, and gives
/// its record back. `mark` is a word of the trampoline's frame for the drain to use, right below `top`, the stack pointer
/// at which the entry function returned.
///
/// # Safety
/// Only for the trampolines in `asm/`, whose frame `mark` is in.
#[unsafe(no_mangle)]
unsafe extern "C" fn exeunt_drain(mark: *mut usize, top: usize) {
    // A stack without a record (its `unload` ran in the very moment of its return) just goes on to its exit.
    let Some(record) = registry::ending_at(top) else { return };
    record.ending();
    // The foot as such is gone. For the time of the drain the mark stands for it: no word that anybody else would write,
    // so that a stack which is abandoned in a handler is not mistaken for the next one on its memory.
    // SAFETY: the trampoline's frame holds this word until the drain is over, and nobody else uses it.
    unsafe { mark.write_volatile(record.mark()) };
    record.watch(mark as usize, record.mark());
    // Frame records, which are followed elsewhere, do not lead through the trampoline's frame.
    if cfg!(target_os = "linux") { finish_here(record) } else { finish(record) }
}

/// Whether a call whose return address is at `slot` can be the one by which a trampoline drains `record`. Where that is in the
/// trampoline's frame, seen from the mark, `asm/` says. On aarch64 the mark of a stack that was abandoned in a handler can outlive
/// it (`Record::may_be_anothers`); on x86_64 the next stack's foot overwrites it.
pub(crate) fn may_return_by(record: &Record, slot: usize) -> bool {
    !cfg!(target_arch = "aarch64") || !record.is_found_by_frames() || record.foot().wrapping_sub(slot) == 144
}

/// Drains a record on its own stack, whose entry function will not return: it was unwound, or jumped out of.
///
/// The frames above may be gone, and the foot with them. A word of this frame stands for it meanwhile.
#[inline(never)]
pub(crate) fn without_return(record: &'static Record) {
    record.ending();
    let stands_for_foot = Cell::new(record.mark());
    record.watch(stands_for_foot.as_ptr() as usize, stands_for_foot.get());
    finish(record);
    std::hint::black_box(&stands_for_foot);
}

/// Drains a record on its own stack and gives it back.
#[inline(never)]
pub(crate) fn finish(record: &'static Record) {
    // Handlers find this block when they unwind: everything above it on the stack may be gone.
    registry::prove(arch::stack_pointer(), record);
    finish_here(record);
}

/// The same where unwinding leads to the record anyway. Inlined, or the frame whose block was proven could be gone.
#[inline(always)]
fn finish_here(record: &'static Record) {
    record.nobody_looks();
    record.drain();
    record.retire();
}
