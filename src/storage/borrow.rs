//! Borrowed values of stack locals. A borrower marks the stack (`lend`). Code that would drop the
//! value searches the stack for the mark first (`Lent::may_include`).

use super::values::LocalValue;
use crate::machine::arch::{self, tagged_as, word_of_stack};
use std::arch::asm;
use std::mem::MaybeUninit;
use std::ops::Range;

/// The values that a stack which is drained may have lent to code that still uses them.
#[derive(Clone, Copy)]
pub(crate) enum Lent {
    /// None: its frames are gone, by return or by unwinding. Or the stack was abandoned: the code
    /// that abandons it promises that no code uses any more what its frames have lent (`discard`).
    Nothing,
    /// The values that its frames have borrowed, from this stack pointer to the base, which is one
    /// piece of memory. `exit` has left these frames behind, and other threads may go on using what
    /// the frames have lent to them.
    ByFramesFrom(usize),
    /// The same, but those frames cannot be searched: they are on another piece of memory than this
    /// code.
    Unknown,
}

impl Lent {
    /// Whether the value of a stack local may be lent. `base` is the base of its stack.
    pub(crate) fn may_include(self, local: &LocalValue, base: usize) -> bool {
        match self {
            Self::Nothing => false,
            Self::ByFramesFrom(sp) => is_borrowed(local.value, sp..arch::tagged_as(base, sp)),
            Self::Unknown => true,
        }
    }
}

/// The word that a borrower writes on the stack at `place`: the value's address, combined with the
/// place, so that no copy of the address is a mark. Nor is a copy of the mark, which compilers
/// leave near by: there it would be the mark of a value that is billions of bytes away, and so of
/// no neighbour.
#[inline(always)]
fn mark(value: *mut u8, place: usize) -> usize {
    value.addr() ^ place.rotate_left(usize::BITS / 2)
}

/// Lends a value to `use_it`, and marks the stack meanwhile. `reset` and `unload`, which would drop
/// the value, search the stack for such a mark first. So a borrower pays one store or two, and
/// needs no count.
///
/// # Safety
/// `value` must be a live value of the running stack.
#[inline(always)]
pub(crate) unsafe fn lend<T, R>(value: *mut T, use_it: impl FnOnce(&T) -> R) -> R {
    let mut marked = MaybeUninit::<usize>::uninit();
    let place = marked.as_mut_ptr();
    // SAFETY: this does nothing. But it is given the address, so the compiler must assume that any
    // function called from here on reads the mark: the mark must be there by then. Where the
    // compiler sees that `use_it` calls no such function, no search can run meanwhile (a signal
    // handler may only read values), and the compiler may leave the mark out.
    unsafe { asm!("/* {} */", in(reg) place, options(nostack, preserves_flags)) };
    // SAFETY: a local variable.
    unsafe { place.write(mark(value.cast(), place.addr())) };
    // SAFETY: the caller's promise keeps the value alive, and so does the mark. Where `use_it`
    // unwinds, the mark stays behind, below the stack pointer, or is soon overwritten. A search
    // that found it would only delay the drop.
    let result = use_it(unsafe { &*value });
    // SAFETY: a local variable. The write is volatile so that the compiler does not leave it out
    // because nothing reads it.
    unsafe { place.write_volatile(0) };
    result
}

/// Whether two marks are the same but for a tag in the address of the place. HWASan gives tags to
/// variables, and none to the stack pointer.
fn is_same(one: usize, other: usize) -> bool {
    let tag = tagged_as(0, usize::MAX).rotate_left(usize::BITS / 2);
    (one ^ other) & !tag == 0
}

/// Whether code on the given part of the running stack borrows `value`.
fn is_borrowed(value: *mut u8, stack: Range<usize>) -> bool {
    let start = stack.start.next_multiple_of(size_of::<usize>());
    (start..stack.end & !7)
        .step_by(8)
        // SAFETY: the caller names a part of the running stack that is known to be in one piece.
        .any(|place| is_same(unsafe { word_of_stack(place) }, mark(value, place)))
}

#[cfg(test)]
mod tests {
    use super::mark;

    #[test]
    fn a_copy_of_a_mark_is_no_neighbours_mark() {
        let (value, place) = (0x5555_1234_5670_usize, 0x7fff_8765_4320_usize);
        let marked = mark(value as *mut u8, place);
        for copy in (0..1 << 16).step_by(8).map(|distance| place - distance) {
            // The value whose mark it would be.
            let looks_like = marked ^ copy.rotate_left(32);
            assert_eq!(marked, mark(looks_like as *mut u8, copy));
            assert!(looks_like == value && copy == place || looks_like.abs_diff(value) >= 1 << 32);
        }
    }
}
