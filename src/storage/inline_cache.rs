//! Inline caches: each stack local (and dynamic slot) keeps the values that it was lately used for,
//! by block of the stack.
//!
//! The operations are `find`, `remember`, `forget`, and for all caches `invalidate_range` and
//! `invalidate_stack`.
//!
//! The stack map and the record lead from any stack pointer to any value. An inline cache leads
//! from the very block of 64 bytes that holds a function's stack pointer to the very value, with
//! half of the loads. A hit is as sure as one in the stack map: it needs the same block, which
//! unwinding has once shown to be the stack's, and the same word in the same canary.
//!
//! A stack replaces only entries of its own: it fills an entry that is empty, or that belongs to it
//! already. So only the stack of a block changes an entry for that block. A reader that finds its
//! own block races with nothing but signal handlers on its own stack, before or between its loads.
//! They may fill the entry anew. Therefore the value is loaded last: once the canary's word is that
//! of the stack's present generation, so is the value. The loads need no ordering but the
//! program's, since the writer is on the same stack.
//!
//! The next stack on the same memory often has the same canary word. So a value is removed before
//! it is dropped, and all entries of an abandoned stack are removed before the next one there is
//! armed.

use crate::machine::arch::{self, cache_entry};
use std::mem::offset_of;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicPtr, AtomicU8, AtomicUsize, Ordering};

const ENTRIES: usize = 16;
/// A block is multiplied by this, and the upper bits of the product are its entry. Found by trial
/// for the distances at which stacks lie (see the test below). The golden ratio's multiplier serves
/// some of them badly.
const SPREAD: u32 = 0x8abb_badb;
/// The block of an entry that is being filled. No block has this number.
const FILLING: usize = usize::MAX;

/// 64 bytes of a stack, by number.
#[derive(Clone, Copy)]
pub(crate) struct Block(usize);

impl Block {
    #[inline(always)]
    fn of(sp: usize) -> Self {
        Self(arch::untagged(sp) >> 6)
    }

    /// The block that holds the stack pointer of the function into which this is inlined.
    #[inline(always)]
    pub(crate) fn here() -> Self {
        Self(arch::stack_block())
    }

    /// A stack pointer in it.
    #[inline(always)]
    pub(crate) fn stack_pointer(self) -> usize {
        self.0 << 6
    }
}

#[repr(C, align(32))]
pub(crate) struct CacheEntry {
    value: AtomicPtr<u8>,
    canary_at: AtomicUsize,
    canary_word: AtomicUsize,
    /// The block. Zero is empty.
    block: AtomicUsize,
}

impl CacheEntry {
    const fn new() -> Self {
        Self {
            value: AtomicPtr::new(std::ptr::null_mut()),
            canary_at: AtomicUsize::new(0),
            canary_word: AtomicUsize::new(0),
            block: AtomicUsize::new(0),
        }
    }
}

/// A stack local's entries.
pub(crate) struct InlineCache {
    entries: [CacheEntry; ENTRIES],
    /// Whether the cache is in the list of all that were ever used: `ABSENT`, `ON_THE_WAY` or
    /// `LISTED`.
    listed: AtomicU8,
    /// The next cache in that list.
    next: AtomicPtr<InlineCache>,
}

const ABSENT: u8 = 0;
const ON_THE_WAY: u8 = 1;
const LISTED: u8 = 2;

/// The first cache in the list of all that were ever used. The list only grows.
static ALL: AtomicPtr<InlineCache> = AtomicPtr::new(std::ptr::null_mut());

// `arch::hits` reads these.
const _: () = assert!(
    offset_of!(CacheEntry, canary_at) == cache_entry::CANARY_AT
        && offset_of!(CacheEntry, canary_word) == cache_entry::CANARY_AT + 8
        && offset_of!(CacheEntry, block) == cache_entry::BLOCK
);

impl InlineCache {
    pub(crate) const fn new() -> Self {
        Self {
            entries: [const { CacheEntry::new() }; ENTRIES],
            listed: AtomicU8::new(ABSENT),
            next: AtomicPtr::new(std::ptr::null_mut()),
        }
    }

    /// Adds the cache to the list of all, once. Until then it holds no entry, since
    /// `invalidate_stack` would not find it. The head is published with Release, and `listed` after
    /// it, likewise: without that, `remember` could fill a cache that another thread does not find
    /// in the list.
    pub(crate) fn register(&'static self) {
        if self.listed.compare_exchange(ABSENT, ON_THE_WAY, Ordering::Relaxed, Ordering::Relaxed).is_err() {
            return;
        }
        let this = std::ptr::from_ref(self).cast_mut();
        let mut first = ALL.load(Ordering::Acquire);
        loop {
            self.next.store(first, Ordering::Relaxed);
            match ALL.compare_exchange(first, this, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return self.listed.store(LISTED, Ordering::Release),
                Err(now) => first = now,
            }
        }
    }

    /// The offset of the block's entry in `entries`, in bytes. Nearby blocks of one stack, and the
    /// same blocks of its neighbours, must have distinct entries: one multiplication does both.
    #[inline(always)]
    fn offset(block: Block) -> usize {
        let mixed = (block.0 as u32).wrapping_mul(SPREAD);
        (mixed >> (u32::BITS - ENTRIES.trailing_zeros())) as usize * size_of::<CacheEntry>()
    }

    #[inline(always)]
    fn entry(&self, block: Block) -> &CacheEntry {
        &self.entries[Self::offset(block) / size_of::<CacheEntry>()]
    }

    /// The value that was used from this block, if it is still there.
    #[inline(always)]
    pub(crate) fn find(&self, block: Block) -> Option<NonNull<u8>> {
        // SAFETY: only the running stack fills an entry of this block. So the entry's canary is
        // that stack's, or that of an earlier stack on this memory, whose owner discards it before
        // the memory is unmapped.
        if unsafe { arch::hits(self.entries.as_ptr().cast(), Self::offset(block), block.0) } {
            // SAFETY: a filled entry has a value, and is never filled with none.
            Some(unsafe { NonNull::new_unchecked(self.entry(block).value.load(Ordering::Relaxed)) })
        } else {
            crate::base::cold::cold_path();
            None
        }
    }

    /// Notes the value for this block, which the stack map has for the record's stack.
    ///
    /// `block` is `FILLING` meanwhile, and all stores are Releases in this order: without that, a
    /// signal handler on this stack could find the block with another stack's value. A cache that
    /// is not listed yet is not filled (Acquire, see `register`).
    pub(crate) fn remember(&self, block: Block, canary: (usize, usize), value: *mut u8) {
        let (canary_at, canary_word) = canary;
        if self.listed.load(Ordering::Acquire) != LISTED {
            return;
        }
        let entry = self.entry(block);
        let now = entry.block.load(Ordering::Relaxed);
        let own = now != FILLING && entry.canary_at.load(Ordering::Relaxed) == canary_at;
        if now != 0 && !own {
            return;
        }
        if entry.block.compare_exchange(now, FILLING, Ordering::AcqRel, Ordering::Relaxed).is_err() {
            return;
        }
        entry.value.store(value, Ordering::Release);
        entry.canary_at.store(canary_at, Ordering::Release);
        entry.canary_word.store(canary_word, Ordering::Release);
        entry.block.store(block.0, Ordering::Release);
    }

    /// Removes the value, which is about to be dropped.
    pub(crate) fn forget(&self, value: *mut u8) {
        for entry in &self.entries {
            let now = entry.block.load(Ordering::Relaxed);
            // Only the value's own stack changes an entry that holds it, or the stack that drains
            // it instead.
            if now != 0 && now != FILLING && entry.value.load(Ordering::Relaxed) == value {
                entry.block.store(0, Ordering::Release);
            }
        }
    }
}

/// All caches that were ever used.
fn all() -> impl Iterator<Item = &'static InlineCache> {
    let mut next = ALL.load(Ordering::Acquire);
    std::iter::from_fn(move || {
        // SAFETY: only statics are enlisted.
        let cache = unsafe { next.as_ref() }?;
        next = cache.next.load(Ordering::Relaxed);
        Some(cache)
    })
}

/// Removes all entries for which `which` is true. They must belong to stacks that do not run, or to
/// the calling one.
fn forget_where(which: impl Fn(&CacheEntry, usize) -> bool) {
    for entry in all().flat_map(|cache| &cache.entries) {
        let now = entry.block.load(Ordering::Acquire);
        if now != 0 && now != FILLING && which(entry, now) {
            // An entry that its stack is just filling for another block no longer matches.
            let _ = entry.block.compare_exchange(now, 0, Ordering::AcqRel, Ordering::Relaxed);
        }
    }
}

/// Removes the entries of blocks in `range`, where no stack runs.
pub(crate) fn invalidate_range(range: &Range<usize>) {
    forget_where(|_, now| (Block::of(range.start).0..=Block::of(range.end).0).contains(&now));
}

/// Removes the entries of the stack whose foot or canary is at one of these addresses, and which
/// will not run any more.
pub(crate) fn invalidate_stack(feet: [usize; 2]) {
    forget_where(|entry, _| feet.contains(&entry.canary_at.load(Ordering::Relaxed)));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The number of distinct entries of `count` stack pointers that lie `distance` apart.
    fn places_of(distance: usize, highest: usize, count: usize) -> usize {
        let cache = InlineCache::new();
        let mut entries: Vec<_> =
            (0..count).map(|number| std::ptr::from_ref(cache.entry(Block::of(highest - number * distance)))).collect();
        entries.sort_unstable();
        entries.dedup();
        entries.len()
    }

    #[test]
    fn neighbours_have_places_of_their_own() {
        const KI: usize = 1 << 10;
        const MI: usize = 1 << 20;
        // Blocks of one stack; stacks of usual sizes; and the same with a guard page.
        let sizes =
            [64, 128, 4 * KI, 8 * KI, 16 * KI, 32 * KI, 64 * KI, 128 * KI, 256 * KI, 512 * KI, MI, 2 * MI, 8 * MI];
        for size in sizes {
            for distance in [size, size + 4 * KI] {
                let bases = (0..64).map(|base| 0x7fff_8123_4560 + base * 0x1_2345_6780);
                let found: usize = bases.map(|base| places_of(distance, base, 8)).sum();
                assert!(found >= 64 * 13 / 2, "{distance:#x} apart: {} of 8", found as f64 / 64.0);
            }
        }
    }
}
