//! Who is about to take a page's entry from a record, because that is of no stack any more.
//!
//! Pinned and taking are two steps. If the record began another life in between, with its base in that very page, the
//! new stack would lose the entry that leads to it. So a record that somebody pins begins no life at another base; there
//! are others. At the same base it may: the page of that is never taken, and what is lost of other pages is found again by
//! unwinding. (A C scope is not; so it takes no record that is judged.)
//!
//! Whoever pins says so first, and then looks whose the entry is; whoever is about to use a record elsewhere has had its
//! entries emptied first, and then asks whether somebody pins. Both are read-modify-writes of one word: the first of the
//! two is known to the second.

use crate::base::atomics::{AtomicU32, Ordering};

/// How many judge a record now.
pub(crate) struct PinCount(AtomicU32);

impl PinCount {
    pub(crate) fn new() -> Self {
        Self(AtomicU32::new(0))
    }

    /// Begins to judge, until what this returns is dropped.
    pub(crate) fn pin(&self) -> Pinned<'_> {
        self.0.fetch_add(1, Ordering::AcqRel);
        Pinned(self)
    }

    /// Whether anybody does. One whose thread a child of `fork` does not have stays for ever, and so does one that a signal
    /// handler has jumped out of.
    #[inline]
    pub(crate) fn is_pinned(&self) -> bool {
        self.0.fetch_add(0, Ordering::AcqRel) != 0
    }
}

/// One that pins.
pub(crate) struct Pinned<'a>(&'a PinCount);

impl Drop for Pinned<'_> {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Release);
    }
}
