//! Remembered walks: from one place in the code, through the same calls, to the foot.
//!
//! Most threads of a program are armed from the same place, through the same calls. Unwind rules
//! depend on the program counter alone, and refer to the stack pointer and the frame pointer. So if
//! the same return addresses are at the same distances, and the frame pointers that rules use point
//! to the same distances, then the walk is the same, step by step. [`recall`] compares these words,
//! which takes a few instructions a frame. If one differs, the caller has to walk.
//!
//! [`recall`] reads these words without checking that they are mapped. Each return address that
//! matches shows that the frame belongs to the same function, at the same call. So the frame has
//! the same size, and the next word to compare lies in the caller's frame. That holds as long as
//! the code is loaded. So [`remember`] keeps a walk only if all of it went through code that is
//! never unloaded (`objects.rs`), by simple rules, and in one segment of memory.

use super::cache::hash_pc;
use super::frame::{Step, Steps};
use super::memory::{self, PAGE};
use super::quick::Unwinder;
use crate::base::alloc::{try_box, try_reserve};
use crate::base::foot::Foot;
use crate::machine::arch::{self, Registers};
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

/// Walks whose addresses share a cache line. That many are kept for one place, from which several
/// ways may lead to a foot.
const WAYS: usize = 8;
const SETS: usize = 64;
const LONGEST: usize = 64;

/// What one word of the stack must hold, so that the walk is the same so far.
enum Word {
    /// This return address.
    Return(usize),
    /// A pointer to this distance.
    FramePointer(usize),
}

/// A walk. Distances count from the stack pointer at its start.
struct Walk {
    /// The first return address, which identifies the place in the code.
    place: usize,
    /// Where the frame pointer points at the start; `None` if no rule uses it.
    frame_pointer: Option<usize>,
    /// Distances and the words there, innermost first; the last one is the foot. Empty for a walk
    /// that is too long.
    words: Vec<(usize, Word)>,
    /// The ends of steps by the frame pointer over a page or more. Each recall has to check whether
    /// the memory in between is one segment.
    wide: Vec<(usize, usize)>,
    base: usize,
    trampoline: usize,
    frame_pointer_at: Option<usize>,
    armed_from: usize,
}

/// What [`recall`] finds.
#[derive(Clone, Copy)]
pub(crate) struct Recalled {
    pub foot: Foot,
    /// Whether the stack is one segment from here to there.
    pub contiguous: bool,
    /// What [`remember`] was given.
    pub armed_from: usize,
}

#[repr(align(64))]
struct Set([AtomicPtr<Walk>; WAYS]);

/// Each is published once, and never changed or freed.
static WALKS: [Set; SETS] = [const { Set([const { AtomicPtr::new(std::ptr::null_mut()) }; WAYS]) }; SETS];
/// The distance to the first return address: the size of the frame of the one function that starts
/// walks. Zero before the first walk.
static FIRST: AtomicUsize = AtomicUsize::new(0);

fn set(place: usize) -> &'static [AtomicPtr<Walk>; WAYS] {
    &WALKS[hash_pc(place) % SETS].0
}

/// The word at a distance from the start of a walk.
///
/// # Safety
/// It must be a word of the running stack.
#[inline]
unsafe fn read(from: Registers, distance: usize) -> usize {
    // SAFETY: the caller promises a word of the running stack.
    unsafe { ((from.sp + distance) as *const usize).read_volatile() }
}

/// The foot of the running stack, if a remembered walk leads to it.
///
/// # Safety
/// `from` must be registers of the running stack, always taken at the same instruction.
#[inline]
pub(crate) unsafe fn recall(from: Registers) -> Option<Recalled> {
    let first = FIRST.load(Ordering::Relaxed);
    if first == 0 {
        return None;
    }
    // SAFETY: the distance lies within the frame of the function that `from` belongs to.
    let place = arch::strip(unsafe { read(from, first) });
    // SAFETY: null, or leaked by `remember`.
    let walks = set(place).iter().map_while(|slot| unsafe { slot.load(Ordering::Acquire).as_ref() });
    // SAFETY: the walk starts at the place where `from` is.
    walks.filter(|walk| walk.place == place).find_map(|walk| unsafe { walk.foot(from) })
}

impl Walk {
    /// The foot that this walk leads to from here, if the words are the same.
    ///
    /// # Safety
    /// As for [`recall`], and the walk must start at the place where `from` is.
    #[inline]
    unsafe fn foot(&self, from: Registers) -> Option<Recalled> {
        if self.frame_pointer.is_some_and(|distance| from.fp != from.sp.wrapping_add(distance)) {
            return None;
        }
        let mut last = None;
        for (distance, expected) in &self.words {
            // SAFETY: the words before this one have shown that the frames so far belong to the
            // same functions at the same calls, in code that is never replaced, and with the same
            // frame pointers. So this word lies in the next frame.
            let word = unsafe { read(from, *distance) };
            let same = match *expected {
                Word::Return(address) => arch::strip(word) == address,
                Word::FramePointer(distance) => word == from.sp.wrapping_add(distance),
            };
            if !same {
                return None;
            }
            last = Some((*distance, word));
        }
        let (distance, word) = last?;
        let foot = Foot {
            address: from.sp + distance,
            word,
            base: from.sp + self.base,
            trampoline: self.trampoline,
            frame_pointer_at: self.frame_pointer_at.map(|distance| from.sp + distance),
        };
        let contiguous = self.wide.is_empty() || self.is_one_segment(from.sp);
        Some(Recalled { foot, contiguous, armed_from: self.armed_from })
    }
}

impl Walk {
    #[cold]
    fn is_one_segment(&self, sp: usize) -> bool {
        self.wide.iter().all(|&(low, high)| memory::is_one_segment(sp + low, sp + high))
    }
}

/// A free place for one more walk from this place in the code. There is none if such a walk was too
/// long: others will be, too.
fn room(place: usize) -> Option<&'static AtomicPtr<Walk>> {
    for slot in set(place) {
        // SAFETY: null, or leaked by `remember`.
        match unsafe { slot.load(Ordering::Acquire).as_ref() } {
            None => return Some(slot),
            Some(walk) if walk.place == place && walk.words.is_empty() => return None,
            Some(_) => {}
        }
    }
    None
}

/// Remembers the walk from `from`, which has just led to `foot`, if there is room. `armed_from` is
/// a return address of this walk, which the next ones have as well.
///
/// # Safety
/// As for [`recall`]. The walk must have led to `foot` in one segment of memory, by simple rules of
/// code that is never unloaded.
pub(crate) unsafe fn remember(from: Registers, foot: Foot, armed_from: usize) {
    let mut walk = Walk {
        place: 0,
        frame_pointer: None,
        words: Vec::new(),
        wide: Vec::new(),
        base: foot.base - from.sp,
        trampoline: foot.trampoline,
        frame_pointer_at: foot.frame_pointer_at.map(|at| at - from.sp),
        armed_from,
    };
    // SAFETY: the caller promises registers of the running stack.
    let mut unwinder = unsafe { Unwinder::new(from) };
    let mut frame = from;
    // Where the frame pointer of `frame` was stored; `None` while it is still the one of the start.
    let mut fp_from = None;
    let mut complete = false;
    let mut room = None;
    while let Step::Caller { frame: caller, slot: Some(at), fp_slot, by_frame_pointer, contiguous: true, .. } =
        unwinder.step()
    {
        if walk.place == 0 {
            walk.place = caller.registers.pc;
            FIRST.store(at - from.sp, Ordering::Relaxed);
            room = self::room(walk.place);
            if room.is_none() {
                return;
            }
        }
        // Where there is no memory, the walk is not remembered.
        let reserve = || walk.words.try_reserve(2).and_then(|()| walk.wide.try_reserve(1));
        if try_reserve(reserve).is_err() {
            return;
        }
        if by_frame_pointer {
            let points_to = frame.fp.wrapping_sub(from.sp);
            match fp_from {
                Some(stored) => walk.words.push((stored, Word::FramePointer(points_to))),
                None => walk.frame_pointer = Some(points_to),
            }
            if caller.registers.sp - frame.sp > PAGE {
                walk.wide.push((frame.sp - from.sp, caller.registers.sp - from.sp));
            }
        }
        walk.words.push((at - from.sp, Word::Return(caller.registers.pc)));
        complete = at == foot.address;
        if complete || walk.words.len() >= LONGEST {
            break;
        }
        fp_from = fp_slot.map(|slot| slot - from.sp).or(fp_from);
        frame = caller.registers;
    }
    if !unwinder.is_repeatable() {
        return;
    }
    if !complete {
        walk.words.clear();
    }
    let Some(room) = room else { return };
    let Ok(walk) = try_box(walk) else { return };
    let walk = Box::into_raw(walk);
    if room.compare_exchange(std::ptr::null_mut(), walk, Ordering::AcqRel, Ordering::Relaxed).is_err() {
        // SAFETY: another thread was first, and no thread has a pointer to this walk.
        drop(unsafe { Box::from_raw(walk) });
    }
}
