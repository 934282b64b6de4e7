//! The canary: the word by which a record knows that its stack is still there.

use super::header::{DEAD, FOOT_MOVES, Phase, Record};
use crate::base::kind::Kind;
use crate::base::redirect::Method;
use crate::machine::arch;
use crate::storage::inline_cache;
use std::hint::cold_path;
use std::sync::atomic::{AtomicUsize, Ordering};

impl Record {
    /// Whether the foot still holds what was put there: if not, the stack has ended or was abandoned.
    #[inline(always)]
    pub(crate) fn is_live(&self) -> bool {
        // In the order of `watch`, without asking the processor for it: `find` is called on the
        // very stack whose block the page map vouches for. Either that stack is this record's, and
        // the words are of its own code, or of code that handed the stack on to another thread and
        // so came before. Or the record's stack was abandoned, and its memory is used anew: then
        // the words are what they were before that, and whoever changes them next has the record
        // taken away from this memory first, which the stack that runs here does itself (`arm.rs`)
        // or has promised not to outlive (`discard`).
        let foot = self.canary_at.load(Ordering::Relaxed) as *const AtomicUsize;
        // SAFETY: the foot of an armed or draining stack is a word of that stack's memory, and a vacant record's is
        // `DEAD`. A stack whose memory is unmapped while it is armed must be discarded first: its owner's duty.
        unsafe { (*foot).load(Ordering::Relaxed) == self.canary_word.load(Ordering::Relaxed) }
    }

    /// The same where the stack's memory may be gone: asks the system to read it.
    fn is_live_remote(&self) -> bool {
        let canary = self.canary();
        // Or it is another one by now: then its stack's code is just at it.
        crate::machine::os::read_word(canary.0) == Some(canary.1) || self.canary() != canary
    }

    /// The foot and the word that is there while the stack is armed.
    ///
    /// Others than its stack ask as well, to judge it: who sees a foot sees the word that was
    /// stored before it by `watch`, or a later one.
    pub(crate) fn canary(&self) -> (usize, usize) {
        (self.canary_at.load(Ordering::Acquire), self.canary_word.load(Ordering::Relaxed))
    }

    /// The word of the canary: the foot, or the mark.
    pub(crate) fn canary_at(&self) -> usize {
        self.canary_at.load(Ordering::Relaxed)
    }

    /// A word that is nobody else's: no code is at an odd address of data of ours.
    pub(crate) fn mark(&self) -> usize {
        std::ptr::from_ref(self) as usize | 1
    }

    /// A canary that is no word of the stack: where it is, and what it is in this life.
    pub(crate) fn own_canary(&self) -> (usize, usize) {
        (self.generation.as_ptr().addr(), self.generation.load(Ordering::Relaxed))
    }

    /// Lets the record be found live for as long as `foot` holds `word`.
    #[inline]
    pub(crate) fn set_canary(&self, foot: usize, word: usize) {
        if self.canary_at() == self.generation.as_ptr().addr() {
            cold_path();
            // Whatever remembers this canary is to know that it is no more.
            self.generation.store(0, Ordering::Release);
        }
        // The word first, so that no foot is ever compared with an older word that it may happen to
        // hold: not by a signal handler on this stack that comes in between, nor by those who judge
        // this record from elsewhere (`canary`).
        self.canary_word.store(word, Ordering::Release);
        self.canary_at.store(foot, Ordering::Release);
    }

    /// Lets nobody find it live any more: its thread is not in this process.
    #[cfg(code_redirect)]
    pub(crate) fn invalidate(&self) {
        self.set_canary(&raw const DEAD as usize, 1);
    }

    /// Lets nobody find it for its stack any more.
    #[inline]
    pub(super) fn set_free(&self) {
        // First, so that a signal handler which walks here no longer takes it for the stack's.
        self.phase.store(Phase::Free as u8, Ordering::Release);
        self.set_canary(&raw const DEAD as usize, 1);
        self.id.store(0, Ordering::Relaxed);
    }

    /// Whether the code redirect's hook is to drain it, if the stack that ends is its own.
    pub(crate) fn drains_at_hook(&self) -> bool {
        self.method() == Method::Code
            && self.canary_at() != &raw const DEAD as usize
            && [Phase::Armed as u8, Phase::Draining as u8].contains(&self.phase.load(Ordering::Acquire))
    }

    /// Whether it is of the running stack, whose foot is at `foot`, and is armed. A stack that was
    /// abandoned on this memory may have had its foot at another place, or its canary overwritten.
    /// Where neither can tell ([`Record::canary_may_be_stale`], with a mark for a canary), this is false.
    pub(crate) fn is_armed_at(&self, foot: usize) -> bool {
        let tells = self.method() == Method::Slot || !self.canary_may_be_stale();
        self.is_armed() && tells && self.foot() == foot && self.is_live()
    }

    /// Whether a canary that is there may be all that is left of an earlier stack on this memory, so that only a walk can tell.
    ///
    /// On x86_64 `call` writes the foot of every stack at the same place below its base. On aarch64 each function stores the return
    /// address where it pleases, so the next stack may spare the word in which an abandoned one had its foot. Threads are not
    /// abandoned. (Only on Linux: the frame records that are followed elsewhere do not lead through a drain.)
    #[inline(always)]
    pub(crate) fn canary_may_be_stale(&self) -> bool {
        FOOT_MOVES && !matches!(self.kind(), Kind::Thread | Kind::Main)
    }

    /// Whether a walk comes by its foot. It comes by none of a C scope, and of a stack that drains without having returned.
    pub(crate) fn is_found_by_walk(&self) -> bool {
        let (foot, word) = self.canary();
        let drains_in_trampoline = arch::untagged(foot) == self.base().wrapping_sub(size_of::<usize>());
        word != std::ptr::from_ref(self).addr() && (word != self.mark() || drains_in_trampoline)
    }

    /// The foot is elsewhere now, and the canary may be.
    #[cold]
    pub(crate) fn move_foot(&self, place: usize, canary: (usize, usize)) {
        // What is remembered goes by the old ones.
        inline_cache::invalidate_stack([self.foot(), self.canary_at()]);
        self.foot.store(place, Ordering::Relaxed);
        if canary != self.canary() {
            self.set_canary(canary.0, canary.1);
        }
    }

    /// Whether this is of a stack that went away without an end: abandoned half-way, its memory used for another one.
    pub(crate) fn is_stale(&self) -> bool {
        match self.phase.load(Ordering::Acquire) {
            phase if phase == Phase::Armed as u8 || phase == Phase::Draining as u8 => !self.is_live_remote(),
            phase => phase == Phase::Free as u8,
        }
    }
}
