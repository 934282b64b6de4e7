//! One page's entry in the page map: which record the stack pointers of this page lead to.
//!
//! An entry never vouches for a whole page, as two stacks can share one. It vouches for the blocks of 64 bytes in which
//! a stack pointer was once proven, by unwinding, to belong to the record's stack: bit N of `proven` stands for block N.
//!
//! | `record` | whose the entry is | what `proven` holds |
//! |---|---|---|
//! | zero | nobody's | what the last owner has proven |
//! | a record's address | about to be that record's: its stack's code is clearing the blocks; nobody else may | the same, or none |
//! | a record's address, and one | the record's | what it has proven; what another one adds that does not know yet, it takes back |
//!
//! Invariant, kept here: a bit that a reader sees set after it has loaded `record`, and found an owner there, was set for
//! that record, or for one that owned the entry later. The latter can only be the reader's own stack, where a signal handler
//! has proven the reader's block in between; they add_block none but their own (`foot.rs`). An owner may serve one stack after
//! another; then the bits are cleared when the one ends. `tests/model` checks it in all orders.
//!
//! A handler that leaves by a jump in the middle of a claim, or a `fork` on another thread there, leaves the entry as it is
//! then until its record ends: look-ups on this page go on by unwinding.

use crate::base::atomics::{AtomicPtr, AtomicU64, Ordering};
use std::hint::cold_path;

/// What is added to the address of a record that owns its entry.
const OWNER_BIT: usize = 1;

/// An entry of the page map. All zeros is an empty one.
#[repr(C)]
pub(crate) struct Entry<R> {
    blocks: AtomicU64,
    record: AtomicPtr<R>,
}

impl<R> Entry<R> {
    /// An empty entry, for the model checker (`tests/model`).
    #[cfg(test)]
    #[allow(dead_code, reason = "the library's own tests need none")]
    pub(crate) fn new() -> Self {
        Self { blocks: AtomicU64::new(0), record: AtomicPtr::new(std::ptr::null_mut()) }
    }

    /// The record that vouches for the block of `bit`. (Not a `NonNull`: of that the compiler would
    /// ask once more whether it is null.)
    #[inline(always)]
    pub(crate) fn find(&self, bit: u64) -> Option<*mut R> {
        let record = self.record.load(Ordering::Acquire);
        if self.blocks.load(Ordering::Relaxed) & bit == 0 || !has_owner_bit(record) {
            return None;
        }
        Some(record.map_addr(|address| address - OWNER_BIT))
    }

    /// The record that owns this entry, or is about to; or null.
    pub(crate) fn owner(&self) -> *mut R {
        without_owner_bit(self.record.load(Ordering::Acquire))
    }

    /// Whether `record` owns this entry.
    #[inline]
    pub(crate) fn is_owned_by(&self, record: *mut R) -> bool {
        self.record.load(Ordering::Acquire) == with_owner_bit(record)
    }

    /// Makes `record` the owner, unless another one is that `stale` does not give up. Returns whether it is.
    ///
    /// `stale` may be wrong about an owner that is just ending. That owner loses the entry, which costs it time only, as what
    /// leads to it is found again by unwinding: see `add_block`.
    #[inline]
    pub(crate) fn claim(&self, record: *mut R, stale: impl Fn(*mut R) -> bool) -> bool {
        let now = self.record.load(Ordering::Acquire);
        if now == with_owner_bit(record) {
            return true;
        }
        // One that is about to be owned is not for others, nor for a signal handler that has interrupted just this.
        let is_available = now.is_null() || has_owner_bit(now) && stale(without_owner_bit(now));
        if !is_available || self.record.compare_exchange(now, record, Ordering::AcqRel, Ordering::Relaxed).is_err() {
            return false;
        }
        // What the last owner proved must be gone before there is a next one: what `add_block` does to the same word comes before
        // this and is cleared, or after it and knows of the exchange above. (A swap, not a store: `loom` would let a store be
        // overtaken by the other side's read-modify-writes, which no processor does.)
        self.blocks.swap(0, Ordering::AcqRel);
        self.record.store(with_owner_bit(record), Ordering::Release);
        true
    }

    /// Adds a proven block for `record`, which has claimed this entry; only from its own stack.
    ///
    /// Somebody may have taken the entry away meanwhile. Either the clearing of the blocks comes after this block is
    /// added, or this reads what was written there, and so is told that the entry is gone: then it takes the block back
    /// before this stack's code goes on.
    #[inline]
    pub(crate) fn add_block(&self, record: *mut R, bit: u64) {
        self.blocks.fetch_or(bit, Ordering::AcqRel);
        if self.record.load(Ordering::Relaxed) != with_owner_bit(record) {
            cold_path();
            self.blocks.fetch_and(!bit, Ordering::AcqRel);
        }
    }

    /// Takes back all blocks. Only for the owner, on its stack, before that ends: until then no other stack's code runs in them.
    #[inline]
    pub(crate) fn clear_blocks(&self) {
        self.blocks.store(0, Ordering::Release);
    }

    /// Takes back proven blocks, of whichever record, that are not in use as a stack now.
    pub(crate) fn remove_blocks(&self, bits: u64) {
        self.blocks.fetch_and(!bits, Ordering::AcqRel);
    }

    /// Empties the entry if it is `record`'s, or was about to be, which the caller has to itself. Its blocks are cleared by whoever claims
    /// the entry next.
    #[inline]
    pub(crate) fn clear(&self, record: *mut R) {
        let now = self.record.load(Ordering::Relaxed);
        if without_owner_bit(now) == record {
            let _ = self.record.compare_exchange(now, std::ptr::null_mut(), Ordering::AcqRel, Ordering::Relaxed);
        }
    }
}

fn with_owner_bit<R>(record: *mut R) -> *mut R {
    record.map_addr(|address| address | OWNER_BIT)
}

fn has_owner_bit<R>(record: *mut R) -> bool {
    record.addr() & OWNER_BIT != 0
}

fn without_owner_bit<R>(record: *mut R) -> *mut R {
    record.map_addr(|address| address & !OWNER_BIT)
}

/// The pointer by which entries refer to a record.
pub(crate) fn pointer<R>(record: &R) -> *mut R {
    std::ptr::from_ref(record).cast_mut()
}
