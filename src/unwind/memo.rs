//! Remembered walks: from one place in the code, through the same calls, to the foot.
//!
//! Most threads of a program are armed from the same place, through the same calls. Unwind rules
//! depend on the program counter alone, and refer to the stack pointer and the frame pointer. So if
//! the same return addresses are at the same distances, and the frame pointers that rules use point
//! to the same distances, then the walk is the same, step by step. [`recall`] compares these words,
//! which takes a few instructions a frame. If one differs, the caller has to walk.
//!
//! All words on the way are compared, although a thread's foot lies at one distance below its
//! descriptor. That distance and the bounds of the thread's stack show where the thread's foot is,
//! but not that the running function returns to it: a fiber may run on an array in one of the
//! thread's own frames, with the thread's descriptor and inside the bounds, and so may the scope of
//! an [`enter`](crate::enter()). The switch to it can be at any frame, so no sample of the frames
//! excludes it.
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
/// The longest walk.
const MOST_STEPS: usize = 1 << 14;
/// The most runs of one walk. Together these are 16 KiB. A frame whose rule uses the frame pointer
/// takes two, and is in no run with others.
const MOST_RUNS: usize = 1024;
/// Walks of more runs than these share [`LEFT`].
const USUAL: usize = 64;
/// How many runs the walks of more than [`USUAL`] ones may still have: 1 MiB at first.
static LEFT: AtomicUsize = AtomicUsize::new(1 << 16);

/// Takes room for this many runs. Returns whether there was that much.
fn take_from_left(runs: usize) -> bool {
    LEFT.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(runs)).is_ok()
}

/// What words of the stack must hold, so that the walk is the same so far.
struct Run {
    /// Where the first word is, in words from the start of the walk.
    at: u32,
    /// From one word to the next, in words.
    stride: u16,
    /// How many words hold the return address `holds`: a function that calls itself leaves several,
    /// at equal distances. Zero for one word that points to the distance `holds`.
    count: u16,
    holds: usize,
}

impl Run {
    /// `None` for a distance that has no place here.
    fn new(distance: usize, count: u16, holds: usize) -> Option<Self> {
        let at = u32::try_from(distance / 8).ok().filter(|_| distance % 8 == 0)?;
        Some(Self { at, stride: 0, count, holds })
    }

    /// Takes the words of the next run, if they continue this one. Returns whether they do.
    fn extend(&mut self, next: &Self) -> bool {
        let is_more = self.count != 0 && self.count != u16::MAX && next.count == 1 && next.holds == self.holds;
        let last = self.at + u32::from(self.stride) * u32::from(self.count.saturating_sub(1));
        let stride = u16::try_from(next.at.wrapping_sub(last)).ok();
        let Some(stride) = stride.filter(|&stride| is_more && (self.count == 1 || stride == self.stride)) else {
            return false;
        };
        (self.count, self.stride) = (self.count + 1, stride);
        true
    }

    /// Whether the words hold what they must; if so, also the last one and its distance.
    ///
    /// # Safety
    /// The words must be of the running stack, each as long as those before it hold what they must.
    #[inline(always)]
    unsafe fn matches(&self, from: Registers) -> Option<(usize, usize)> {
        let (mut distance, stride) = (self.at as usize * 8, usize::from(self.stride) * 8);
        // SAFETY: the caller's promise.
        let mut word = unsafe { read(from, distance) };
        if self.count == 0 {
            return (word == from.sp.wrapping_add(self.holds)).then_some((distance, word));
        }
        for _ in 1..self.count {
            if arch::strip(word) != self.holds {
                return None;
            }
            distance += stride;
            // SAFETY: the caller's promise, for the words so far hold what they must.
            word = unsafe { read(from, distance) };
        }
        (arch::strip(word) == self.holds).then_some((distance, word))
    }
}

/// A walk. Distances count from the stack pointer at its start.
struct Walk {
    /// The first return address, which identifies the place in the code.
    place: usize,
    /// Where the frame pointer points at the start; `None` if no rule uses it.
    frame_pointer: Option<usize>,
    /// The words to compare, innermost first; the last one is the foot. Empty for a walk that is
    /// too long.
    runs: Vec<Run>,
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
        for run in &self.runs {
            // SAFETY: the words before have shown that the frames so far belong to the same
            // functions at the same calls, in code that is never replaced, and with the same frame
            // pointers. So the next word lies in the next frame.
            last = Some(unsafe { run.matches(from) }?);
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
            Some(walk) if walk.place == place && walk.runs.is_empty() => return None,
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
        runs: Vec::new(),
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
    let mut steps = 0;
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
        let reserve = || walk.runs.try_reserve(2).and_then(|()| walk.wide.try_reserve(1));
        if try_reserve(reserve).is_err() {
            return;
        }
        if by_frame_pointer {
            let points_to = frame.fp.wrapping_sub(from.sp);
            match fp_from {
                Some(stored) => match Run::new(stored, 0, points_to) {
                    Some(run) => walk.runs.push(run),
                    None => break,
                },
                None => walk.frame_pointer = Some(points_to),
            }
            if caller.registers.sp - frame.sp > PAGE {
                walk.wide.push((frame.sp - from.sp, caller.registers.sp - from.sp));
            }
        }
        let Some(run) = Run::new(at - from.sp, 1, caller.registers.pc) else { break };
        if !walk.runs.last_mut().is_some_and(|last| last.extend(&run)) {
            walk.runs.push(run);
        }
        // There is no room for a walk as long as this.
        if walk.runs.len() > USUAL && walk.runs.len() > LEFT.load(Ordering::Relaxed) {
            return;
        }
        steps += 1;
        complete = at == foot.address;
        if complete || steps == MOST_STEPS || walk.runs.len() >= MOST_RUNS {
            break;
        }
        fp_from = fp_slot.map(|slot| slot - from.sp).or(fp_from);
        frame = caller.registers;
    }
    if !unwinder.is_repeatable() {
        return;
    }
    let Some(room) = room else { return };
    if !complete {
        walk.runs = Vec::new();
    }
    let shared = if walk.runs.len() > USUAL { walk.runs.len() } else { 0 };
    // A shorter walk from this place may still be remembered later.
    if !take_from_left(shared) {
        return;
    }
    let Ok(walk) = try_box(walk) else {
        LEFT.fetch_add(shared, Ordering::Relaxed);
        return;
    };
    let walk = Box::into_raw(walk);
    if room.compare_exchange(std::ptr::null_mut(), walk, Ordering::AcqRel, Ordering::Relaxed).is_err() {
        LEFT.fetch_add(shared, Ordering::Relaxed);
        // SAFETY: another thread was first, and no thread has a pointer to this walk.
        drop(unsafe { Box::from_raw(walk) });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(distances: &[usize], holds: usize) -> Run {
        let one = |&distance: &usize| Run::new(distance, 1, holds).expect("it fits");
        let mut run = one(&distances[0]);
        assert!(distances[1..].iter().map(one).all(|next| run.extend(&next)), "{distances:?}");
        run
    }

    #[test]
    fn a_run_takes_equal_words_at_equal_distances_and_no_others() {
        let mut of_three = run(&[8, 40, 72], 7);
        for (distance, count, holds) in [(96, 1, 7), (112, 1, 7), (104, 1, 8), (104, 0, 7), (64, 1, 7), (40, 1, 7)] {
            let next = Run::new(distance, count, holds).expect("it fits");
            assert!(!of_three.extend(&next), "{distance} {count} {holds}");
        }
        assert!(of_three.extend(&run(&[104], 7)), "where the next one is");
        let mut far = run(&[8], 7);
        assert!(!far.extend(&run(&[8 + (8 << 16)], 7)), "too far for a stride");
        assert!(!Run::new(16, 0, 7).expect("it fits").extend(&run(&[24], 7)), "a frame pointer is alone");
        assert!(Run::new(12, 1, 7).is_none() && Run::new(8 << 32, 1, 7).is_none());
        let mut longest = run(&[0], 7);
        let fit = (1..u32::MAX as usize).take_while(|at| longest.extend(&run(&[8 * at], 7))).count();
        assert_eq!(fit, usize::from(u16::MAX) - 1);
    }

    #[test]
    fn a_run_matches_only_if_all_its_words_do_and_leads_to_the_last_one() {
        let mut words = [0, 7, 1, 7, 2, 7, 3];
        let matches = |words: &[usize; 7], run: &Run| {
            let sp = words.as_ptr().addr();
            // SAFETY: all runs of this test are inside the array.
            unsafe { run.matches(Registers { pc: 0, sp, fp: 0, link: 0 }) }
        };
        let run = run(&[8, 24, 40], 7);
        assert_eq!(matches(&words, &run), Some((40, 7)));
        for at in [1, 3, 5] {
            words[at] = 6;
            assert_eq!(matches(&words, &run), None, "word {at}");
            words[at] = 7;
        }
        words[2] = words.as_ptr().addr() + 48;
        let points = |to| Run::new(16, 0, to).expect("it fits");
        assert_eq!(matches(&words, &points(48)), Some((16, words[2])));
        assert_eq!(matches(&words, &points(40)), None);
    }
}
