//! Pins: a pin keeps a record from another base while a thread decides whether to take an entry
//! from it.
//!
//! A stack takes a page's entry from a record in two steps: it finds the record stale, and then
//! exchanges the entry. In between, the record could begin to serve a new stack whose base is on
//! that very page. Then the new stack would lose the entry that leads to it. So a pinned record
//! serves no stack with another base; there are other records.
//!
//! At the same base it may serve the next stack: no stack takes the entry of the base's page, and
//! unwinding finds again what the record loses on other pages. A C scope is not found by unwinding,
//! so it takes no pinned record.
//!
//! The pinning thread pins first, and then reads the entry's owner. The other thread clears the
//! record's entries first, and then reads the pin count. Both change the count by
//! read-modify-writes, so the second one sees the first. Without Acquire in `pin` or Release in
//! `is_pinned`, a thread might pin after the check and still read the old owner.

use crate::base::atomics::{AtomicU32, Ordering};

/// The number of threads that have pinned a record now.
pub(crate) struct PinCount(AtomicU32);

impl PinCount {
    pub(crate) fn new() -> Self {
        Self(AtomicU32::new(0))
    }

    /// Pins the record, until the result is dropped.
    pub(crate) fn pin(&self) -> Pinned<'_> {
        self.0.fetch_add(1, Ordering::AcqRel);
        Pinned(self)
    }

    /// Whether any thread has pinned the record. A pin stays for ever if its thread is missing in a
    /// child of `fork`, or if a signal handler has left its code by a jump.
    #[inline]
    pub(crate) fn is_pinned(&self) -> bool {
        self.0.fetch_add(0, Ordering::AcqRel) != 0
    }
}

/// A pin.
pub(crate) struct Pinned<'a>(&'a PinCount);

impl Drop for Pinned<'_> {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Release);
    }
}
