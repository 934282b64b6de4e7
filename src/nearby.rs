//! What each stack local remembers of the places it was lately used from: block of the stack → value.
//!
//! The page map and the record lead from any stack pointer to any value; this leads from the very block of 64 bytes that a
//! function's stack pointer is in to the very value, with half of the loads. A hit is as sure as one in the page map: it
//! needs the same block, once proven to belong to the record, and the same canary in the same foot.
//!
//! A stack only gives up places of its own: an entry is filled when it is empty, or by the stack that it belongs to. So
//! an entry for a block is changed by nobody but the stack which that block is of. That makes it safe to read the other
//! fields first and the block last: if it is the reader's own, so was all before.

use crate::record::Record;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

const PLACES: usize = 16;
/// In place of a block while an entry is being filled. No block has this number.
const FILLING: usize = usize::MAX;

#[repr(C, align(32))]
struct Place {
    value: AtomicPtr<u8>,
    foot: AtomicUsize,
    word: AtomicUsize,
    /// The block: stack pointer / 64. Zero is empty.
    block: AtomicUsize,
}

impl Place {
    const fn new() -> Self {
        Self {
            value: AtomicPtr::new(std::ptr::null_mut()),
            foot: AtomicUsize::new(0),
            word: AtomicUsize::new(0),
            block: AtomicUsize::new(0),
        }
    }
}

/// A stack local's places.
pub(crate) struct Nearby {
    places: [Place; PLACES],
}

#[inline(always)]
fn block(sp: usize) -> usize {
    sp >> 6
}

impl Nearby {
    pub(crate) const fn new() -> Self {
        Self { places: [const { Place::new() }; PLACES] }
    }

    /// Blocks of one stack are apart in their low bits, stacks of one size in the bits above 2^12 or 2^20.
    #[inline(always)]
    fn place(&self, sp: usize) -> &Place {
        let block = block(sp);
        &self.places[(block ^ (block >> 6) ^ (block >> 14)) % PLACES]
    }

    /// The value that was used from this place, if it is still there; else null.
    #[inline(always)]
    pub(crate) fn find(&self, sp: usize) -> *mut u8 {
        let place = self.place(sp);
        let value = place.value.load(Ordering::Acquire);
        let foot = place.foot.load(Ordering::Acquire);
        let word = place.word.load(Ordering::Acquire);
        if place.block.load(Ordering::Relaxed) != block(sp) {
            return std::ptr::null_mut();
        }
        // SAFETY: the entry is this stack's, so this is its foot, or the one of an earlier stack on this memory, whose
        // owner discards it before the memory is unmapped.
        let found = unsafe { (*(foot as *const AtomicUsize)).load(Ordering::Relaxed) };
        if found == word { value } else { std::ptr::null_mut() }
    }

    /// Remembers the value for this place, which is proven to be of the record's stack.
    pub(crate) fn remember(&self, sp: usize, record: &Record, value: *mut u8) {
        let place = self.place(sp);
        let now = place.block.load(Ordering::Relaxed);
        let own = now != FILLING && place.foot.load(Ordering::Relaxed) == record.foot();
        if now != 0 && !own {
            return;
        }
        if place.block.compare_exchange(now, FILLING, Ordering::AcqRel, Ordering::Relaxed).is_err() {
            return;
        }
        let (foot, word) = record.canary();
        place.value.store(value, Ordering::Release);
        place.foot.store(foot, Ordering::Release);
        place.word.store(word, Ordering::Release);
        place.block.store(block(sp), Ordering::Release);
    }

    /// Forgets the value, which is about to be dropped.
    pub(crate) fn forget(&self, value: *mut u8) {
        for place in &self.places {
            let now = place.block.load(Ordering::Relaxed);
            // The value's own stack is the only one to change a place that holds it.
            if now != 0 && now != FILLING && place.value.load(Ordering::Relaxed) == value {
                place.block.store(0, Ordering::Release);
            }
        }
    }
}
