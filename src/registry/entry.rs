//! One page's entry in the page map: which record the stack pointers of this page lead to.
//!
//! An entry never vouches for a whole page, as two stacks can share one. It vouches for the blocks of 64 bytes in which
//! a stack pointer was once proven, by unwinding, to belong to the record's stack: bit N of `proven` stands for block N.
//!
//! Invariant, kept here: a bit that a reader sees set after it has loaded `record` was set for that record, or for one
//! that owned the entry later. Between two owners there is none, and then the bits are cleared; readers load `record`
//! first. An owner may serve one stack after another; then the bits are cleared when the one ends. `tests/model` checks it
//! in all orders.

use crate::sync::{AtomicPtr, AtomicU64, Ordering};
use std::hint::cold_path;

/// An entry of the page map. All zeros is an empty one.
#[repr(C)]
pub(crate) struct Entry<R> {
    proven: AtomicU64,
    record: AtomicPtr<R>,
}

impl<R> Entry<R> {
    /// An empty entry, for the model checker (`tests/model`).
    #[cfg(test)]
    #[allow(dead_code, reason = "the library's own tests need none")]
    pub(crate) fn new() -> Self {
        Self { proven: AtomicU64::new(0), record: AtomicPtr::new(std::ptr::null_mut()) }
    }

    /// The record that vouches for the block of `bit`, or null.
    #[inline(always)]
    pub(crate) fn find(&self, bit: u64) -> *mut R {
        let record = self.record.load(Ordering::Acquire);
        if self.proven.load(Ordering::Relaxed) & bit == 0 { std::ptr::null_mut() } else { record }
    }

    /// The record that owns this entry, or null.
    pub(crate) fn owner(&self) -> *mut R {
        self.record.load(Ordering::Acquire)
    }

    /// Makes `record` the owner, unless another one is that `stale` does not give up. Returns whether it is.
    ///
    /// `stale` may be wrong about an owner that is just ending, or of which it has seen an earlier life. That owner loses
    /// the entry, which costs it time only: see `prove`. (The page of an owner's top is not to be lost: `judges.rs`.)
    #[inline]
    pub(crate) fn claim(&self, record: *mut R, stale: impl Fn(*mut R) -> bool) -> bool {
        let null = std::ptr::null_mut();
        let owner = self.record.load(Ordering::Acquire);
        if owner == record {
            return true;
        }
        let taken_away = |owner| {
            stale(owner) && self.record.compare_exchange(owner, null, Ordering::AcqRel, Ordering::Relaxed).is_ok()
        };
        if !owner.is_null() && !taken_away(owner) {
            return false;
        }
        // Nobody's now. What the last owner proved must be gone before there is a next one: what `prove` does to the same
        // word comes before this and is cleared, or after it and knows of the exchange above. (A swap, not a store: `loom`
        // would let a store be overtaken by the other side's read-modify-writes, which no processor does.)
        self.proven.swap(0, Ordering::AcqRel);
        self.record.compare_exchange(null, record, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// Adds a proven block for `record`, which has claimed this entry; only from its own stack.
    ///
    /// Somebody may have taken the entry away meanwhile. Either the clearing of the blocks comes after this block is
    /// added, or this reads what was written there, and so is told that the entry is gone: then it takes the block back
    /// before any code of this stack can look there.
    #[inline]
    pub(crate) fn prove(&self, record: *mut R, bit: u64) {
        self.proven.fetch_or(bit, Ordering::AcqRel);
        if self.record.load(Ordering::Relaxed) != record {
            cold_path();
            self.proven.fetch_and(!bit, Ordering::AcqRel);
        }
    }

    /// Takes back all blocks. Only for the owner, on its stack, before that ends: until then no other stack's code runs in them.
    #[inline]
    pub(crate) fn disprove_all(&self) {
        self.proven.store(0, Ordering::Release);
    }

    /// Takes back proven blocks, of whichever record, that are not in use as a stack now.
    pub(crate) fn disprove(&self, bits: u64) {
        self.proven.fetch_and(!bits, Ordering::AcqRel);
    }

    /// Empties the entry if `record` owns it. Its blocks are cleared by whoever claims the entry next.
    #[inline]
    pub(crate) fn clear(&self, record: *mut R) {
        let _ = self.record.compare_exchange(record, std::ptr::null_mut(), Ordering::AcqRel, Ordering::Relaxed);
    }
}
