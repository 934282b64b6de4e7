//! The memory that a walk reads: every address is known to be readable before it is read, and a walk goes upwards.
//!
//! What a walk is told by an unwind table need not be true: of code that was replaced, or of a frame that a signal has met
//! half-way. So it keeps a range of pages that are known to be readable, which begins with the page that the running code's
//! stack pointer is on. An address in it is read at the cost of two comparisons. Beyond it the kernel is asked, page by page.
//!
//! The range is also what is known of the *piece of memory* that the frame lies on: a stack, or one of several segments of
//! one. Most are isolated by pages that cannot be read. So two frames are on one piece only if every page between them can be
//! read. Where a step goes by the frame pointer, whose frame has no fixed size, that is not enough: code that goes on in a
//! segment of its own does so under its frame pointer, and segments can be cut out of one mapping, without a guard. So
//! such a frame must not be larger than one that holds a buffer of usual size, either. What is not taken for one piece is only
//! slower: it is walked again each time.

use crate::machine::os::is_readable;
use std::sync::atomic::{AtomicPtr, Ordering};

/// No processor here has smaller pages.
pub(super) const PAGE: usize = 4096;
/// A frame that is larger than this is taken for none: where a step leads further away, it leads to another piece.
const LARGEST_FRAME: usize = 64 << 20;
/// A frame without a fixed size that is larger than this may be on two pieces.
pub(super) const LARGEST_BUFFER: usize = 16 * 1024;
/// A walk that has gone on in another piece so often goes in a circle. Functions that grow their stack by segments of their own
/// (`stacker`) go to another piece with each.
const MOST_PIECES: u32 = 1000;

/// What [`set_known`] has set; null before.
static KNOWN: AtomicPtr<()> = AtomicPtr::new(std::ptr::null_mut());

/// Lets walks take a page for readable without asking the kernel where `known` says so of its
/// address. `known` must be right, and safe to call in a signal handler.
#[inline]
pub(crate) fn set_known(known: fn(usize) -> bool) {
    // Every stack that is armed comes here, so that the usual case only reads.
    if KNOWN.load(Ordering::Relaxed).is_null() {
        KNOWN.store(known as *mut (), Ordering::Release);
    }
}

fn is_known(address: usize) -> bool {
    let known = KNOWN.load(Ordering::Acquire);
    if known.is_null() {
        return false;
    }
    // SAFETY: `set_known` stored a function of this type.
    let known = unsafe { std::mem::transmute::<*mut (), fn(usize) -> bool>(known) };
    known(address)
}

/// What is known of the memory around a frame.
#[derive(Clone, Copy, Debug)]
pub(super) struct Memory {
    low: usize,
    high: usize,
    /// How often a step has led to another piece, or has not led upwards.
    turns: u32,
}

impl Memory {
    /// The memory around the stack pointer of the running code.
    #[inline]
    pub(super) fn around(sp: usize) -> Self {
        let low = sp & !(PAGE - 1);
        Self { low, high: low + PAGE, turns: 0 }
    }

    /// An aligned word, if it can be read.
    #[inline]
    pub(super) fn load(&self, address: usize) -> Option<usize> {
        // An aligned word whose first byte is in the range is all in it.
        let known = address.wrapping_sub(self.low) < self.high - self.low && address.is_multiple_of(8);
        if !known {
            return self.load_elsewhere(address);
        }
        // SAFETY: the page was asked about, or is one of the running code's. It is of a stack that this walk has led to, so
        // nobody unmaps it meanwhile.
        Some(unsafe { (address as *const usize).read_volatile() })
    }

    #[cold]
    #[inline(never)]
    fn load_elsewhere(&self, address: usize) -> Option<usize> {
        let readable = address.is_multiple_of(8) && is_readable(address);
        // SAFETY: it can be read; and what an unwind table refers to outside of the stack is of the code that it describes.
        readable.then(|| unsafe { (address as *const usize).read_volatile() })
    }

    /// Goes from the stack pointer of a frame to that of its caller. Whether both are on one piece; `None` if the walk must not go
    /// there.
    #[inline]
    pub(super) fn go(&mut self, from: usize, to: usize) -> Option<bool> {
        if from < to && to - self.low <= self.high - self.low {
            return Some(true);
        }
        self.go_on(from, to)
    }

    #[cold]
    #[inline(never)]
    fn go_on(&mut self, from: usize, to: usize) -> Option<bool> {
        if from < to && self.reaches(to) {
            return Some(true);
        }
        self.turns += 1;
        if self.turns > MOST_PIECES {
            return None;
        }
        if from == to {
            // A frame without a size: of a function that has stored nothing, or of a trampoline.
            return Some(true);
        }
        // The stack pointer of a caller has at least a return address below it; above it there may be nothing.
        let page = to.checked_sub(8)? & !(PAGE - 1);
        if !is_readable(page) {
            return None;
        }
        (self.low, self.high) = (page, page + PAGE);
        Some(false)
    }

    /// Extends the range upwards to `end`, if every page on the way can be read.
    fn reaches(&mut self, end: usize) -> bool {
        if end < self.low || end - self.low > LARGEST_FRAME {
            return false;
        }
        while self.high < end {
            if !is_known(self.high) && !is_readable(self.high) {
                return false;
            }
            self.high += PAGE;
        }
        true
    }
}

/// Whether every page from the one of `low` to the last one before `high` can be read.
#[cold]
pub(super) fn is_one_piece(low: usize, high: usize) -> bool {
    Memory::around(low).reaches(high)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::os;

    /// Eight pages, of which one cannot be read.
    fn pages(forbidden: usize) -> usize {
        let memory = os::map_zeroes(8 * PAGE).expect("there is memory");
        // SAFETY: a part of the mapping that was just made.
        let done = unsafe { libc::mprotect(memory.wrapping_byte_add(forbidden * PAGE), PAGE, libc::PROT_NONE) };
        assert_eq!(done, 0);
        memory.addr()
    }

    #[test]
    fn a_page_that_cannot_be_read_ends_a_piece() {
        let base = pages(4);
        let mut memory = Memory::around(base + 8);
        assert_eq!(memory.go(base + 8, base + 2 * PAGE), Some(true));
        assert_eq!(memory.go(base + 2 * PAGE, base + 4 * PAGE), Some(true), "up to the very end");
        assert_eq!(memory.load(base + 4 * PAGE - 8), Some(0));
        assert_eq!(memory.go(base + 4 * PAGE - 16, base + 4 * PAGE + 8), None, "into what cannot be read");
        assert_eq!(memory.go(base + 4 * PAGE - 16, base + 5 * PAGE + 16), Some(false), "over it");
        assert_eq!(memory.go(base + 5 * PAGE + 16, base + 8 * PAGE), Some(true));
        assert!(is_one_piece(base, base + 4 * PAGE) && !is_one_piece(base, base + 4 * PAGE + 8));
    }

    #[test]
    fn what_cannot_be_read_is_not_read() {
        let base = pages(4);
        let memory = Memory::around(base);
        assert_eq!(memory.load(base + 3 * PAGE), Some(0), "beyond what is known");
        assert_eq!([base + 4 * PAGE, base + 4, 0, usize::MAX - 7].map(|address| memory.load(address)), [None; 4]);
    }

    #[test]
    fn a_circle_of_pieces_ends() {
        let base = pages(4);
        let mut memory = Memory::around(base);
        let mut steps = 0;
        while memory.go(base + 64, base + 6 * PAGE).is_some() && memory.go(base + 6 * PAGE, base + 64).is_some() {
            steps += 1;
            assert!(steps < 2 * MOST_PIECES);
        }
        let mut memory = Memory::around(base);
        assert!((0..2 * MOST_PIECES).any(|_| memory.go(base + 64, base + 64).is_none()), "steps without a size");
    }
}
