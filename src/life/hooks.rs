//! The end of a stack under code redirect: `exeunt_hook` and `exeunt_context_hook_ends`, which the
//! hooks in `asm/` call.

use super::drain;
#[cfg(code_redirect)]
use super::every_end;
use crate::base::ending::Cause;
use crate::base::kind::Kind;
use crate::exit::redirect::mark;
use crate::record::header::Record;
use crate::record::stacks::STACKS;
use crate::storage::borrow::Lent;

/// Calls the function of `on_every_end`, and then drains the running stack if it is armed. The hooks
/// call this at the end of each stack. `slot` is
/// a word that keeps its content while this runs, and stands for the foot meanwhile. `base` is the
/// stack pointer of the exit trampoline, and `frame_pointer` its register.
///
/// # Safety
/// Only for the hooks in `asm/`. `slot` must be in the caller's frame.
#[unsafe(no_mangle)]
unsafe extern "C" fn exeunt_hook(slot: *mut usize, base: usize, frame_pointer: usize) {
    // A record that is found here may belong to an abandoned stack, on whose memory this one runs.
    let own = |record: &&Record| {
        record.drains_at_hook() && (record.kind() != Kind::Fiber || mark::matches_frame_pointer(record, frame_pointer))
    };
    let record = STACKS.by_base(base).filter(own);
    // SAFETY: the caller's promise.
    #[cfg(code_redirect)]
    unsafe {
        every_end::report(slot, base, record.is_some());
    }
    if let Some(record) = record {
        // SAFETY: the caller's promise.
        unsafe { end(record, slot) };
    }
}

/// Drains the running stack, for the hook in x86_64's `__start_context`, which passes the address
/// of the word that holds `mark`. Returns the `uc_link` that the mark stands for.
///
/// # Safety
/// Only for the hook in `asm/`. `slot` must be in the caller's frame.
#[cfg(target_arch = "x86_64")]
#[unsafe(no_mangle)]
unsafe extern "C" fn exeunt_context_hook_ends(slot: *mut usize, place: usize, mark: usize) -> usize {
    let marked = STACKS.at(mark - 1).filter(|record| record.canary() == (place, mark) && record.drains_at_hook());
    // Not exeunt's mark, so the fiber cannot go on: the next instructions will read a context at an
    // odd address.
    let Some(record) = marked else { return mark };
    let link = record.unmarked_word();
    // For unwinders this word is the return address of `__start_context`, since its table says
    // nothing else. No other code reads it any more, and unwinders stop at zero.
    // SAFETY: a word of this stack, which held the mark.
    unsafe { (place as *mut usize).write_volatile(0) };
    // SAFETY: the caller's promise.
    unsafe { end(record, slot) };
    link
}

/// Drains the running stack, which ends.
///
/// # Safety
/// `slot` must be a word that keeps its content while this runs.
unsafe fn end(record: &'static Record, slot: *mut usize) {
    record.set_cause(Cause::Hook);
    record.set_draining();
    // SAFETY: the caller's promise.
    let word = unsafe { *slot };
    record.set_canary(slot as usize, word);
    drain::finish(record, Lent::Nothing);
}
