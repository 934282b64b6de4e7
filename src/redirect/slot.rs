//! Slot redirect: one word of the stack, its foot, is rewritten; on a thread also where it lands without a return.

use crate::arch;
use crate::error::Error;
use crate::foot::Foot;
use crate::os::Landing;
use crate::record::Record;
use crate::stack::Kind;
use crate::{exits, trampoline, unwind};
use std::sync::atomic::{AtomicUsize, Ordering};

/// What is to be written.
#[derive(Clone, Copy)]
pub(super) struct Writes {
    /// The word for the foot.
    pub(super) word: usize,
    landing: Option<Landing>,
    /// The word above the top that keeps the original address, and that address.
    keep: Option<(usize, usize)>,
    /// Where the thread is to land.
    land_at: Option<usize>,
}

impl Writes {
    /// Whether the thread drains as well where it lands without a return.
    pub(super) fn lands(&self) -> bool {
        self.land_at.is_some()
    }
}

/// What to write for the stack with this foot; nothing of it has been written yet.
#[inline]
pub(super) fn plan(foot: Foot) -> Result<Writes, Error> {
    if super::shadow_stack_active() {
        return Err(Error::ShadowStack);
    }
    let number = foot.trampoline;
    let original = trampoline::original(number);
    let is_thread = matches!(trampoline::kind(number), Kind::Thread | Kind::Main);
    let (landing, known) = if is_thread { find_landing(foot.top, number) } else { (None, None) };
    // Another copy of the library keeps the original in the spare word: then that word is the foot of this one.
    let spare = landing.map(Landing::spare).filter(|&spare| spare != foot.address);
    let keeping = spare.and_then(|spare| Some((spare, trampoline::label_keeping(spare - foot.top)?)));
    let label = keeping.map_or_else(|| trampoline::label(number), |(_, label)| label);
    let Some(word) = arch::replace_address(foot.word, original, label, foot.top, signing(foot.address)) else {
        return Err(Error::ForeignFoot { address: foot.address, found: foot.word, expected: original });
    };
    let lands = match (known, landing) {
        (None, Some(landing)) => recognise_landing(landing, number)?,
        _ => known,
    };
    let keep = keeping.map(|(spare, _)| (spare, original));
    Ok(Writes { word, landing, keep, land_at: lands.map(trampoline::label) })
}

/// What the first thread with an exit trampoline has shown for all, by the exit trampoline's number: how far above the top
/// its landing is kept, times 256, and the number of the trampoline that stands for where it leads, plus one.
static LANDINGS: [AtomicUsize; trampoline::COUNT] = [const { AtomicUsize::new(0) }; trampoline::COUNT];

/// The landing of the running thread, whose exit trampoline has this number; and the number of the one that stands for where
/// it leads, if that is known.
#[inline]
fn find_landing(top: usize, number: usize) -> (Option<Landing>, Option<usize>) {
    let shown = LANDINGS[number].load(Ordering::Acquire);
    if shown != 0 {
        let (distance, lands) = (shown >> 8, (shown & 255) - 1);
        // SAFETY: `foot.rs` found a return to this trampoline's original at the top, and the distance was found there.
        let landing = unsafe { Landing::again(top, distance, trampoline::original(lands)) };
        if landing.is_some() {
            return (landing, Some(lands));
        }
    }
    (Landing::find(top), None)
}

/// The number of the trampoline that stands for where the landing leads, if nobody has redirected it.
fn recognise_landing(landing: Landing, number: usize) -> Result<Option<usize>, Error> {
    let target = landing.target(trampoline::original(number)).filter(|&target| !trampoline::is_label(target));
    let Some(target) = target else { return Ok(None) };
    let lands = exits::landing_at(target, number)?;
    LANDINGS[number].store(landing.distance() << 8 | (lands + 1), Ordering::Release);
    Ok(Some(lands))
}

/// Redirects the exit of the running stack, whose foot is at `foot`.
///
/// # Safety
/// `writes` must come from [`plan`] for the running stack, and its record be ready to be drained: from here on the entry
/// function returns into the trampoline.
#[inline]
pub(super) unsafe fn redirect(foot: usize, writes: Writes) {
    if let Some((spare, original)) = writes.keep {
        // SAFETY: a word of the exit trampoline's frame that glibc does not use. It has to be there before the foot
        // leads unwinders to it.
        unsafe { AtomicUsize::from_ptr(spare as *mut usize) }.store(original, Ordering::Release);
    }
    if let (Some(landing), Some(target)) = (writes.landing, writes.land_at) {
        // SAFETY: a trampoline runs on the exit trampoline's stack pointer, and keeps its registers.
        unsafe { landing.set_target(target) };
    }
    // SAFETY: the foot is an aligned word of the running stack, and nobody but this stack's code uses it. The unwinder
    // found the return address there, and `plan` that it is one which can be replaced.
    unsafe { AtomicUsize::from_ptr(foot as *mut usize) }.store(writes.word, Ordering::Release);
}

/// How the running stack's entry function, whose return address is at `foot`, signs it, if its unwind table says.
fn signing(foot: usize) -> impl FnOnce() -> Option<arch::Signing> {
    // SAFETY: these are registers of the running stack.
    move || unsafe { unwind::signing(arch::Registers::here(), foot) }
}

/// Puts the exit of the running stack back.
///
/// # Safety
/// `record` must be the live record of the running stack, and not be draining.
pub(super) unsafe fn restore(record: &Record) {
    let original = trampoline::original(record.trampoline());
    // SAFETY: a live record's foot is a word of this stack.
    let foot = unsafe { AtomicUsize::from_ptr(record.foot() as *mut usize) };
    let found = foot.load(Ordering::Relaxed);
    if let Some(word) = arch::replace_address(found, arch::strip(found), original, record.top(), signing(record.foot()))
    {
        foot.store(word, Ordering::Release);
    }
    let landing = if matches!(record.kind(), Kind::Thread | Kind::Main) { Landing::find(record.top()) } else { None };
    let target = landing.and_then(|landing| landing.target(original));
    if let (Some(landing), Some(number)) = (landing, target.and_then(trampoline::number_of)) {
        // SAFETY: where it landed before.
        unsafe { landing.set_target(trampoline::original(number)) };
    }
}
