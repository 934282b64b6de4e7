//! Frames of the running stack by their place: [`frame_around`] finds the one that holds a piece of
//! memory, [`return_address_behind`] where it returns to.

use super::frame::{Step, Steps};
use super::quick::Unwinder;
use crate::machine::arch::{self, Registers};

/// The stack pointer of the frame of the running stack that holds the memory from `low` to `high`,
/// addresses without tags. `None` if no frame does, or none on one piece of memory with `from`.
///
/// # Safety
/// `from` must be registers of a function of the running stack that has not returned yet.
pub(crate) unsafe fn frame_around(from: Registers, (low, high): (usize, usize)) -> Option<usize> {
    // SAFETY: the caller's promise.
    let mut unwinder = unsafe { Unwinder::new(from) };
    let found = search(&mut unwinder, from.sp, (low, high));
    // If a frame has a rule that the quick walk does not support, the thorough walk may.
    #[cfg(target_os = "linux")]
    let found = found.or_else(|| super::full_walk::from_frame_at(from.sp, |walk| search(walk, from.sp, (low, high))));
    found
}

/// Where the function returns to in whose frame the stack pointer is or was `sp`. Zero if no walk
/// leads there.
///
/// # Safety
/// As for [`frame_around`].
pub(crate) unsafe fn return_address_behind(from: Registers, sp: usize) -> usize {
    /// Faces of exeunt have few frames.
    const MOST: usize = 32;
    // SAFETY: the caller's promise.
    let mut unwinder = unsafe { Unwinder::new(from) };
    for _ in 0..MOST {
        let Step::Caller { frame, .. } = unwinder.step() else { return 0 };
        if arch::untagged(frame.registers.sp) > arch::untagged(sp) {
            return frame.registers.pc;
        }
    }
    0
}

/// [`frame_around`] with a walk that is at the frame with `sp`.
fn search(walk: &mut impl Steps, sp: usize, (low, high): (usize, usize)) -> Option<usize> {
    let mut sp = arch::untagged(sp);
    while sp <= low {
        let Step::Caller { frame: caller, contiguous: true, .. } = walk.step() else { return None };
        let caller_sp = arch::untagged(caller.registers.sp);
        if high <= caller_sp {
            return Some(sp);
        }
        sp = caller_sp;
    }
    None
}
