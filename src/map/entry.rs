//! One page's entry in the stack map: the record to which the stack pointers of this page lead.
//!
//! Two stacks can share a page. So an entry holds not for the whole page, but for owned blocks:
//! those blocks of 64 bytes in which unwinding has shown a stack pointer to be on the record's
//! stack. Bit N of `blocks` stands for block N.
//!
//! | operation | by |
//! |---|---|
//! | `find`, `owner`, `is_owned_by` | any code, at any time |
//! | `claim`, `add_block` | the code of the claiming record's stack |
//! | `clear_blocks`, `clear` | code that has the record to itself |
//! | `remove_blocks` | code that names memory where no other stack runs |
//!
//! | `record` | owner | `blocks` |
//! |---|---|---|
//! | zero | none | those of the last owner |
//! | a record's address | that record is about to become the owner: its stack's code is clearing the blocks, and no other code may claim the entry | those of the last owner, or none |
//! | a record's address, and one | that record | those of this owner. A record that has just lost the entry may add one: it detects that, and removes the block again |
//!
//! Invariant, which this file keeps: a reader loads `record`, finds an owner, and then sees a bit.
//! That bit was set for this owner, or for a later owner of the entry. A later owner can only be
//! the reader's own stack, where a signal handler has added the reader's block in between; walks
//! add only blocks of their own stack (`exit/walk.rs`). An owner may serve one stack after another:
//! its bits are cleared when each stack ends. `tests/model` checks the invariant in all orders.
//!
//! A signal handler may leave a claim in the middle by a jump, or another thread may `fork` there.
//! Then the entry stays as it is until its record's stack ends, and look-ups on this page go on by
//! unwinding.

use crate::base::atomics::{AtomicPtr, AtomicU64, Ordering};
use crate::base::cold::cold_path;

/// The bit that is added to the address of a record that owns its entry.
const OWNER_BIT: usize = 1;

/// An entry of the stack map. An entry of zeros is empty.
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

    /// The owner of the block of `bit`.
    ///
    /// Not a `NonNull`: the compiler would check once more whether that is null. `record` is loaded
    /// first, with Acquire, which pairs with the Release store in [`Entry::claim`]. Without it, or
    /// in the other order, a reader might see the new owner together with the last owner's blocks,
    /// and so find another stack's record.
    #[inline(always)]
    pub(crate) fn find(&self, bit: u64) -> Option<*mut R> {
        let record = self.record.load(Ordering::Acquire);
        if self.blocks.load(Ordering::Relaxed) & bit == 0 || !has_owner_bit(record) {
            return None;
        }
        Some(record.map_addr(|address| address - OWNER_BIT))
    }

    /// The record that owns this entry, or is about to own it; or null.
    pub(crate) fn owner(&self) -> *mut R {
        without_owner_bit(self.record.load(Ordering::Acquire))
    }

    /// Whether `record` owns this entry.
    #[inline]
    pub(crate) fn is_owned_by(&self, record: *mut R) -> bool {
        self.record.load(Ordering::Acquire) == with_owner_bit(record)
    }

    /// Makes `record` the owner, unless another record owns the entry and `stale` is false for it.
    /// Returns whether `record` is the owner.
    ///
    /// `stale` may be wrong about an owner whose stack is just ending. That owner loses the entry,
    /// which only costs time: unwinding finds its stack again, see [`Entry::add_block`].
    ///
    /// Acquire: what `clear` has done before is visible, so the decision of `stale` and the pin
    /// that guards it (`pins.rs`) are about this owner.
    #[inline]
    pub(crate) fn claim(&self, record: *mut R, stale: impl Fn(*mut R) -> bool) -> bool {
        let now = self.record.load(Ordering::Acquire);
        if now == with_owner_bit(record) {
            return true;
        }
        // An entry that another record is about to own is not available, nor one whose claim this
        // signal handler has just interrupted.
        let is_available = now.is_null() || has_owner_bit(now) && stale(without_owner_bit(now));
        if !is_available || self.record.compare_exchange(now, record, Ordering::AcqRel, Ordering::Relaxed).is_err() {
            return false;
        }
        // The last owner's blocks must be gone before there is a next owner. `add_block` changes
        // the same word: it does so before this swap, and its block is cleared; or after it, and
        // then it sees the exchange above (the swap releases it). A swap and not a store: `loom`
        // would let the other side's read-modify-writes overtake a store, which no processor does.
        //
        // The store below is a Release, so that a reader which sees the owner sees the cleared
        // blocks.
        self.blocks.swap(0, Ordering::AcqRel);
        self.record.store(with_owner_bit(record), Ordering::Release);
        true
    }

    /// Adds a block for `record`, which has claimed this entry. Only `record`'s own stack may call
    /// this.
    ///
    /// Another stack may have taken the entry meanwhile. Then either its swap in `claim` comes
    /// after this block is added, and clears it; or this reads the swap's result, with Acquire, and
    /// so sees the new owner. In the second case it removes the block before this stack's code goes
    /// on. Without these orderings a block might stay with an owner that does not have it.
    #[inline]
    pub(crate) fn add_block(&self, record: *mut R, bit: u64) {
        self.blocks.fetch_or(bit, Ordering::AcqRel);
        if self.record.load(Ordering::Relaxed) != with_owner_bit(record) {
            cold_path();
            self.blocks.fetch_and(!bit, Ordering::AcqRel);
        }
    }

    /// Removes all blocks. Only the owner may call this, on its stack, before that ends: until then
    /// no other stack's code runs in these blocks. [`super::cached::CachedFlag`] orders it before
    /// the next stack.
    #[inline]
    pub(crate) fn clear_blocks(&self) {
        self.blocks.store(0, Ordering::Release);
    }

    /// Removes blocks, whichever record owns them. No stack may be in use there but the caller's
    /// own.
    pub(crate) fn remove_blocks(&self, bits: u64) {
        self.blocks.fetch_and(!bits, Ordering::AcqRel);
    }

    /// Empties the entry if `record` owns it, or was about to. The caller must have the record to
    /// itself. The next claim of the entry clears the blocks.
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
