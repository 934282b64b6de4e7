//! Where a stack's record comes from and goes to: a record that is cached at the stack's base, one
//! that is cached elsewhere, or one from the slab.
//!
//! The operations are `take_at_base` and `take` before a stack is armed, `cache` and `give` after
//! its end, and `evict` for a cached record.

use super::cached;
use super::entry::pointer;
use super::owner::Owner;
use super::pages::{PAGE, page_of_base};
use super::stack_map::StackMap;
use crate::base::atomics::Ordering;
use crate::base::cold::cold_path;
use crate::machine::arch::untagged;

/// What the map has for the base of a stack that is about to be armed.
pub(crate) enum AtBase<R: 'static> {
    /// A record that was cached there. The caller has it to itself.
    Cached(&'static R),
    /// The record of a stack that was abandoned.
    Abandoned(&'static R),
    Nothing,
}

impl<R: Owner> StackMap<R> {
    /// What the map has for the base of the running stack, which is not armed. A stack that only
    /// the map leads to (a C scope) takes no pinned record, because it must not lose an entry.
    #[inline]
    pub(crate) fn take_at_base(&'static self, base: usize, known_by_map_alone: bool) -> AtBase<R> {
        let base = untagged(base);
        let owner = self.owner(base - 1);
        match owner.filter(|record| record.base() == base && record.cached_flag().take()) {
            Some(record) if record.base() == base && !(known_by_map_alone && record.pins().is_pinned()) => {
                AtBase::Cached(record)
            }
            taken => {
                cold_path();
                if let Some(record) = taken {
                    // In most such cases the record has served another stack meanwhile, and was
                    // cached at that stack's base.
                    self.leave_base(record);
                    self.give(record);
                }
                self.by_base(base).map_or(AtBase::Nothing, AtBase::Abandoned)
            }
        }
    }

    /// A record for a stack with any base. The caller has it to itself. `None` without memory.
    #[inline]
    pub(crate) fn take(&'static self) -> Option<&'static R> {
        let stolen = if self.records.has_none_up_to(cached::MAX_NUMBER) { self.steal() } else { None };
        let record = stolen.or_else(|| self.records.take())?;
        if record.pins().is_pinned() { self.take_unpinned(record) } else { Some(record) }
    }

    /// A record other than this one, which is pinned.
    #[cold]
    fn take_unpinned(&'static self, pinned: &'static R) -> Option<&'static R> {
        let other = self.take();
        self.give(pinned);
        other
    }

    /// One of the cached records, in turn.
    #[cold]
    fn steal(&'static self) -> Option<&'static R> {
        let number = self.next_to_steal.load(Ordering::Relaxed);
        // Where two threads read the same number, one of them gets the record, and the other one a
        // fresh record.
        self.next_to_steal.store(number.wrapping_add(1), Ordering::Relaxed);
        self.records.get(number % cached::MAX_NUMBER + 1).filter(|record| self.evict(record))
    }

    /// Takes a cached record from where it is cached. Returns whether it was cached: then the
    /// caller has it to itself.
    pub(crate) fn evict(&'static self, record: &'static R) -> bool {
        let was_cached = record.cached_flag().take();
        if was_cached {
            self.leave_base(record);
        }
        was_cached
    }

    /// Takes a record, which the caller has to itself, away from the base at which it was cached.
    fn leave_base(&'static self, record: &'static R) {
        self.clear(page_of_base(record.base()), record);
        record.forget_base();
    }

    /// Caches a record at the base of its stack, which has ended. Returns `false`, and does
    /// nothing, for a record with a high number, or one that does not own its base page's entry.
    /// After `true` the caller no longer has the record.
    #[inline]
    pub(crate) fn cache(&'static self, record: &'static R) -> bool {
        let page = page_of_base(record.base());
        let entry = self.entry(page << PAGE).filter(|entry| entry.is_owned_by(pointer(record)));
        let Some(entry) = entry.filter(|_| record.links().number() <= cached::MAX_NUMBER) else {
            cold_path();
            return false;
        };
        let pages = record.pages();
        if pages != (page..page + 1) {
            cold_path();
            self.clear_all(pages.start..page, record);
            self.clear_all(page + 1..pages.end, record);
        }
        self.extras.remove(record);
        // Now, and not when the record serves its next stack: by then another stack's code may be
        // about to look up a place in memory that was this stack's.
        entry.clear_blocks();
        record.cached_flag().set();
        true
    }

    /// Gives back a record that no entry leads to.
    #[inline]
    pub(crate) fn give(&'static self, record: &'static R) {
        self.records.give(record);
    }
}
