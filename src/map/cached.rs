//! Records that wait at the base of a stack which has ended for the next stack there.
//!
//! Memory of stacks is mostly used again, for the next thread or fiber of the pool, and with the same base. Its record stays where
//! the page map leads to it; the next stack with that base has it by one exchange, without the slab and the map.
//!
//! A waiting record is whose who takes it: the next stack with its base (for C scopes see `pins.rs`); a stack on the same
//! page, in whose way it is; or one that needs a record, where the slab has none left and would grow. Only records with small
//! numbers wait ([`MAX_NUMBER`]): so that memory which is never used as a stack again keeps no more than these.

use crate::base::atomics::{AtomicBool, Ordering};

/// The highest number of a record that waits: 300 KB of records.
pub(crate) const MAX_NUMBER: u32 = if cfg!(test) { 2 } else { 960 };

/// Whether a record waits.
pub(crate) struct CachedFlag(AtomicBool);

impl CachedFlag {
    pub(crate) fn new() -> Self {
        Self(AtomicBool::new(false))
    }

    /// Lets the record wait. The caller has it to itself until then, and not any more.
    #[inline]
    pub(crate) fn set(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Takes the record, if it waits. Then the caller has it to itself.
    #[inline]
    pub(crate) fn take(&self) -> bool {
        self.0.load(Ordering::Relaxed)
            && self.0.compare_exchange(true, false, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }
}
