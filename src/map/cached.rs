//! Cached records: each is kept at the base of a stack that has ended, for the next stack there.
//!
//! The memory of a stack is mostly used again, for the next thread or fiber of the pool, and with
//! the same base. So the record stays where the stack map leads to it. The next stack with that
//! base takes it by one exchange, without the slab and without a change of the map.
//!
//! One of these takes a cached record: the next stack with its base (but see `pins.rs` for C
//! scopes); a stack that needs the entry of the same page; or a stack anywhere, where the slab has
//! no free record and would have to grow. Only records with low numbers are cached
//! ([`MAX_NUMBER`]). So memory that is never used as a stack again keeps no more than these.

use crate::base::atomics::{AtomicBool, Ordering};

/// The highest number of a record that may be cached: 300 KB of records.
pub(crate) const MAX_NUMBER: u32 = if cfg!(test) { 2 } else { 960 };

/// Whether a record is cached.
pub(crate) struct CachedFlag(AtomicBool);

impl CachedFlag {
    pub(crate) fn new() -> Self {
        Self(AtomicBool::new(false))
    }

    /// Caches the record. The caller has it to itself until then, and not afterwards.
    ///
    /// Release: without it, the stack that takes the record might not see what the last one wrote
    /// to it, nor that its owned blocks are cleared.
    #[inline]
    pub(crate) fn set(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Takes the record, if it is cached. Then the caller has it to itself. Acquire pairs with
    /// `set`; the load before it only saves an exchange.
    #[inline]
    pub(crate) fn take(&self) -> bool {
        self.0.load(Ordering::Relaxed)
            && self.0.compare_exchange(true, false, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }
}
