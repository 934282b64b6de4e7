//! The map of all stacks (`STACKS`), and how a record leaves it: `detach`, `release`. The records
//! that drain without an owned block: `draining_in`.

use super::canary;
use super::header::DEAD;
use super::header::Record;
use crate::base::cold::cold_path;
use crate::machine::arch::untagged;
use crate::map::cached::CachedFlag;
use crate::map::owner::Owner;
use crate::map::pins::PinCount;
use crate::map::stack_map::StackMap;
use crate::storage::inline_cache;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The stacks of this process.
pub(crate) static STACKS: StackMap<Record> = StackMap::new();

/// The record whose drain has its canary in `frame`, and whether the drain runs on the memory that
/// ends at its stack's base. Only records that drain without an owned block need this
/// ([`Record::set_canary_without_block`]).
///
/// # Safety
/// `frame` must be the memory of a frame of the running stack that has not returned.
#[inline(always)]
pub(crate) unsafe fn draining_in(frame: Range<usize>) -> Option<(&'static Record, bool)> {
    // Relaxed: this very stack's code has added to it.
    if canary::WITHOUT_BLOCK.load(Ordering::Relaxed) == 0 {
        return None;
    }
    // SAFETY: the caller's promise.
    unsafe { search_draining(&frame) }
}

/// Whether [`draining_in`] may find a record.
pub(crate) fn drains_without_block() -> bool {
    // Relaxed: as there.
    canary::WITHOUT_BLOCK.load(Ordering::Relaxed) != 0
}

/// # Safety
/// As [`draining_in`].
#[cold]
unsafe fn search_draining(frame: &Range<usize>) -> Option<(&'static Record, bool)> {
    let frame = untagged(frame.start)..untagged(frame.end);
    STACKS.all().find_map(|record| {
        let (place, word) = record.canary();
        if !record.is_without_block(word) || !record.is_draining() || !frame.contains(&untagged(place)) {
            return None;
        }
        // SAFETY: the caller's promise: a word of a frame of the running stack.
        let holds = unsafe { AtomicUsize::from_ptr(place as *mut usize) }.load(Ordering::Relaxed) == word;
        holds.then(|| (record, word == record.mark_without_block(true)))
    })
}

impl Owner for Record {
    #[inline(always)]
    fn is_live(&self) -> bool {
        Record::is_live(self)
    }

    fn is_stale(&self) -> bool {
        Record::is_stale(self)
    }

    #[inline]
    fn is_free(&self) -> bool {
        Record::is_free(self)
    }

    fn is_placed(&self) -> bool {
        Record::is_placed(self)
    }

    fn is_armed_at(&self, foot: usize) -> bool {
        Record::is_armed_at(self, foot)
    }

    fn foot(&self) -> usize {
        Record::foot(self)
    }

    #[inline]
    fn base(&self) -> usize {
        Record::base(self)
    }

    fn forget_base(&self) {
        Record::forget_base(self);
    }

    #[inline]
    fn pages(&self) -> Range<usize> {
        Record::pages(self)
    }

    #[inline]
    fn note_page(&self, page: usize) {
        Record::note_page(self, page);
    }

    #[inline]
    fn pins(&self) -> &PinCount {
        Record::pins(self)
    }

    #[inline]
    fn cached_flag(&self) -> &CachedFlag {
        Record::cached_flag(self)
    }
}

impl Record {
    /// Takes the record of an abandoned stack away from its place.
    ///
    /// The next stack there may have the same word in the same foot. So from now on no inline cache
    /// may hold an entry of this stack.
    pub(crate) fn detach(&'static self) {
        self.set_draining();
        inline_cache::invalidate_stack([self.foot(), self.canary_at()]);
        self.leave_without_block();
        self.set_canary(&raw const DEAD as usize, 1);
        STACKS.remove(self);
    }

    /// Takes the record away from its stack. The record is cached there for the next stack with
    /// that base, or goes back to the slab.
    #[inline]
    pub(crate) fn release(&'static self) {
        self.set_free();
        if !STACKS.cache(self) {
            cold_path();
            self.unlist();
            STACKS.give(self);
        }
    }

    /// Takes the record away from a stack that was armed in vain. The caller has it to itself again,
    /// with its contents and the room that was reserved for it.
    pub(crate) fn withdraw(&'static self) {
        self.set_free();
        STACKS.withdraw_reserved(self);
        self.forget_base();
    }

    pub(super) fn unlist(&'static self) {
        STACKS.remove(self);
        self.forget_base();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::kind::Kind;
    use crate::base::redirect::Method;
    use crate::record::header::NewStack;

    #[test]
    fn each_stack_on_a_page_that_has_an_owner_keeps_the_room_that_was_reserved_for_it() {
        static MAP: StackMap<Record> = StackMap::new();
        let base = |number: usize| 0x7000_0000 + 64 * number;
        let prepared = |record: &'static Record, number| {
            let (kind, method) = (Kind::Thread, Method::Slot);
            let foot = base(number) - 8;
            record.prepare(&NewStack { foot, base: base(number), kind, trampoline: 0, method, unmarked_word: 0 }, 0);
            record.set_armed();
            record
        };
        let [owner, first, second, third] = [(); 4].map(|()| MAP.take().expect("there is memory"));
        assert!(MAP.insert(prepared(owner, 1)).is_ok());
        assert!(MAP.reserve(base(2), first) && MAP.reserve(base(3), second) && MAP.reserve(base(4), third));
        MAP.unreserve(third);
        for (number, record) in [(2, first), (3, second)] {
            assert!(MAP.insert_reserved(prepared(record, number)), "stack {number}");
            assert!(MAP.by_base(base(number)).is_some_and(|found| std::ptr::eq(found, record)));
        }
        // The room that was given up is there for one more.
        let [fourth, fifth] = [(); 2].map(|()| MAP.take().expect("there is memory"));
        assert!(MAP.insert_reserved(prepared(fourth, 5)));
        assert!(!MAP.insert_reserved(prepared(fifth, 6)));
    }
}
