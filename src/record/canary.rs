//! The canary: the stack word that shows whether a record's stack still lives.
//!
//! `set_canary` sets it, `is_live`, `is_stale` and `is_armed_at` check it, `move_foot` follows a
//! foot that moves, `invalidate` and `set_free` end it.

use super::header::{DEAD, FOOT_MOVES, Phase, Record};
use crate::base::cold::cold_path;
use crate::base::kind::Kind;
use crate::base::redirect::Method;
use crate::machine::arch;
use crate::storage::inline_cache;
use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How many records have a canary that [`super::stacks::draining_in`] alone finds.
pub(super) static WITHOUT_BLOCK: AtomicUsize = AtomicUsize::new(0);

impl Record {
    /// Whether the canary still holds the word that it must hold. If not, the stack has ended or
    /// was abandoned.
    #[inline(always)]
    pub(crate) fn is_live(&self) -> bool {
        // These loads are in the order of the stores of `set_canary`, without a barrier: `find`
        // runs on the very stack whose owned block it has found. Either that stack is this
        // record's. Then its own code has stored the words, or code that has handed the stack on to
        // another thread, and so came before. Or the record's stack was abandoned, and its memory
        // is used anew. Then the words are as they were before that. The next code that changes
        // them takes the record away from this memory first: the stack that runs here does so
        // itself (`life/arm.rs`), or the caller of `discard` has promised that no stack runs here.
        let foot = self.canary_at.load(Ordering::Relaxed) as *const AtomicUsize;
        // SAFETY: the canary of an armed or draining stack is a word of that stack's memory or of
        // the record, and a vacant record's is `DEAD`. The owner of a stack must discard it before
        // unmapping its memory while it is armed.
        unsafe { (*foot).load(Ordering::Relaxed) == self.canary_word.load(Ordering::Relaxed) }
    }

    /// The same where the stack's memory may be gone: the system reads it.
    fn is_live_remote(&self) -> bool {
        let canary = self.canary();
        // Or the canary has changed meanwhile: then the stack's code is just running.
        crate::machine::os::read_word(canary.0) == Some(canary.1) || self.canary() != canary
    }

    /// The canary's address, and its word while the stack is live.
    ///
    /// Code of other stacks calls this as well, to see whether the record is stale. Acquire pairs
    /// with `set_canary`: with an address comes the word that was stored before it, or a later one.
    /// Without it a live stack could be found stale, and lose entries.
    pub(crate) fn canary(&self) -> (usize, usize) {
        (self.canary_at.load(Ordering::Acquire), self.canary_word.load(Ordering::Relaxed))
    }

    /// The address of the canary: the foot, the mark, or [`Record::own_canary`].
    pub(crate) fn canary_at(&self) -> usize {
        self.canary_at.load(Ordering::Relaxed)
    }

    /// A word that no other code stores: exeunt has no code at an odd address of its data. It is the
    /// canary of a drain in a trampoline's frame, and of a stack whose end a hook meets.
    pub(crate) fn mark(&self) -> usize {
        std::ptr::from_ref(self) as usize | 1
    }

    /// Such a word for a drain whose stack has no foot any more.
    pub(crate) fn mark_without_foot(&self) -> usize {
        std::ptr::from_ref(self) as usize | 3
    }

    /// Such a word for a drain that no owned block leads to: see [`super::stacks::draining_in`].
    /// `contiguous`: whether it runs on the memory that ends at the stack's base.
    pub(crate) fn mark_without_block(&self, contiguous: bool) -> usize {
        std::ptr::from_ref(self) as usize | if contiguous { 5 } else { 7 }
    }

    /// A canary that is no word of the stack: its address, and its word in this generation.
    pub(crate) fn own_canary(&self) -> (usize, usize) {
        (self.generation.as_ptr().addr(), self.generation.load(Ordering::Relaxed))
    }

    /// Makes the record live for as long as the word at `foot` is `word`.
    #[inline]
    pub(crate) fn set_canary(&self, foot: usize, word: usize) {
        if self.canary_at() == self.generation.as_ptr().addr() {
            cold_path();
            // Whatever keeps this canary must find that it no longer holds.
            self.generation.store(0, Ordering::Release);
        }
        // The word first, so that an address is never compared with an older word, which it may
        // happen to hold: neither by a signal handler on this stack between the two stores, nor by
        // code of other stacks (`canary`).
        self.canary_word.store(word, Ordering::Release);
        self.canary_at.store(foot, Ordering::Release);
    }

    /// Makes `canary` the canary of this record, which drains where no owned block leads to it. Its
    /// word is [`Record::mark_without_block`].
    pub(crate) fn set_canary_without_block(&self, canary: &Cell<usize>) {
        if !self.is_without_block(self.canary().1) {
            WITHOUT_BLOCK.fetch_add(1, Ordering::Relaxed);
        }
        self.set_canary(canary.as_ptr() as usize, canary.get());
    }

    pub(super) fn is_without_block(&self, word: usize) -> bool {
        word == self.mark_without_block(true) || word == self.mark_without_block(false)
    }

    /// The canary is about to change.
    pub(super) fn leave_without_block(&self) {
        if self.is_without_block(self.canary().1) {
            cold_path();
            WITHOUT_BLOCK.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Makes the record dead for good: its thread does not exist in this process.
    #[cfg(code_redirect)]
    pub(crate) fn invalidate(&self) {
        self.set_canary(&raw const DEAD as usize, 1);
    }

    /// Takes the record away from its stack: no look-up finds it for the stack any more.
    #[inline]
    pub(super) fn set_free(&self) {
        // First, so that a signal handler that walks here no longer takes the record for the
        // stack's.
        self.phase.store(Phase::Free as u8, Ordering::Release);
        self.leave_without_block();
        self.set_canary(&raw const DEAD as usize, 1);
        self.id.store(0, Ordering::Relaxed);
    }

    /// Whether the code redirect's hook must drain the record, if the stack that ends is its own.
    pub(crate) fn drains_at_hook(&self) -> bool {
        self.method() == Method::Code
            && self.canary_at() != &raw const DEAD as usize
            && [Phase::Armed as u8, Phase::Draining as u8].contains(&self.phase.load(Ordering::Acquire))
    }

    /// Whether the record belongs to the running stack, whose foot is at `foot`, and is armed. A
    /// stack that was abandoned on this memory may have had its foot at another place, or its
    /// canary overwritten. Where neither is conclusive ([`Record::canary_may_be_stale`], with a
    /// mark for a canary), this is false.
    pub(crate) fn is_armed_at(&self, foot: usize) -> bool {
        let tells = self.method() == Method::Slot || !self.canary_may_be_stale();
        self.is_armed() && tells && self.foot() == foot && self.is_live()
    }

    /// Whether a canary that holds its word may be all that is left of an earlier stack on this
    /// memory, so that only a walk is conclusive.
    ///
    /// On x86_64 `call` writes the foot of every stack at the same place below its base. On aarch64
    /// each function stores the return address at a place of its own. So the next stack may leave
    /// the word alone in which an abandoned one had its foot. Threads are not abandoned. (Only on
    /// Linux: the frame records that are followed elsewhere do not lead through a drain.)
    #[inline(always)]
    pub(crate) fn canary_may_be_stale(&self) -> bool {
        FOOT_MOVES && !matches!(self.kind(), Kind::Thread | Kind::Main)
    }

    /// Whether a walk passes its foot. A walk passes no foot of a C scope, nor of a stack that
    /// drains without having returned.
    pub(crate) fn is_found_by_walk(&self) -> bool {
        let (foot, word) = self.canary();
        let drains_in_trampoline = arch::untagged(foot) == self.base().wrapping_sub(size_of::<usize>());
        let has_none = [
            std::ptr::from_ref(self).addr(),
            self.mark_without_foot(),
            self.mark_without_block(true),
            self.mark_without_block(false),
        ];
        !has_none.contains(&word) && (word != self.mark() || drains_in_trampoline)
    }

    /// Notes that the foot has moved, and maybe the canary.
    #[cold]
    pub(crate) fn move_foot(&self, place: usize, canary: (usize, usize)) {
        // The inline caches hold the old addresses.
        inline_cache::invalidate_stack([self.foot(), self.canary_at()]);
        self.foot.store(place, Ordering::Relaxed);
        if canary != self.canary() {
            self.set_canary(canary.0, canary.1);
        }
    }

    /// Whether the record's stack went away without an end: it was abandoned, or the record belongs
    /// to no stack.
    pub(crate) fn is_stale(&self) -> bool {
        match self.phase.load(Ordering::Acquire) {
            phase if phase == Phase::Armed as u8 || phase == Phase::Draining as u8 => !self.is_live_remote(),
            phase => phase == Phase::Free as u8,
        }
    }
}
