//! The end of a stack under code redirect: what the hooks call.

use super::drain;
use crate::base::kind::Kind;
use crate::exit::redirect::mark;
use crate::record::header::Record;
use crate::record::stacks::STACKS;
use crate::storage::borrow::Lent;

/// Called by the hooks when a stack ends, whether it is armed or not: `slot` is a word that keeps its value while this runs,
/// and stands for the foot meanwhile; `base` the stack pointer of the exit trampoline, and `frame_pointer` its register.
///
/// # Safety
/// Only for the hooks in `asm/`, in whose frame `slot` is.
#[unsafe(no_mangle)]
unsafe extern "C" fn exeunt_hook(slot: *mut usize, base: usize, frame_pointer: usize) {
    // A record that is still here may be of a stack that was abandoned, whose memory this one has.
    let own = |record: &&Record| {
        record.ends_at_hook() && (record.kind() != Kind::Fiber || mark::matches_frame_pointer(record, frame_pointer))
    };
    let Some(record) = STACKS.by_base(base).filter(own) else { return };
    // SAFETY: the caller's promise.
    unsafe { end(record, slot) };
}

/// Called by the hook in x86_64's `__start_context`, with the address of the word that holds `mark`. Returns the `uc_link`
/// that the mark stands for.
///
/// # Safety
/// Only for the hook in `asm/`, in whose frame `slot` is.
#[cfg(target_arch = "x86_64")]
#[unsafe(no_mangle)]
unsafe extern "C" fn exeunt_context_hook_ends(slot: *mut usize, place: usize, mark: usize) -> usize {
    let marked = STACKS.at(mark - 1).filter(|record| record.canary() == (place, mark) && record.ends_at_hook());
    // Not ours, so this is as far as the fiber goes: the next instructions will read a context at an odd address.
    let Some(record) = marked else { return mark };
    let link = record.word_under_mark();
    // To unwinders this is the return address of __start_context, as its table says nothing else. Nobody looks at it any
    // more but they, and zero is where they end.
    // SAFETY: a word of this stack, in which the mark was.
    unsafe { (place as *mut usize).write_volatile(0) };
    // SAFETY: the caller's promise.
    unsafe { end(record, slot) };
    link
}

/// Drains the running stack, whose end this is.
///
/// # Safety
/// `slot` must be a word that keeps its value while this runs.
unsafe fn end(record: &'static Record, slot: *mut usize) {
    record.set_draining();
    // SAFETY: the caller's promise.
    let word = unsafe { *slot };
    record.set_canary(slot as usize, word);
    drain::finish(record, Lent::Nothing);
}
