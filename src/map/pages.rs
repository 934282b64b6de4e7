//! Page → entry: a table of two levels, a static root and leaves that are mapped at the first use
//! of one of their pages.

use super::entry::Entry;
use crate::base::atomics::{AtomicPtr, AtomicU64, Ordering};
use crate::base::cold::cold_path;
use crate::machine::arch::untagged;
use crate::machine::os;

/// Bits of an address within a page of the map. The processor's pages may be larger, which makes
/// no difference here.
pub(crate) const PAGE: u32 = 12;
/// Bits of a page's number within a leaf. A leaf covers half a GiB of addresses by 2 MiB of
/// entries, of which only touched pages cost memory.
pub(crate) const LEAF: u32 = 17;
/// Bits of an address that the map covers: all that Linux and macOS give unless a program asks for
/// more.
pub(crate) const ADDRESS: u32 = 48;
const ROOT: usize = 1 << (ADDRESS - PAGE - LEAF);

/// The table. Its addresses are without tags (`arch::untagged`).
pub(super) struct Pages<R> {
    root: [AtomicPtr<Entry<R>>; ROOT],
    /// Bytes of address space that the leaves take.
    leaves: AtomicU64,
}

/// The bit of the 64-byte block that `sp` is in, among the blocks of its page.
#[inline(always)]
pub(super) fn block_bit(sp: usize) -> u64 {
    1 << ((sp >> 6) & 63)
}

/// The page that the last word of a stack is on.
#[inline]
pub(crate) fn page_of_base(base: usize) -> usize {
    untagged(base).wrapping_sub(1) >> PAGE
}

impl<R> Pages<R> {
    pub(super) const fn new() -> Self {
        Self { root: [const { AtomicPtr::new(std::ptr::null_mut()) }; ROOT], leaves: AtomicU64::new(0) }
    }

    /// The entry of the page that `sp` is on, if its leaf is mapped.
    #[inline(always)]
    pub(super) fn entry(&self, sp: usize) -> Option<&Entry<R>> {
        let page = sp >> PAGE;
        // Beyond the map there is no entry, so that no other page is mistaken for this one on a
        // processor with addresses of more bits.
        let leaf = self.root.get(page >> LEAF)?.load(Ordering::Acquire);
        if leaf.is_null() {
            return None;
        }
        // SAFETY: a leaf has 2^LEAF entries and is never unmapped. They are zero at first, which is
        // a valid empty entry.
        Some(unsafe { &*leaf.add(page & ((1 << LEAF) - 1)) })
    }

    /// The entry of the page that `sp` is on; maps its leaf if need be. `None` outside the map, or
    /// without memory.
    #[inline]
    pub(super) fn ensure_entry(&self, sp: usize) -> Option<&Entry<R>> {
        if sp >> ADDRESS != 0 {
            return None;
        }
        let found = self.entry(sp);
        if found.is_none() {
            cold_path();
            return self.map_leaf(sp);
        }
        found
    }

    fn map_leaf(&self, sp: usize) -> Option<&Entry<R>> {
        let size = size_of::<Entry<R>>() << LEAF;
        let leaf = os::map_zeroes(size)?;
        let place = self.root.get(sp >> PAGE >> LEAF)?;
        if place.compare_exchange(std::ptr::null_mut(), leaf.cast(), Ordering::AcqRel, Ordering::Acquire).is_err() {
            // SAFETY: another thread was first; no other code has seen this mapping.
            unsafe { os::unmap(leaf, size) };
        } else {
            self.leaves.fetch_add(size as u64, Ordering::Relaxed);
        }
        self.entry(sp)
    }

    /// Address space that the leaves take, in bytes. Only touched pages of it are resident.
    pub(super) fn reserved(&self) -> u64 {
        self.leaves.load(Ordering::Relaxed)
    }
}
