//! Walks that were made before: from one place in the code, through the same calls, to the foot.
//!
//! Threads of a kind are mostly armed from the same place, through the same calls. Unwind rules depend on the program
//! counter alone, and refer to the stack pointer and the frame pointer. So where the same return addresses are at the same
//! distances, and the frame pointers that matter point to the same distances, the walk is the same, step by step. It is
//! enough to compare these words, at a few instructions a frame. One that differs, and the stack has to be walked.

use super::{Frame, Step, step};
use crate::arch::{self, Registers};
use crate::foot::Foot;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

const PLACES: usize = 64;
const LONGEST: usize = 64;

/// What one word of the stack must be for the walk to be the same so far.
enum Word {
    /// This return address.
    Return(usize),
    /// A pointer to this distance.
    FramePointer(usize),
}

/// A walk, all in distances from the stack pointer that it began with.
struct Walk {
    /// The first return address, which tells the place in the code.
    place: usize,
    /// Where the frame pointer points at the beginning, if that matters.
    frame_pointer: Option<usize>,
    /// Distances and what is there, from the inside out; the last one is the foot. Empty for a walk that is too long.
    words: Vec<(usize, Word)>,
    top: usize,
    trampoline: usize,
    frame_pointer_at: Option<usize>,
}

/// Published once and never changed or freed.
static WALKS: [AtomicPtr<Walk>; PLACES] = [const { AtomicPtr::new(std::ptr::null_mut()) }; PLACES];
/// The distance to the first return address: the frame of the one function that begins walks. Zero before the first.
static FIRST: AtomicUsize = AtomicUsize::new(0);

fn slot(place: usize) -> &'static AtomicPtr<Walk> {
    &WALKS[(place as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) as usize >> (64 - PLACES.ilog2())]
}

/// The word at a distance from where a walk begins.
///
/// # Safety
/// It must be a word of the running stack.
unsafe fn read(from: Registers, distance: usize) -> usize {
    // SAFETY: the caller's promise.
    unsafe { ((from.sp + distance) as *const usize).read_volatile() }
}

/// The foot of the running stack, if the way to it is one that was walked before.
///
/// # Safety
/// `from` must be registers of the running stack, always taken at the same instruction.
#[inline]
pub(crate) unsafe fn recall(from: Registers) -> Option<Foot> {
    let first = FIRST.load(Ordering::Relaxed);
    if first == 0 {
        return None;
    }
    // SAFETY: the distance is within the frame of the function that `from` is of.
    let place = arch::strip(unsafe { read(from, first) });
    // SAFETY: null, or leaked by `learn`.
    let walk = unsafe { slot(place).load(Ordering::Acquire).as_ref() }?;
    let same_beginning = walk.place == place && walk.frame_pointer.is_none_or(|distance| from.fp == from.sp + distance);
    if !same_beginning {
        return None;
    }
    for (distance, expected) in &walk.words {
        // SAFETY: the words before this one have shown that the frames so far are the same; this one lies in the next.
        let word = unsafe { read(from, *distance) };
        let same = match *expected {
            Word::Return(address) => arch::strip(word) == address,
            Word::FramePointer(distance) => word == from.sp + distance,
        };
        if !same {
            return None;
        }
    }
    let (distance, _) = walk.words.last()?;
    // SAFETY: just read.
    let word = unsafe { read(from, *distance) };
    Some(Foot {
        address: from.sp + distance,
        word,
        top: from.sp + walk.top,
        trampoline: walk.trampoline,
        frame_pointer_at: walk.frame_pointer_at.map(|distance| from.sp + distance),
    })
}

/// Remembers the walk from `from`, which has just led to `foot`, unless another one has its place.
///
/// # Safety
/// As for [`recall`], and the walk must have led to `foot`.
pub(crate) unsafe fn learn(from: Registers, foot: Foot) {
    let mut walk = Walk {
        place: 0,
        frame_pointer: None,
        words: Vec::new(),
        top: foot.top - from.sp,
        trampoline: foot.trampoline,
        frame_pointer_at: foot.frame_pointer_at.map(|at| at - from.sp),
    };
    let mut frame = Frame { registers: from, exact: true };
    // Where the frame pointer of `frame` was stored; none while it is still the one of the beginning.
    let mut fp_from = None;
    let mut complete = false;
    // SAFETY: starts on the running stack, and goes from caller to caller.
    while let Step::Caller { frame: caller, slot: Some(at), fp_slot, by_fp, .. } = unsafe { step(frame) } {
        if walk.place == 0 {
            walk.place = caller.registers.pc;
            FIRST.store(at - from.sp, Ordering::Relaxed);
            if !slot(walk.place).load(Ordering::Relaxed).is_null() {
                return;
            }
        }
        if by_fp {
            let points_to = frame.registers.fp - from.sp;
            match fp_from {
                Some(stored) => walk.words.push((stored, Word::FramePointer(points_to))),
                None => walk.frame_pointer = Some(points_to),
            }
        }
        walk.words.push((at - from.sp, Word::Return(caller.registers.pc)));
        complete = at == foot.address;
        if complete || walk.words.len() >= LONGEST {
            break;
        }
        fp_from = fp_slot.map(|slot| slot - from.sp).or(fp_from);
        frame = caller;
    }
    if !complete {
        walk.words.clear();
    }
    let place = walk.place;
    let walk = Box::into_raw(Box::new(walk));
    let published =
        slot(place).compare_exchange(std::ptr::null_mut(), walk, Ordering::AcqRel, Ordering::Relaxed).is_ok();
    if !published {
        // SAFETY: another thread was first; nobody has seen this one.
        drop(unsafe { Box::from_raw(walk) });
    }
}
