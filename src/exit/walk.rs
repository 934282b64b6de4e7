//! Finds the running stack's foot. A walk ends earlier at a frame that the stack map gives to a
//! live record.
//!
//! - `walk_known`: for reads. Recognises nothing, and is safe in a signal handler.
//! - `walk_frames`: goes to the foot itself, without the stack map.
//! - `walk_to_foot`: for arming. Recognises exit trampolines that this process has not met yet.

use crate::base::error::Error;
use crate::base::foot::Foot;
use crate::base::redirect::Method;
use crate::base::unrecognised::Addresses;
use crate::exit::recognition;
use crate::exit::redirect::{choice, code};
use crate::exit::refusal::{self, HANDLER, NO_TABLE, NOT_WALKABLE, STACK_ENDED, SWITCH, UNKNOWN, WalkEnd};
use crate::exit::trampoline;
use crate::machine::arch;
use crate::machine::arch::{Registers, untagged};
use crate::machine::os;
use crate::map::pages::PAGE;
use crate::record::header::Record;
use crate::record::stacks::{self, STACKS};
use crate::unwind::frame::{PlainCaller, Step, Steps};
use crate::unwind::quick::Unwinder;
use std::ops::Range;

/// What a walk has found.
pub(crate) enum Found {
    /// The record of this stack, and whether the stack is one piece of memory from here to there.
    Armed(&'static Record, bool),
    /// The foot of this stack, which is not armed, and the route to it.
    Unarmed(Foot, Route),
}

/// How a walk has reached a foot.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Route {
    /// Whether the stack is one piece of memory from the first frame to the foot.
    pub contiguous: bool,
    /// Whether the whole walk may be remembered (`unwind/memo.rs`).
    pub cacheable: bool,
}

/// The return addresses that a walk has met, innermost first: for an error's text, for recognition,
/// and for the blocks that become the record's.
struct Trace {
    innermost: [usize; Self::ENDS],
    /// The stack pointers of the frames that these addresses are in.
    places: [usize; Self::ENDS],
    outermost: [usize; Self::ENDS],
    count: usize,
    /// How many of the places may become owned blocks: those inside the first frame that a signal
    /// has interrupted. That frame may be in the middle of a lookup of its own block, and have
    /// loaded the page's owner already. Then it must not find its block owned by another record
    /// next.
    ownable: usize,
    /// Whether the walk uses the stack map. If not, it goes to the foot itself.
    uses_map: bool,
}

impl Trace {
    const ENDS: usize = 16;

    const fn new() -> Self {
        Self {
            innermost: [0; Self::ENDS],
            places: [0; Self::ENDS],
            outermost: [0; Self::ENDS],
            count: 0,
            ownable: Self::ENDS,
            uses_map: true,
        }
    }

    /// The record that the stack map has for a place.
    fn look_up(&self, place: usize) -> Option<&'static Record> {
        if self.uses_map { STACKS.find(place) } else { None }
    }

    /// The record that drains in a frame, where the stack map cannot have it.
    ///
    /// # Safety
    /// As [`stacks::draining_in`].
    unsafe fn draining_in(&self, frame: Range<usize>) -> Option<(&'static Record, bool)> {
        // SAFETY: the caller's promise.
        if self.uses_map { unsafe { stacks::draining_in(frame) } } else { None }
    }

    fn push(&mut self, address: usize, place: usize) {
        if self.count < Self::ENDS {
            self.innermost[self.count] = address;
            self.places[self.count] = place;
        } else {
            self.outermost[self.count % Self::ENDS] = address;
        }
        self.count += 1;
    }

    /// A signal has interrupted the next frame.
    fn interrupted(&mut self) {
        self.ownable = self.ownable.min(self.count);
    }

    /// The record that this walk has led to. The blocks of the innermost frames become the
    /// record's, if the stack is one piece. Otherwise code that calls deeper and deeper would
    /// unwind from each new place to the oldest one.
    fn armed(&self, record: &'static Record, contiguous: bool) -> Found {
        // A walk without the stack map only verifies. Its first frames are inside those of the next
        // lookup.
        if contiguous && self.uses_map {
            for &place in
                self.places[..self.count.min(self.ownable)].iter().filter(|&&place| untagged(place) < record.base())
            {
                STACKS.add_block(place, record);
            }
        }
        Found::Armed(record, contiguous)
    }

    fn addresses(&self) -> Addresses {
        let innermost = self.innermost[..self.count.min(Self::ENDS)].iter().copied();
        let rest = self.count.saturating_sub(Self::ENDS);
        let first = self.count - rest.min(Self::ENDS);
        let outermost = (first..self.count).filter(|_| rest > 0).map(|at| self.outermost[at % Self::ENDS]);
        Addresses::new(innermost.chain(outermost))
    }
}

const _: () = assert!(Addresses::MOST == 2 * Trace::ENDS);

/// Why a walk ended without a foot.
enum NotFound {
    /// It leads to a registered wrapper, of which this is the first stack.
    Registered(usize),
    /// The trace holds the whole walk, and it ended for this reason.
    End(&'static WalkEnd),
    /// A frame has a rule that the quick unwinder does not support.
    Unsupported,
    SignalStack,
}

/// What a walk needs to pass a frame quickly: one that no stack ends in, and that leads to no
/// record.
///
/// All that this keeps was true when the walk began. What other threads change meanwhile concerns
/// other stacks, or is missed by a walk that was a moment earlier as well.
struct Passing {
    /// A bit for each of 256 hashes: whether an exit trampoline's return address has it.
    hashes: [u64; 4],
    /// Whether every frame needs all checks: then none is passed.
    thorough: bool,
    /// The page that no record owns, which the last frame was on.
    unowned: usize,
}

impl Passing {
    #[inline]
    fn begin() -> Self {
        let mut hashes = [0; 4];
        for number in 0..trampoline::known() {
            let (word, bit) = Self::hash(trampoline::original(number));
            hashes[word] |= bit;
        }
        let thorough = recognition::has_registered() || choice::is_code() || stacks::drains_without_block();
        Self { hashes, thorough, unowned: usize::MAX }
    }

    /// The place of an address in `hashes`. Fibonacci hashing, as any hash does: a collision costs
    /// time alone.
    #[inline(always)]
    fn hash(address: usize) -> (usize, u64) {
        let hash = (address as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56;
        ((hash >> 6) as usize, 1 << (hash & 63))
    }

    /// Whether the walk goes on from this frame. If so, it is in the trace.
    #[inline(always)]
    fn passes(&mut self, caller: PlainCaller, trace: &mut Trace) -> bool {
        let PlainCaller { pc, sp } = caller;
        let (word, bit) = Self::hash(pc);
        if self.hashes[word] & bit != 0 || trampoline::is_in_pool(pc) {
            return false;
        }
        let page = sp >> PAGE;
        if page != self.unowned && trace.uses_map {
            if STACKS.is_unowned(page) {
                self.unowned = page;
            } else if STACKS.find(sp).is_some() {
                return false;
            }
        }
        trace.push(pc, sp);
        true
    }
}

/// Unwinds to the first frame whose block a live record owns, or to the foot.
fn walk(unwinder: &mut impl Steps, trace: &mut Trace) -> Result<Found, NotFound> {
    let mut contiguous = true;
    // The stack pointer of the frame that the next step leaves.
    let mut inner = usize::MAX;
    let mut passing = Passing::begin();
    loop {
        let passed =
            if passing.thorough { None } else { unwinder.step_plainly(|caller| passing.passes(caller, trace)) };
        inner = passed.unwrap_or(inner);
        let (caller, slot, word, step_contiguous, fp_slot) = match unwinder.step() {
            Step::Caller { frame, slot, word, contiguous, fp_slot, .. } => (frame, slot, word, contiguous, fp_slot),
            other => match no_caller(other, trace, contiguous) {
                None => continue,
                Some(answer) => return answer,
            },
        };
        contiguous &= step_contiguous;
        let (address, base) = (caller.registers.pc, caller.registers.sp);
        trace.push(address, base);
        if let Some(slot) = slot {
            if trampoline::is_label(address) {
                let record = STACKS.by_base(base).filter(|record| follow(record, slot, word));
                return record.map(|record| trace.armed(record, contiguous)).ok_or(NotFound::End(&STACK_ENDED));
            }
            let trampoline = trampoline::number_of_original(address);
            if let Some(record) = trampoline.and_then(|_| draining(base, Some(slot))) {
                return Ok(trace.armed(record, contiguous));
            }
            if let Some(record) = code::draining(address, slot, base) {
                return Ok(trace.armed(record, contiguous));
            }
            if let Some(trampoline) = trampoline {
                let foot = Foot { address: slot, word, base, trampoline, frame_pointer_at: fp_slot };
                if let Some(record) = code::owner(foot) {
                    return Ok(trace.armed(record, contiguous));
                }
                return Ok(Found::Unarmed(foot, Route { contiguous, cacheable: false }));
            }
            if recognition::is_registered(address) {
                return Err(NotFound::Registered(address));
            }
        }
        if step_contiguous {
            // Before the caller's place: a drain may run on another stack.
            // SAFETY: the step has led from `inner` to `base` in one segment of the running stack.
            if let Some((record, in_one_piece)) = unsafe { trace.draining_in(inner..base) } {
                return Ok(trace.armed(record, contiguous && in_one_piece));
            }
        }
        if let Some(record) = trace.look_up(base) {
            return Ok(trace.armed(record, contiguous));
        }
        inner = base;
    }
}

/// Updates the record if its stack's foot has moved to `slot`, where a walk has just found `word`,
/// a trampoline of exeunt's. Returns whether the foot is there. If not, the record is another
/// stack's.
///
/// A tail call may be a jump. On x86_64 the return address stays in its place then. On aarch64 the
/// next function stores it at a place of its own choice.
fn follow(record: &Record, slot: usize, word: usize) -> bool {
    if record.canary_at() == slot {
        return true;
    }
    // The foot of a C scope is a word of its holder's frame, and does not move.
    let is_label = || trampoline::is_label(arch::strip(record.canary().1));
    let moved = cfg!(target_arch = "aarch64") && record.method() == Method::Slot && record.is_armed() && is_label();
    if moved {
        record.move_foot(slot, (slot, word));
    }
    moved
}

/// The result of a walk whose step does not lead to a caller; `None` if the walk continues. Not
/// inlined, for the reason that `step` gives.
#[cold]
#[inline(never)]
fn no_caller(step: Step, trace: &mut Trace, contiguous: bool) -> Option<Result<Found, NotFound>> {
    Some(Err(match step {
        Step::Caller { .. } => unreachable!("the walk goes there itself"),
        Step::Interrupted(frame) => {
            trace.interrupted();
            trace.push(frame.registers.pc, frame.registers.sp);
            return trace.look_up(frame.registers.sp).map(|record| Ok(trace.armed(record, contiguous)));
        }
        Step::InterruptedElsewhere(_) if os::on_signal_stack() => NotFound::SignalStack,
        Step::InterruptedElsewhere(_) => NotFound::End(&HANDLER),
        Step::Switch => NotFound::End(&SWITCH),
        Step::Outermost => NotFound::End(&UNKNOWN),
        Step::NoTable => NotFound::End(&NO_TABLE),
        // On a signal stack there may be too little room to interpret a table.
        Step::Unsupported if os::on_signal_stack() => NotFound::SignalStack,
        Step::Unsupported => NotFound::Unsupported,
    }))
}

/// The draining record of the stack that ends in an exit trampoline with the stack pointer `base`.
/// Its trampoline has put the original address back already. The address is at `slot`, if this is
/// known.
fn draining(base: usize, slot: Option<usize>) -> Option<&'static Record> {
    let drains = |record: &&Record| record.is_draining() && record.is_live();
    let is_there = |record: &&Record| slot.is_none_or(|slot| may_return_by(record, slot));
    STACKS.by_base(base).filter(drains).filter(is_there)
}

/// Whether a call whose return address is at `slot` can be the one by which a trampoline drains
/// `record`. `asm/` defines the distance from the mark to that word in the trampoline's frame. On
/// aarch64 the mark of a stack that was abandoned in a handler can outlive the stack
/// (`Record::canary_may_be_stale`). On x86_64 the next stack's foot overwrites it.
fn may_return_by(record: &Record, slot: usize) -> bool {
    !cfg!(target_arch = "aarch64") || !record.is_found_by_walk() || record.canary_at().wrapping_sub(slot) == 144
}

/// Walks from `from`: quickly, or thoroughly if the quick walk cannot continue.
///
/// # Safety
/// `from` must be registers of the running stack, of a function that has not returned yet.
unsafe fn search(from: Registers, trace: &mut Trace) -> Result<Found, NotFound> {
    // SAFETY: the caller's promise.
    let mut unwinder = unsafe { Unwinder::new(from) };
    match walk(&mut unwinder, trace) {
        Ok(Found::Unarmed(foot, route)) => {
            let cacheable = route.contiguous && unwinder.is_repeatable();
            Ok(Found::Unarmed(foot, Route { cacheable, ..route }))
        }
        Err(NotFound::Unsupported) => walk_thoroughly(from, trace),
        other => other,
    }
}

/// The thorough walk, from the frame that `from` belongs to.
#[cfg(target_os = "linux")]
#[cold]
fn walk_thoroughly(from: Registers, trace: &mut Trace) -> Result<Found, NotFound> {
    let mut second = Trace { uses_map: trace.uses_map, ..Trace::new() };
    let found = crate::unwind::full_walk::from_frame_at(from.sp, |unwinder| Some(walk(unwinder, &mut second)));
    found.map_or(Err(NotFound::Unsupported), |result| {
        *trace = second;
        result
    })
}

/// There is no thorough walk.
#[cfg(not(target_os = "linux"))]
fn walk_thoroughly(_from: Registers, _trail: &mut Trace) -> Result<Found, NotFound> {
    Err(NotFound::Unsupported)
}

/// The running stack's foot or record, without recognising anything new: for reading, so it is
/// quick, and safe in a signal handler.
///
/// # Safety
/// `from` must be registers of the running stack, of a function that has not returned yet.
pub(crate) unsafe fn walk_known(from: Registers) -> Option<Found> {
    // SAFETY: the caller's promise.
    unsafe { search(from, &mut Trace::new()) }.ok()
}

/// The running stack's foot or record by its frames alone, without the stack map. As in every walk,
/// the record follows its foot.
///
/// # Safety
/// `from` must be registers of the running stack.
pub(crate) unsafe fn walk_frames(from: Registers) -> Option<Found> {
    let mut trace = Trace { uses_map: false, ..Trace::new() };
    // SAFETY: the caller's promise.
    unsafe { search(from, &mut trace) }.ok()
}

/// The running stack's foot or record. Recognises an exit trampoline that this process has not met
/// yet.
///
/// # Safety
/// `from` must be registers of the running stack, of a function that has not returned yet.
pub(crate) unsafe fn walk_to_foot(from: Registers) -> Result<Found, Error> {
    let mut recognised = false;
    // The result of the probes, if this walk ran them.
    let mut probe = None;
    loop {
        // Read before the walk, as another thread may run the probes meanwhile.
        let probed = recognition::is_probed();
        let mut trace = Trace::new();
        // SAFETY: the caller's promise.
        let end = match unsafe { search(from, &mut trace) } {
            Ok(found) => return Ok(found),
            Err(NotFound::SignalStack) => return Err(Error::SignalStack),
            Err(NotFound::Registered(address)) => {
                recognition::add_registered(address)?;
                continue;
            }
            Err(NotFound::End(end)) => end,
            Err(NotFound::Unsupported) => &NOT_WALKABLE,
        };
        if !probed && probe.is_none() {
            if refusal::is_too_early(&trace.addresses()) {
                return Err(Error::TooEarly);
            }
            probe = Some(recognition::probe());
            continue;
        }
        let addresses = trace.addresses();
        if !recognised && recognition::recognise(&addresses)? {
            recognised = true;
            continue;
        }
        // If a probe has failed, this stack may be of the kind that the probe would have shown.
        probe.unwrap_or(Ok(()))?;
        return Err(refusal::of(end, from.pc, addresses));
    }
}
