//! Who is about to take a page's entry from a record, because that is of no stack any more.
//!
//! Judging and taking are two steps. If the record began another life in between, with its top in that very page, the
//! new stack would lose the entry that leads to it. So a record that somebody judges begins no life at another top; there
//! are others. At the same top it may: the page of that is never taken, and what is lost of other pages is found again by
//! unwinding. (A C scope is not; so it takes no record that is judged.)
//!
//! Whoever judges says so first, and then looks whose the entry is; whoever is about to use a record elsewhere has had its
//! entries emptied first, and then asks whether somebody judges. Both are read-modify-writes of one word: the first of the
//! two is known to the second.

use crate::base::atomics::{AtomicU32, Ordering};

/// How many judge a record now.
pub(crate) struct Judges(AtomicU32);

impl Judges {
    pub(crate) fn new() -> Self {
        Self(AtomicU32::new(0))
    }

    /// Begins to judge, until what this returns is dropped.
    pub(crate) fn begin(&self) -> Judging<'_> {
        self.0.fetch_add(1, Ordering::AcqRel);
        Judging(self)
    }

    /// Whether anybody does. One whose thread a child of `fork` does not have stays for ever, and so does one that a signal
    /// handler has jumped out of.
    #[inline]
    pub(crate) fn are_there(&self) -> bool {
        self.0.fetch_add(0, Ordering::AcqRel) != 0
    }
}

/// One that judges.
pub(crate) struct Judging<'a>(&'a Judges);

impl Drop for Judging<'_> {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Release);
    }
}
