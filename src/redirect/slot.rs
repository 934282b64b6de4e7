//! Slot redirect: one word of the stack, its foot, is rewritten.

use crate::arch;
use crate::error::Error;
use crate::foot::Foot;
use crate::record::{Place, Record};
use crate::trampoline;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What to write into a foot, and what that makes of the stack; nothing has been written yet.
pub(crate) fn plan(foot: Foot) -> Result<Place, Error> {
    if arch::shadow_stack_active() {
        return Err(Error::ShadowStack);
    }
    let original = trampoline::original(foot.trampoline);
    let label = trampoline::label(foot.trampoline);
    let word = arch::replace_address(foot.word, original, label, foot.top).ok_or(Error::ForeignFoot {
        address: foot.address,
        found: foot.word,
        expected: original,
    })?;
    Ok(Place {
        foot: foot.address,
        top: foot.top,
        word,
        trampoline: foot.trampoline,
        kind: trampoline::kind(foot.trampoline),
    })
}

/// Redirects the exit of the running stack: the one store that arms it.
///
/// # Safety
/// `place` must come from [`plan`] for the running stack, and its record be ready to be drained: from this store on the
/// entry function returns into the trampoline.
pub(crate) unsafe fn redirect(place: Place) {
    // SAFETY: the foot is an aligned word of the running stack, and nobody but this stack's code uses it. The unwinder
    // found the return address there, and `plan` that it is one which can be replaced.
    unsafe { AtomicUsize::from_ptr(place.foot as *mut usize) }.store(place.word, Ordering::Release);
}

/// Puts the original return address of the running stack back.
///
/// # Safety
/// `record` must be the live record of the running stack, and not be draining.
pub(crate) unsafe fn restore(record: &Record) {
    let number = record.trampoline();
    let (original, label) = (trampoline::original(number), trampoline::label(number));
    // SAFETY: a live record's foot is a word of this stack.
    let foot = unsafe { AtomicUsize::from_ptr(record.foot() as *mut usize) };
    let found = foot.load(Ordering::Relaxed);
    if let Some(word) = arch::replace_address(found, label, original, record.top()) {
        foot.store(word, Ordering::Release);
    }
}
