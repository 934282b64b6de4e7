//! One page's entry in the page map: which record the stack pointers of this page lead to.
//!
//! An entry never vouches for a whole page, as two stacks can share one. It vouches for the blocks of 64 bytes in which
//! a stack pointer was once proven, by unwinding, to belong to the record's stack: bit N of `proven` stands for block N.
//!
//! Invariant, kept here: a bit that a reader sees set after it has loaded `record` was set for that record, or for one
//! that owned the entry later. Owners are changed by clearing the bits first, and readers load `record` first.

use crate::sync::{AtomicPtr, AtomicU64, Ordering};

/// An entry of the page map. All zeros is an empty one.
#[repr(C)]
pub(crate) struct Entry<R> {
    proven: AtomicU64,
    record: AtomicPtr<R>,
}

impl<R> Entry<R> {
    /// An empty entry.
    #[cfg(loom)]
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
    pub(crate) fn claim(&self, record: *mut R, stale: impl Fn(*mut R) -> bool) -> bool {
        let owner = self.record.load(Ordering::Acquire);
        if owner == record {
            return true;
        }
        if !owner.is_null() {
            if !stale(owner) {
                return false;
            }
            self.proven.store(0, Ordering::Release);
        }
        self.record.compare_exchange(owner, record, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// Adds a proven block; only for the owner, from its own stack.
    pub(crate) fn prove(&self, bit: u64) {
        if self.proven.load(Ordering::Relaxed) & bit == 0 {
            self.proven.fetch_or(bit, Ordering::Release);
        }
    }

    /// Empties the entry if `record` owns it.
    pub(crate) fn clear(&self, record: *mut R) {
        if self.record.load(Ordering::Acquire) == record {
            self.proven.store(0, Ordering::Release);
            let _ = self.record.compare_exchange(record, std::ptr::null_mut(), Ordering::AcqRel, Ordering::Relaxed);
        }
    }
}
