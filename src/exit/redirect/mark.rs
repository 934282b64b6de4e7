//! The mark: a word of an armed stack that tells its life from the next one on the same memory.
//!
//! Under slot redirect the foot is that word: a new stack's foot holds a return address again. Under code redirect the
//! foot never changes. What serves instead, where something does:
//!
//! | stack | mark | why nobody misses the word |
//! |---|---|---|
//! | thread, `main` | none: a word of the record | their ends never get past the hook, or the safety net; a child of `fork` is told (`os/fork.rs`) |
//! | `makecontext`, x86_64 | `uc_link`, which lies behind the arguments | `__start_context` is the only one to read it, just before the hook, which gives it back |
//! | `makecontext`, aarch64 | the frame pointer that the entry function saved | `__start_context` has no frame; who follows frame pointers meets the end, two zeros in the record |
//! | `enter` | a word of our own frame | it is for that |
//! | a registered wrapper | none: a word of the record | memory of suspended fibers is to be `discard`ed before it is used again |
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
//! The mark is the address of the record, which is used for this very stack until its end, or until the next stack on its
//! memory finds it. `makecontext` and `enter` write the word anew for each stack. An entry function does so on aarch64;
//! if it saves no frame pointer, there is no mark, and it is as with a registered wrapper.

use crate::base::error::Error;
use crate::base::foot::Foot;
use crate::base::kind::Kind;
use crate::exit::trampoline;
use crate::record::header::Record;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
use crate::unwind;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A word that can be marked.
#[derive(Clone, Copy)]
pub(crate) struct Mark {
    pub(super) address: usize,
    /// What is there without the mark.
    pub(super) before: usize,
}

/// The mark of a record. On x86_64 an odd number, as it stands where a context's address is expected; on aarch64 the
/// address of a frame record that ends a chain of frame pointers.
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

    /// Writes it.
    pub(super) fn set(self, record: &Record) {
        // SAFETY: a word of the running stack, by the promise of `at`, which nobody else uses before the stack's end.
        unsafe { AtomicUsize::from_ptr(self.address as *mut usize) }.store(word(record), Ordering::Release);
    }
}

/// Takes the mark off the running stack, whose record this is, if there is one.
pub(super) fn remove(record: &Record) {
    let (address, mark) = record.canary();
    // SAFETY: a live record's canary is a word of its stack.
    let place = unsafe { AtomicUsize::from_ptr(address as *mut usize) };
    if mark == word(record) && place.load(Ordering::Relaxed) == mark {
        place.store(record.word_under_mark(), Ordering::Release);
    }
}

/// Whether the stack that ends with this frame pointer is the one that the record is of.
pub(crate) fn matches_frame_pointer(record: &Record, frame_pointer: usize) -> bool {
    let (_, canary) = record.canary();
    let mark = word(record);
    canary != mark || frame_pointer == mark
}

/// Where the running stack, whose foot this is, can be marked; `None` where it cannot and where it need not be.
pub(super) fn find(foot: Foot) -> Result<Option<Mark>, Error> {
    let address = match trampoline::kind(foot.trampoline) {
        Kind::Entered if trampoline::original(foot.trampoline) == trampoline::hooked_return() => {
            Some(foot.base + OWN_MARK)
        }
        Kind::Fiber => context(foot)?,
        _ => None,
    };
    // SAFETY: a word of the running stack, as `context` and the frame of `exeunt_call_entry_hooked` say.
    Ok(address.map(|address| unsafe { Mark::at(address) }))
}

/// Where in the frame of `exeunt_call_entry_hooked` the mark is, from the base: `asm/`.
const OWN_MARK: usize = if cfg!(target_arch = "x86_64") { 0 } else { 8 };

/// The frame pointer that the entry function has saved.
#[cfg(target_arch = "aarch64")]
fn context(foot: Foot) -> Result<Option<usize>, Error> {
    Ok(foot.frame_pointer_at)
}

/// The word of `uc_link`. It is behind the arguments that lie on the stack, however many there are; `makecontext` has left
/// its address in `rbx`, which every function saves that uses it. The unwinder knows where.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
fn context(foot: Foot) -> Result<Option<usize>, Error> {
    /// `makecontext` takes any number of arguments; nobody passes more than that.
    const MOST_ARGUMENTS: usize = 256;

    let found = unwind::rbx::saved_rbx(trampoline::original(foot.trampoline));
    found
        .filter(|found| found.is_multiple_of(8) && (foot.base..foot.base + 8 * MOST_ARGUMENTS).contains(found))
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
