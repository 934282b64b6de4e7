//! The end of a stack, as the trampolines and the safety net call it: `exeunt_drain`,
//! `without_return`, `with_live_frames`, `finish`.

use super::lent::lent_by_frames;
use super::lookup;
use crate::base::ending::Cause;
use crate::machine::arch;
use crate::map::pages::PAGE;
use crate::record::header::Record;
use crate::record::stacks::STACKS;
use crate::storage::borrow::Lent;
use crate::storage::inline_cache;
use std::cell::Cell;

/// Drains the running stack: runs its handlers, drops its values, and releases its record. A
/// trampoline calls this when an entry function has returned. `mark` is a word of the trampoline's
/// frame for the drain to use, right below `base`, the stack pointer at which the entry function
/// has returned.
///
/// # Safety
/// Only for the trampolines in `asm/`. `mark` must be in the caller's frame.
#[unsafe(no_mangle)]
unsafe extern "C" fn exeunt_drain(mark: *mut usize, base: usize) {
    // A stack without a record (its `unload` ran at the very moment of its return) just goes on to
    // its exit.
    let Some(record) = STACKS.draining_at(base) else { return };
    record.set_cause(Cause::Trampoline);
    record.set_draining();
    // The foot is no longer one. During the drain the mark stands for it. No other code stores this
    // word, so a stack that is abandoned in a handler is not mistaken for the next one on its
    // memory.
    // SAFETY: the trampoline's frame holds this word until the drain is over, and no other code
    // uses it.
    unsafe { mark.write_volatile(record.mark()) };
    record.set_canary(mark as usize, record.mark());
    // The frame records that are followed elsewhere do not lead through the trampoline's frame.
    if cfg!(target_os = "linux") { finish_here(record, Lent::Nothing) } else { finish(record, Lent::Nothing) }
}

/// Drains a record on its own stack, whose entry function was unwound and does not return.
pub(crate) fn without_return(record: &'static Record, cause: Cause) {
    without_foot(record, Lent::Nothing, cause);
}

/// Drains a record on its own thread, which ends without unwinding that stack. All frames are still
/// there, and other threads may use what these have lent. The thread may run on another stack, a
/// fiber that has called `exit` for example.
pub(crate) fn with_live_frames(record: &'static Record, cause: Cause) {
    match lent_by_frames(record) {
        lent @ Lent::ByFramesFrom(_) if finds(record, arch::stack_pointer()) => without_foot(record, lent, cause),
        lent => {
            record.set_cause(cause);
            record.set_draining();
            hide_running_stack(record, arch::stack_pointer());
            without_block(record, lent, false);
        }
    }
}

/// Whether the stack map has `record` for `sp`.
fn finds(record: &'static Record, sp: usize) -> bool {
    STACKS.find(sp).is_some_and(|found| std::ptr::eq(found, record))
}

/// Removes what would lead look-ups of frames further in than `here` to the running stack, if that is
/// not the one that drains.
fn hide_running_stack(record: &'static Record, here: usize) {
    if let Some(running) = lookup::lookup().filter(|running| !std::ptr::eq(*running, record)) {
        // With the block of `here`, where the next frames may begin.
        let inner = running.pages().start << PAGE..here + 64;
        STACKS.remove_blocks(&inner);
        inline_cache::invalidate_range(&inner);
    }
}

/// The outer frames may be gone, and the foot with them. A word of this frame stands for it
/// meanwhile.
#[inline(never)]
fn without_foot(record: &'static Record, lent: Lent, cause: Cause) {
    record.set_cause(cause);
    record.set_draining();
    let stands_for_foot = Cell::new(record.mark_without_foot());
    record.set_canary(stands_for_foot.as_ptr() as usize, stands_for_foot.get());
    finish(record, lent);
    std::hint::black_box(&stands_for_foot);
}

/// Drains a record on its own stack and releases it.
#[inline(never)]
pub(crate) fn finish(record: &'static Record, lent: Lent) {
    // Handlers find this block when they unwind: all outer frames may be gone.
    let here = arch::stack_pointer();
    STACKS.add_block(here, record);
    if finds(record, here) {
        finish_here(record, lent);
    } else {
        // Where the outer frames are gone, this frame may lie right at the base, and no stack owns
        // that block. Or another live stack owns the page.
        without_block(record, lent, true);
    }
}

/// As [`finish`], where the stack map cannot have this frame. Walks find a word of it. `contiguous`:
/// whether the drain runs on the memory that ends at the stack's base.
#[cold]
#[inline(never)]
fn without_block(record: &'static Record, lent: Lent, contiguous: bool) {
    let canary = Cell::new(record.mark_without_block(contiguous));
    record.set_canary_without_block(&canary);
    finish_here(record, lent);
    std::hint::black_box(&canary);
}

/// As [`finish`], where unwinding leads to the record anyway. Inlined: otherwise the frame whose
/// block was added could be gone.
#[inline(always)]
fn finish_here(record: &'static Record, lent: Lent) {
    if !record.try_reset_access() {
        return half_changed();
    }
    record.drain(lent);
    #[cfg(target_env = "musl")]
    if matches!(record.kind(), crate::base::kind::Kind::Thread | crate::base::kind::Kind::Main) {
        crate::exit::refusal::note_end();
    }
    record.release();
}

/// Reports that a change of the handlers and values is under way on this very stack. No user code
/// runs in a change, so a signal handler has interrupted it, and ends the process or the thread,
/// which no signal handler may do. Half-changed contents are neither run nor used for another
/// stack.
#[cold]
fn half_changed() {
    const TEXT: &[u8] = b"exeunt: a signal handler has ended this stack in the middle of a change of its storage: its \
        handlers do not run and its values are not dropped. Let the handler set a flag, and call exit where that is read.\n";
    // SAFETY: writes a constant.
    unsafe { libc::write(2, TEXT.as_ptr().cast(), TEXT.len()) };
}
