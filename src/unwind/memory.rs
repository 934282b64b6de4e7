//! The memory that a walk may read: every address is checked before it is read, and a walk goes
//! outwards, to higher addresses.
//!
//! An unwind table may mislead a walk: it may be of code that was replaced, or describe a frame
//! that a signal has interrupted half-way. So a walk keeps a range of pages that are known to be
//! readable. It begins with the page of the running code's stack pointer. A load in that range
//! takes two comparisons. Outside of it a walk asks the kernel, page by page.
//!
//! The range also shows the *segment* of memory that a frame lies in: a whole stack, or one of
//! several segments of a stack. Most segments are separated by pages that cannot be read. So two
//! frames count as contiguous only if every page between them can be read. A step by the frame
//! pointer needs more than that, as its frame has no fixed size: code that continues in a segment
//! of its own does so under its frame pointer, and segments may be cut out of one mapping, without
//! a guard page. So such a frame must also be no larger than one with a buffer of usual size. A
//! wrong answer «not contiguous» costs time only: that part is walked again each time.

use crate::machine::os::is_readable;
use std::sync::atomic::{AtomicPtr, Ordering};

/// The smallest page size of the supported processors.
pub(super) const PAGE: usize = 4096;
/// The largest frame. A step over a greater distance leads to another segment.
const LARGEST_FRAME: usize = 64 << 20;
/// A frame without a fixed size that is larger than this may span two segments.
pub(super) const LARGEST_BUFFER: usize = 16 * 1024;
/// A walk that has changed to another segment this often goes in a circle. Functions that grow
/// their stack by segments of their own (`stacker`) change to another segment each time.
const MOST_SEGMENTS: u32 = 1000;

/// What [`set_known_readable`] has set; null before.
static KNOWN_READABLE: AtomicPtr<()> = AtomicPtr::new(std::ptr::null_mut());

/// Sets a function with which walks find out that a page is readable without a system call. The
/// function must be right, and safe to call in a signal handler.
#[inline]
pub(crate) fn set_known_readable(known: fn(usize) -> bool) {
    // Every arming of a stack calls this, so the common case only reads.
    if KNOWN_READABLE.load(Ordering::Relaxed).is_null() {
        KNOWN_READABLE.store(known as *mut (), Ordering::Release);
    }
}

fn is_known_readable(address: usize) -> bool {
    let known = KNOWN_READABLE.load(Ordering::Acquire);
    if known.is_null() {
        return false;
    }
    // SAFETY: `set_known_readable` has stored a function of this type.
    let known = unsafe { std::mem::transmute::<*mut (), fn(usize) -> bool>(known) };
    known(address)
}

/// What is known of the memory around a frame: `low..high` can be read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Memory {
    low: usize,
    high: usize,
    /// How many steps have led to another segment, or not outwards.
    changes: u32,
}

impl Memory {
    /// The memory around the stack pointer of the running code.
    #[inline]
    pub(super) fn around(sp: usize) -> Self {
        let low = sp & !(PAGE - 1);
        Self { low, high: low + PAGE, changes: 0 }
    }

    /// An aligned word; `None` if it cannot be read.
    #[inline]
    pub(super) fn load(&self, address: usize) -> Option<usize> {
        // An aligned word whose first byte is in the range lies in it as a whole.
        let known = address.wrapping_sub(self.low) < self.high - self.low && address % 8 == 0;
        if !known {
            return self.load_elsewhere(address);
        }
        // SAFETY: the page was checked, or is one of the running code's. It belongs to a stack that
        // this walk has led to, so no thread unmaps it meanwhile.
        Some(unsafe { (address as *const usize).read_volatile() })
    }

    /// An aligned word of the range that is known to be readable; `None` elsewhere.
    #[inline(always)]
    pub(super) fn load_known(&self, address: usize) -> Option<usize> {
        let known = address.wrapping_sub(self.low) < self.high - self.low && address % 8 == 0;
        // SAFETY: as in `load`.
        known.then(|| unsafe { (address as *const usize).read_volatile() })
    }

    /// Whether the stack pointers of a frame and of its caller lie in one segment, in the range
    /// that is known to be readable.
    #[inline(always)]
    pub(super) fn is_known(&self, from: usize, to: usize) -> bool {
        from < to && to - self.low <= self.high - self.low
    }

    #[cold]
    #[inline(never)]
    fn load_elsewhere(&self, address: usize) -> Option<usize> {
        let readable = address % 8 == 0 && is_readable(address);
        // SAFETY: the word was checked. What an unwind table refers to outside of the stack belongs
        // to the code that it describes.
        readable.then(|| unsafe { (address as *const usize).read_volatile() })
    }

    /// Moves from a frame's stack pointer to its caller's. Returns whether both lie in one segment;
    /// `None` if the walk must not go there.
    #[inline]
    pub(super) fn advance(&mut self, from: usize, to: usize) -> Option<bool> {
        if self.is_known(from, to) {
            return Some(true);
        }
        self.advance_beyond(from, to)
    }

    #[cold]
    #[inline(never)]
    fn advance_beyond(&mut self, from: usize, to: usize) -> Option<bool> {
        if from < to && self.extend_to(to) {
            return Some(true);
        }
        self.changes += 1;
        if self.changes > MOST_SEGMENTS {
            return None;
        }
        if from == to {
            // A frame without a size: of a function that has stored nothing, or of a trampoline.
            return Some(true);
        }
        // Below the stack pointer of a caller there is at least a return address; above it there
        // may be no memory.
        let page = to.checked_sub(8)? & !(PAGE - 1);
        if !is_readable(page) {
            return None;
        }
        (self.low, self.high) = (page, page + PAGE);
        Some(false)
    }

    /// Extends the range to `end`, if every page on the way can be read.
    fn extend_to(&mut self, end: usize) -> bool {
        if end < self.low || end - self.low > LARGEST_FRAME {
            return false;
        }
        while self.high < end {
            if !is_known_readable(self.high) && !is_readable(self.high) {
                return false;
            }
            self.high += PAGE;
        }
        true
    }
}

/// Whether every page from that of `low` to the last one before `high` can be read.
#[cold]
pub(super) fn is_one_segment(low: usize, high: usize) -> bool {
    Memory::around(low).extend_to(high)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::os;

    /// Eight pages, one of which cannot be read.
    fn pages(forbidden: usize) -> usize {
        let memory = os::map_zeroes(8 * PAGE).expect("there is memory");
        // SAFETY: part of the mapping that was just made.
        let done = unsafe { libc::mprotect(memory.wrapping_byte_add(forbidden * PAGE), PAGE, libc::PROT_NONE) };
        assert_eq!(done, 0);
        memory.addr()
    }

    #[test]
    fn a_page_that_cannot_be_read_ends_a_segment() {
        let base = pages(4);
        let mut memory = Memory::around(base + 8);
        assert_eq!(memory.advance(base + 8, base + 2 * PAGE), Some(true));
        assert_eq!(memory.advance(base + 2 * PAGE, base + 4 * PAGE), Some(true), "up to the very end");
        assert_eq!(memory.load(base + 4 * PAGE - 8), Some(0));
        assert_eq!(memory.advance(base + 4 * PAGE - 16, base + 4 * PAGE + 8), None, "into what cannot be read");
        assert_eq!(memory.advance(base + 4 * PAGE - 16, base + 5 * PAGE + 16), Some(false), "over it");
        assert_eq!(memory.advance(base + 5 * PAGE + 16, base + 8 * PAGE), Some(true));
        assert!(is_one_segment(base, base + 4 * PAGE) && !is_one_segment(base, base + 4 * PAGE + 8));
    }

    #[test]
    fn memory_that_cannot_be_read_is_not_read() {
        let base = pages(4);
        let memory = Memory::around(base);
        assert_eq!(memory.load(base + 3 * PAGE), Some(0), "beyond what is known");
        assert_eq!([base + 4 * PAGE, base + 4, 0, usize::MAX - 7].map(|address| memory.load(address)), [None; 4]);
    }

    #[test]
    fn a_circle_of_segments_ends() {
        let base = pages(4);
        let mut memory = Memory::around(base);
        let mut steps = 0;
        while memory.advance(base + 64, base + 6 * PAGE).is_some()
            && memory.advance(base + 6 * PAGE, base + 64).is_some()
        {
            steps += 1;
            assert!(steps < 2 * MOST_SEGMENTS);
        }
        let mut memory = Memory::around(base);
        assert!((0..2 * MOST_SEGMENTS).any(|_| memory.advance(base + 64, base + 64).is_none()), "steps without a size");
    }
}
