//! [`StackId`]: the identity of an armed stack.

use std::fmt;
use std::num::NonZeroU64;
use std::sync::atomic::{AtomicU64, Ordering};

/// The identity of an armed stack. It is never zero, and no other stack of the process ever has it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct StackId(NonZeroU64);

impl StackId {
    /// How many identities a record takes at once, so that stacks which are armed at the same time
    /// rarely write to the shared counter.
    pub(crate) const BATCH: u64 = 1024;

    /// The first identity of a fresh batch. The caller owns it and all that follow, up to and
    /// including the next multiple of [`Self::BATCH`]. No process uses up 2^64 of them.
    pub(crate) fn batch() -> u64 {
        static TAKEN: AtomicU64 = AtomicU64::new(0);
        TAKEN.fetch_add(Self::BATCH, Ordering::Relaxed) + 1
    }

    pub(crate) fn from_raw(raw: u64) -> Option<Self> {
        NonZeroU64::new(raw).map(Self)
    }

    /// The number.
    pub fn get(self) -> u64 {
        self.0.get()
    }
}

impl fmt::Display for StackId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
