//! The end of a stack: what the trampolines call.

use super::lent::lent_by_frames;
use crate::machine::arch;
use crate::record::header::Record;
use crate::record::stacks::STACKS;
use crate::storage::borrow::Lent;
use std::cell::Cell;

/// Called by a trampoline when an entry function has returned: runs this stack's handlers, drops its values, and gives
/// its record back. `mark` is a word of the trampoline's frame for the drain to use, right below `base`, the stack pointer
/// at which the entry function returned.
///
/// # Safety
/// Only for the trampolines in `asm/`, whose frame `mark` is in.
#[unsafe(no_mangle)]
unsafe extern "C" fn exeunt_drain(mark: *mut usize, base: usize) {
    // A stack without a record (its `unload` ran in the very moment of its return) just goes on to its exit.
    let Some(record) = STACKS.draining_at(base) else { return };
    record.set_draining();
    // The foot as such is gone. For the time of the drain the mark stands for it: no word that anybody else would write,
    // so that a stack which is abandoned in a handler is not mistaken for the next one on its memory.
    // SAFETY: the trampoline's frame holds this word until the drain is over, and nobody else uses it.
    unsafe { mark.write_volatile(record.mark()) };
    record.set_canary(mark as usize, record.mark());
    // Frame records, which are followed elsewhere, do not lead through the trampoline's frame.
    if cfg!(target_os = "linux") { finish_here(record, Lent::Nothing) } else { finish(record, Lent::Nothing) }
}

/// Drains a record on its own stack, whose entry function will not return: it was unwound.
pub(crate) fn without_return(record: &'static Record) {
    without_foot(record, Lent::Nothing);
}

/// Drains a record on its own thread, which ends without that stack being unwound: its frames are
/// all there, and other threads may use what they have lent.
pub(crate) fn with_live_frames(record: &'static Record) {
    without_foot(record, lent_by_frames(record));
}

/// The frames above may be gone, and the foot with them. A word of this frame stands for it meanwhile.
#[inline(never)]
fn without_foot(record: &'static Record, lent: Lent) {
    record.set_draining();
    let stands_for_foot = Cell::new(record.mark());
    record.set_canary(stands_for_foot.as_ptr() as usize, stands_for_foot.get());
    finish(record, lent);
    std::hint::black_box(&stands_for_foot);
}

/// Drains a record on its own stack and gives it back.
#[inline(never)]
pub(crate) fn finish(record: &'static Record, lent: Lent) {
    // Handlers find this block when they unwind: everything above it on the stack may be gone.
    STACKS.add_block(arch::stack_pointer(), record);
    finish_here(record, lent);
}

/// The same where unwinding leads to the record anyway. Inlined, or the frame whose block was proven could be gone.
#[inline(always)]
fn finish_here(record: &'static Record, lent: Lent) {
    if !record.try_reset_access() {
        return half_changed();
    }
    record.drain(lent);
    record.release();
}

/// A change of the handlers and values is under way on this very stack. No foreign code runs in
/// one, so a signal handler has interrupted it, and ends the process or the thread, which no signal
/// handler may. What is half changed is neither run nor used for another stack; but that is said.
#[cold]
fn half_changed() {
    const TEXT: &[u8] = b"exeunt: a signal handler has ended this stack in the middle of a change of its storage: its \
        handlers do not run and its values are not dropped. Let the handler set a flag, and call exit where that is read.\n";
    // SAFETY: writes a constant.
    unsafe { libc::write(2, TEXT.as_ptr().cast(), TEXT.len()) };
}
