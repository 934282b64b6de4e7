//! The map from stack pointers to records: its parts, and the look-ups.
//!
//! The map is a cache of what unwinding has shown, except for one page of each armed stack. The
//! entry of the page that holds the stack's base always leads to its record. Where another stack
//! owns that page already, the list of extras leads to the record (`extras.rs`). When the stack has
//! ended, its record mostly stays cached there for the next stack (`cached.rs`).
//!
//! The map strips the tag of every address that it is given (`arch::untagged`).
//!
//! | operation | file |
//! |---|---|
//! | look-ups: `find`, `by_base`, `draining_at`, `all_in`, `all`, `at` | this one |
//! | `remove_blocks`, `remove` | this one |
//! | `take`, `give`, `cache`, `take_at_base` | `supply.rs` |
//! | `add_block`, `insert` | `claims.rs` |

use super::entry::{Entry, pointer};
use super::extras::Extras;
use super::owner::Owner;
use super::pages::{ADDRESS, LEAF, PAGE, Pages, block_bit};
use super::slab::Slab;
use crate::base::atomics::{AtomicPtr, AtomicU32, AtomicU64};
use crate::machine::arch::untagged;
use std::ops::Range;

/// The stack map, and the records that it leads to.
pub(crate) struct StackMap<R: 'static> {
    pub(super) pages: Pages<R>,
    pub(crate) extras: Extras<R>,
    pub(crate) records: Slab<R>,
    /// The number of the cached record to take next where the slab has none left (`supply.rs`).
    pub(super) next_to_steal: AtomicU32,
}

impl<R: Owner> StackMap<R> {
    pub(crate) const fn new() -> Self {
        Self {
            pages: Pages::new(),
            extras: Extras::new(),
            records: Slab::from_parts(
                [const { AtomicPtr::new(std::ptr::null_mut()) }; 26],
                AtomicU32::new(0),
                AtomicU64::new(0),
            ),
            next_to_steal: AtomicU32::new(0),
        }
    }

    /// The live record that owns the block of `sp`; `None` where no record owns it.
    ///
    /// This is the read path: no lock, no thread-local register, safe in a signal handler.
    #[inline(always)]
    pub(crate) fn find(&'static self, sp: usize) -> Option<&'static R> {
        let record = self.pages.entry(sp)?.find(block_bit(sp))?;
        // SAFETY: entries lead to the slab's items only, which live for ever.
        let record = unsafe { &*record };
        record.is_live().then_some(record)
    }

    /// Whether no look-up with a stack pointer on this page finds a record.
    #[inline]
    pub(crate) fn is_unowned(&'static self, page: usize) -> bool {
        self.pages.entry(page << PAGE).is_none_or(|entry| entry.owner().is_null())
    }

    /// The record of the stack whose base is `base`, if that stack is armed, or was abandoned.
    ///
    /// Another thread may be taking away a record that was cached there, to use it elsewhere. So a
    /// record counts only if it belongs to a stack, and that stack has this base. The two are
    /// checked in this order, because `Record::prepare` stores them in the other one: base, then
    /// phase. In the wrong order a record that serves another base could be found at its old one.
    #[inline]
    pub(crate) fn by_base(&'static self, base: usize) -> Option<&'static R> {
        let base = untagged(base);
        let is_of = |record: &&'static R| !record.is_free() && record.base() == base;
        self.owner(base - 1).filter(is_of).or_else(|| self.extras.all().find(is_of))
    }

    /// As [`Self::by_base`], for a stack that ends in one of exeunt's trampolines. Such a stack has
    /// a record, unless it was unloaded at the very moment of its return. This searches every
    /// record before it gives up: a stack that is not found is not drained.
    #[inline]
    pub(crate) fn draining_at(&'static self, base: usize) -> Option<&'static R> {
        let base = untagged(base);
        self.by_base(base).or_else(|| self.all().find(|record| !record.is_free() && record.base() == base))
    }

    /// The armed and the abandoned records of stacks whose bases are in `range`, and so all of
    /// those stacks. Each page is visited once, so the time is in proportion to the range. The
    /// caller may drain a record without making this visit earlier ones again.
    pub(crate) fn all_in(&'static self, range: Range<usize>) -> impl Iterator<Item = &'static R> {
        let range = untagged(range.start)..untagged(range.end);
        // In this order: see `by_base`.
        let inside =
            move |record: &&'static R| record.is_placed() && record.base() > range.start && record.base() <= range.end;
        let last = range.end.saturating_sub(1).min((1 << ADDRESS) - 1) >> PAGE;
        let mut page = range.start >> PAGE;
        let of_pages = std::iter::from_fn(move || {
            while page <= last {
                match self.pages.entry(page << PAGE) {
                    Some(entry) => {
                        page += 1;
                        // SAFETY: entries lead to the slab's items only, which live for ever.
                        if let Some(record) = unsafe { entry.owner().as_ref() } {
                            return Some(record);
                        }
                    }
                    // No stack was ever armed in all of this leaf.
                    None => page = ((page >> LEAF) + 1) << LEAF,
                }
            }
            None
        });
        // A stack of several pages comes up on each of them. Once it is drained, its record is no
        // longer placed.
        of_pages.chain(self.extras.all()).filter(inside)
    }

    /// Removes the blocks of `range` from their owners, whichever these are. Only the caller's own
    /// stack may be running there.
    pub(crate) fn remove_blocks(&'static self, range: &Range<usize>) {
        self.remove_blocks_if(range, |_| true);
    }

    /// Removes the blocks of `range` that `record` owns. Only the caller's own stack may be running
    /// there.
    pub(crate) fn remove_blocks_of(&'static self, record: &'static R, range: &Range<usize>) {
        self.remove_blocks_if(range, |entry| entry.is_owned_by(pointer(record)));
    }

    fn remove_blocks_if(&'static self, range: &Range<usize>, condition: impl Fn(&Entry<R>) -> bool) {
        let end = untagged(range.end).min(1 << ADDRESS);
        let mut sp = untagged(range.start) & !63;
        while sp < end {
            let next_page = ((sp >> PAGE) + 1) << PAGE;
            match self.pages.entry(sp) {
                Some(entry) => {
                    let last = end.min(next_page) - 1;
                    // From the block of `sp` to the block of `last`.
                    let blocks = (u64::MAX << ((sp >> 6) & 63)) & (u64::MAX >> (63 - ((last >> 6) & 63)));
                    if condition(entry) {
                        entry.remove_blocks(blocks);
                    }
                    sp = next_page;
                }
                // No stack was ever armed in all of this leaf.
                None => sp = ((sp >> PAGE >> LEAF) + 1) << LEAF << PAGE,
            }
        }
    }

    /// Whether any stack was ever armed.
    pub(crate) fn is_used(&self) -> bool {
        self.records.is_used()
    }

    /// Whether a live stack owns the entry of this address's page. Then the page's memory is
    /// mapped.
    pub(crate) fn is_of_live_stack(&'static self, address: usize) -> bool {
        address >> ADDRESS == 0 && self.owner(address).is_some_and(Owner::is_live)
    }

    /// Takes `record` out of the map.
    #[inline]
    pub(crate) fn remove(&'static self, record: &'static R) {
        self.clear_all(record.pages(), record);
        self.extras.remove(record);
    }

    /// The record at an address, if there is one.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn at(&'static self, address: usize) -> Option<&'static R> {
        self.records.at(address)
    }

    /// Every record that was ever used.
    pub(crate) fn all(&'static self) -> impl Iterator<Item = &'static R> {
        self.records.all()
    }

    /// Address space that the map has reserved, in bytes.
    pub(crate) fn reserved(&self) -> u64 {
        self.pages.reserved()
    }

    /// Clears the entries of a record's pages. A stack that has run code elsewhere, on a segment or
    /// under a fiber, may have pages far apart: leaves that are not mapped are passed at once.
    pub(super) fn clear_all(&'static self, pages: Range<usize>, record: &'static R) {
        let mut page = pages.start;
        while page < pages.end {
            match self.entry(page << PAGE) {
                Some(entry) => {
                    entry.clear(pointer(record));
                    page += 1;
                }
                None => page = ((page >> LEAF) + 1) << LEAF,
            }
        }
    }

    /// Takes the entry of a page away from `record`, if `record` owns it.
    #[inline]
    pub(super) fn clear(&'static self, page: usize, record: &'static R) {
        if let Some(entry) = self.entry(page << PAGE) {
            entry.clear(pointer(record));
        }
    }

    /// The record that owns, or is about to own, the entry of the page that `sp` is on.
    #[inline(always)]
    pub(super) fn owner(&'static self, sp: usize) -> Option<&'static R> {
        // SAFETY: entries lead to the slab's items only, which live for ever.
        unsafe { self.pages.entry(sp)?.owner().as_ref() }
    }

    #[inline(always)]
    pub(crate) fn entry(&'static self, sp: usize) -> Option<&'static Entry<R>> {
        self.pages.entry(sp)
    }
}
