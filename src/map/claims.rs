//! Makes a record the owner of entries and blocks: `add_block`, `insert`.

use super::entry::{Entry, pointer};
use super::owner::Owner;
use super::pages::{PAGE, block_bit, page_of_base};
use super::stack_map::StackMap;
use crate::base::cold::cold_path;
use crate::machine::arch::untagged;

/// Why a record was not inserted.
pub(crate) enum InsertError<R: 'static> {
    NoMemory,
    /// The stack was armed, with this record, while memory was allocated: the allocator uses
    /// storage.
    ArmedMeanwhile(&'static R),
}

impl<R: Owner> StackMap<R> {
    /// Notes that `sp` is on the stack of `record`, so that the next [`StackMap::find`] there is
    /// quick. Where another live stack owns the page's entry, this does nothing: stack pointers on
    /// that page are still looked up by unwinding.
    #[inline]
    pub(crate) fn add_block(&'static self, sp: usize, record: &'static R) {
        let sp = untagged(sp);
        let Some(entry) = self.pages.ensure_entry(sp) else { return };
        // The block that holds the base may hold another stack's lowest words as well, so it is
        // never owned.
        if sp >> 6 == record.base() >> 6 {
            cold_path();
            return;
        }
        // Before the claim: when the record's stack ends, the entries of all noted pages are
        // cleared. That holds even where a signal handler leaves this function in the middle by a
        // jump.
        record.note_page(sp >> PAGE);
        if self.claim(entry, sp >> PAGE, record) {
            entry.add_block(pointer(record), block_bit(sp));
        }
    }

    /// Makes `record` the one that [`StackMap::by_base`] finds for its base.
    #[inline]
    pub(crate) fn insert(&'static self, record: &'static R) -> Result<(), InsertError<R>> {
        let page = page_of_base(record.base());
        let Some(entry) = self.pages.ensure_entry(page << PAGE) else { return Err(InsertError::NoMemory) };
        if self.claim(entry, page, record) { Ok(()) } else { self.insert_extra(record) }
    }

    /// Makes room for [`StackMap::insert_reserved`] at this base: `false` without memory. `record` is
    /// one that the caller has to itself, and that is free. Before the caller gives it back,
    /// [`StackMap::unreserve`].
    pub(crate) fn reserve(&'static self, base: usize, record: &'static R) -> bool {
        let Some(entry) = self.pages.ensure_entry(page_of_base(base) << PAGE) else { return false };
        if !self.extras.insert(record) {
            return false;
        }
        // SAFETY: entries lead to the slab's items only, which live for ever.
        let owner = unsafe { entry.owner().as_ref() };
        // Every look-up of a base passes all nodes. So only a record that will need its node keeps it.
        // The others leave one that is free from now on, unless another record takes it.
        if owner.is_none_or(Owner::is_free) {
            self.extras.remove(record);
        }
        true
    }

    /// As [`StackMap::insert`], without memory: `false` where [`StackMap::reserve`] was not called,
    /// and where the page of this base had no owner then, and other stacks have taken that page and
    /// all room meanwhile.
    pub(crate) fn insert_reserved(&'static self, record: &'static R) -> bool {
        let page = page_of_base(record.base());
        let Some(entry) = self.pages.entry(page << PAGE) else { return false };
        if self.claim(entry, page, record) {
            self.extras.remove(record);
            return true;
        }
        self.extras.contains(record) || self.extras.insert_in_free_node(record)
    }

    /// Undoes [`StackMap::insert_reserved`], but leaves the record the room of its own.
    pub(crate) fn withdraw_reserved(&'static self, record: &'static R) {
        self.clear_all(record.pages(), record);
    }

    /// Gives up the room that [`StackMap::reserve`] has made.
    pub(crate) fn unreserve(&'static self, record: &'static R) {
        self.extras.remove(record);
    }

    #[cold]
    fn insert_extra(&'static self, record: &'static R) -> Result<(), InsertError<R>> {
        if !self.extras.insert(record) {
            return Err(InsertError::NoMemory);
        }
        let base = record.base();
        let other = |other: &&'static R| !std::ptr::eq(*other, record) && other.base() == base;
        match self.extras.all().find(|found| other(found) && found.is_armed_at(record.foot())) {
            Some(found) => Err(InsertError::ArmedMeanwhile(found)),
            None => Ok(()),
        }
    }

    /// Makes `record` the owner of a page's entry, unless a live stack's record owns it. Returns
    /// whether `record` owns it.
    #[inline]
    fn claim(&'static self, entry: &Entry<R>, page: usize, record: &'static R) -> bool {
        if entry.is_owned_by(pointer(record)) {
            return true;
        }
        cold_path();
        // SAFETY: entries lead to the slab's items only, which live for ever.
        let Some(owner) = (unsafe { entry.owner().as_ref() }) else { return entry.claim(pointer(record), |_| false) };
        self.evict_to_slab(owner);
        let _pinned = owner.pins().pin();
        entry.claim(pointer(record), |now| now == pointer(owner) && may_take_entry(owner, page))
    }

    /// Gives the record to the slab, if it is cached.
    #[cold]
    fn evict_to_slab(&'static self, owner: &'static R) {
        if self.evict(owner) {
            self.give(owner);
        }
    }
}

/// Whether another record may take the entry for `page` from `record`, which owns it. No record may
/// take the entry of the base's page: that entry leads the next stack on the same memory to the
/// abandoned record. Without it the abandoned record would be taken for the next stack's.
fn may_take_entry(record: &impl Owner, page: usize) -> bool {
    page_of_base(record.base()) != page && record.is_stale()
}
