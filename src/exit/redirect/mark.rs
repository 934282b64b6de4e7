//! The mark: a word of an armed stack by which code redirect distinguishes the stack from the next
//! one on the same memory. `find` finds the word, `Mark::set` and `remove` write it.
//!
//! Under slot redirect the foot is that word: a new stack's foot holds a return address again.
//! Under code redirect the foot never changes. The mark is instead:
//!
//! - **Thread, `main`:** none. The canary is a word of the record. Every end of these stacks meets
//!   the hook or the safety net, and `life/fork.rs` handles a child of `fork`.
//! - **`makecontext`, x86_64:** `uc_link`, which lies behind the arguments. Only `__start_context`
//!   reads it, right behind the hook, and the hook puts it back.
//! - **`makecontext`, aarch64:** the frame pointer that the entry function saved. `__start_context`
//!   has no frame. A walk of frame pointers meets the end, two zeros in the record.
//! - **`enter`:** a word of exeunt's own frame, which exists for this.
//! - **A registered wrapper:** none. The canary is a word of the record. The user has to `discard`
//!   a suspended fiber's memory before it is used again.
//!
//! ```text
//!   makecontext, x86_64                       makecontext, aarch64
//!
//!   | uc_link: the mark          |            |                            | <- base
//!   | 7th argument and on, or    |            +----------------------------+
//!   |   nothing                  | <- base     | entry function's locals    |
//!   +----------------------------+            |   x30: foot                |
//!   | foot: in __start_context   |            |   x29: the mark            |
//!   +----------------------------+
//! ```
//!
//! The mark is the address of the record. The record serves this very stack until the stack ends,
//! or until the next stack on its memory finds it. `makecontext` and `enter` write the word anew
//! for each stack. On aarch64 an entry function does so. If it saves no frame pointer, there is no
//! mark, and the stack is as one behind a registered wrapper.

use crate::base::error::Error;
use crate::base::foot::Foot;
use crate::base::kind::Kind;
use crate::exit::trampoline;
use crate::record::header::Record;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
use crate::unwind;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A word that can hold the mark.
#[derive(Clone, Copy)]
pub(crate) struct Mark {
    pub(super) address: usize,
    /// The word without the mark.
    pub(super) before: usize,
}

/// The mark of a record. On x86_64 it is an odd number, as it stands where a context's address is
/// expected. On aarch64 it is the address of a frame record that ends a chain of frame pointers.
pub(super) fn word(record: &Record) -> usize {
    if cfg!(target_arch = "x86_64") { record.mark() } else { record.last_frame() }
}

impl Mark {
    /// # Safety
    /// `address` must be an aligned word of the running stack.
    unsafe fn at(address: usize) -> Self {
        // SAFETY: the caller's promise.
        Self { address, before: unsafe { AtomicUsize::from_ptr(address as *mut usize) }.load(Ordering::Relaxed) }
    }

    /// Writes the mark.
    pub(super) fn set(self, record: &Record) {
        // SAFETY: a word of the running stack, by the promise of `at`. No other code uses it before
        // the stack's end.
        unsafe { AtomicUsize::from_ptr(self.address as *mut usize) }.store(word(record), Ordering::Release);
    }
}

/// Removes the mark from the running stack, whose record this is, if it has one.
pub(super) fn remove(record: &Record) {
    let (address, mark) = record.canary();
    // SAFETY: a live record's canary is a word of its stack.
    let place = unsafe { AtomicUsize::from_ptr(address as *mut usize) };
    if mark == word(record) && place.load(Ordering::Relaxed) == mark {
        place.store(record.unmarked_word(), Ordering::Release);
    }
}

/// Whether the record is that of the stack that ends with this frame pointer.
pub(crate) fn matches_frame_pointer(record: &Record, frame_pointer: usize) -> bool {
    let (_, canary) = record.canary();
    let mark = word(record);
    canary != mark || frame_pointer == mark
}

/// The word for the mark of the running stack, whose foot this is. `None` if it needs none or has
/// none.
pub(super) fn find(foot: Foot) -> Result<Option<Mark>, Error> {
    let address = match trampoline::kind(foot.trampoline) {
        Kind::Entered if trampoline::original(foot.trampoline) == trampoline::hooked_return() => {
            Some(foot.base + OWN_MARK)
        }
        Kind::Fiber => context(foot)?,
        _ => None,
    };
    // SAFETY: a word of the running stack, as `context` and the frame of `exeunt_call_entry_hooked`
    // say.
    Ok(address.map(|address| unsafe { Mark::at(address) }))
}

/// The mark's distance from the base, in the frame of `exeunt_call_entry_hooked`: `asm/`.
const OWN_MARK: usize = if cfg!(target_arch = "x86_64") { 0 } else { 8 };

/// The word in which the entry function has saved the frame pointer.
#[cfg(target_arch = "aarch64")]
fn context(foot: Foot) -> Result<Option<usize>, Error> {
    Ok(foot.frame_pointer_at)
}

/// The word of `uc_link`. It is behind the arguments that lie on the stack, however many there are.
/// `makecontext` has left its address in `rbx`, which every function saves that uses it. The
/// unwinder finds where.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
fn context(foot: Foot) -> Result<Option<usize>, Error> {
    /// `makecontext` takes any number of arguments. No program passes more than that.
    const MOST_ARGUMENTS: usize = 256;

    let found = unwind::rbx::saved_rbx(trampoline::original(foot.trampoline));
    found
        .filter(|found| found % 8 == 0 && (foot.base..foot.base + 8 * MOST_ARGUMENTS).contains(found))
        .map(Some)
        .ok_or_else(|| {
            Error::NoCodeSite(
                format!(
                    "the word of uc_link was not found above the foot at {:#x} (rbx: {:#x?}); without it an abandoned \
                 fiber could not be told from the next one",
                    foot.address, found
                )
                .into(),
            )
        })
}

#[cfg(not(any(target_arch = "aarch64", target_os = "linux")))]
fn context(_foot: Foot) -> Result<Option<usize>, Error> {
    Ok(None)
}
