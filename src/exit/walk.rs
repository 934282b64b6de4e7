//! Where the running stack's foot is.

use crate::base::error::Error;
use crate::base::foot::Foot;
use crate::base::redirect::Method;
use crate::base::unrecognised::Addresses;
use crate::exit::recognition;
use crate::exit::redirect::code;
use crate::exit::refusal::{self, End, HANDLER, NO_TABLE, NOT_WALKABLE, OVER, SWITCH, UNKNOWN};
use crate::exit::trampoline;
use crate::machine::arch;
use crate::machine::arch::{Registers, untagged};
use crate::machine::os;
use crate::record::header::Record;
use crate::record::stacks::STACKS;
use crate::unwind::frame::{Step, Steps};
use crate::unwind::quick::Unwinder;

/// What unwinding led to.
pub(crate) enum Found {
    /// The record of this stack, and whether the stack is in one piece from here to there.
    Armed(&'static Record, bool),
    /// The foot of this stack, which is not armed, and the way to it.
    Unarmed(Foot, Route),
}

/// How a walk has come to a foot.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Route {
    /// Whether the stack is in one piece from where it began.
    pub in_one_piece: bool,
    /// Whether it may be remembered as a whole.
    pub memorable: bool,
}

/// The return addresses on the way, for an error and for what needs to see several at once.
struct Trail {
    innermost: [usize; Self::KEPT],
    /// The stack pointers of the frames that those addresses are in.
    places: [usize; Self::KEPT],
    outermost: [usize; Self::KEPT],
    count: usize,
    /// How many of the places may be proven: those before the first frame that a signal has interrupted. It may be looking up just
    /// this, and have loaded already whose the page was: then it must not find its block proven for somebody else next.
    provable: usize,
    /// Whether the page map is asked on the way. Without it the way goes on to the foot itself.
    by_map: bool,
}

impl Trail {
    const KEPT: usize = 16;

    const fn new() -> Self {
        Self {
            innermost: [0; Self::KEPT],
            places: [0; Self::KEPT],
            outermost: [0; Self::KEPT],
            count: 0,
            provable: Self::KEPT,
            by_map: true,
        }
    }

    /// The record that the page map has for a place on the way.
    fn look_up(&self, place: usize) -> Option<&'static Record> {
        if self.by_map { STACKS.find(place) } else { None }
    }

    fn push(&mut self, address: usize, place: usize) {
        if self.count < Self::KEPT {
            self.innermost[self.count] = address;
            self.places[self.count] = place;
        } else {
            self.outermost[self.count % Self::KEPT] = address;
        }
        self.count += 1;
    }

    /// What comes next was interrupted by a signal.
    fn interrupted(&mut self) {
        self.provable = self.provable.min(self.count);
    }

    /// The record that this way has led to: the innermost frames on it are known to be on its stack from now on, if that
    /// is in one piece. Or else code that goes deeper and deeper would unwind from each new place to the oldest one.
    fn armed(&self, record: &'static Record, in_one_piece: bool) -> Found {
        // A walk by the frames alone only verifies. It begins deeper than what will look again.
        if in_one_piece && self.by_map {
            for &place in
                self.places[..self.count.min(self.provable)].iter().filter(|&&place| untagged(place) < record.base())
            {
                STACKS.add_block(place, record);
            }
        }
        Found::Armed(record, in_one_piece)
    }

    fn addresses(&self) -> Addresses {
        let innermost = self.innermost[..self.count.min(Self::KEPT)].iter().copied();
        let rest = self.count.saturating_sub(Self::KEPT);
        let first = self.count - rest.min(Self::KEPT);
        let outermost = (first..self.count).filter(|_| rest > 0).map(|at| self.outermost[at % Self::KEPT]);
        Addresses::new(innermost.chain(outermost))
    }
}

const _: () = assert!(Addresses::MOST == 2 * Trail::KEPT);

/// Why a walk ended without an answer.
enum Lost {
    /// It leads to an exit trampoline that a runtime has registered, of which this is the first stack.
    Registered(usize),
    /// The whole way is in the trail; this is why it ended.
    End(&'static End),
    /// A rule that the quick unwinder does not know.
    Unsupported,
    SignalStack,
}

/// Unwinds to the first frame that a live record owns, or to the foot.
fn walk(unwinder: &mut impl Steps, trail: &mut Trail) -> Result<Found, Lost> {
    let mut in_one_piece = true;
    loop {
        let (caller, slot, word, contiguous, fp_slot) = match unwinder.step() {
            Step::Caller { frame, slot, word, contiguous, fp_slot, .. } => (frame, slot, word, contiguous, fp_slot),
            other => match no_caller(other, trail, in_one_piece) {
                None => continue,
                Some(answer) => return answer,
            },
        };
        in_one_piece &= contiguous;
        let (address, base) = (caller.registers.pc, caller.registers.sp);
        trail.push(address, base);
        if let Some(slot) = slot {
            if trampoline::is_label(address) {
                let record = STACKS.by_base(base).filter(|record| follow(record, slot, word));
                return record.map(|record| trail.armed(record, in_one_piece)).ok_or(Lost::End(&OVER));
            }
            let trampoline = trampoline::standing_for(address);
            if trampoline.is_some()
                && let Some(record) = draining(base, Some(slot))
            {
                return Ok(trail.armed(record, in_one_piece));
            }
            if let Some(record) = code::draining(address, slot, base) {
                return Ok(trail.armed(record, in_one_piece));
            }
            if let Some(trampoline) = trampoline {
                let foot = Foot { address: slot, word, base, trampoline, frame_pointer_at: fp_slot };
                if let Some(record) = code::owner(foot) {
                    return Ok(trail.armed(record, in_one_piece));
                }
                return Ok(Found::Unarmed(foot, Route { in_one_piece, memorable: false }));
            }
            if recognition::is_registered(address) {
                return Err(Lost::Registered(address));
            }
        }
        if let Some(record) = trail.look_up(base) {
            return Ok(trail.armed(record, in_one_piece));
        }
    }
}

/// Follows the foot of its stack to `slot`, where a walk has just found `word`, a trampoline of ours. Whether it is there: if not, the
/// record is not that stack's.
///
/// A function that calls another one last of all may go on in it by a jump. On x86_64 the return address stays where it is
/// then. On aarch64 each function stores it where it pleases.
fn follow(record: &Record, slot: usize, word: usize) -> bool {
    if record.canary_at() == slot {
        return true;
    }
    // The foot of a C scope, which is a word of its holder's, does not move.
    let is_label = || trampoline::is_label(arch::strip(record.canary().1));
    let moved = cfg!(target_arch = "aarch64") && record.method() == Method::Slot && record.is_armed() && is_label();
    if moved {
        record.move_foot(slot, (slot, word));
    }
    moved
}

/// What a walk ends with, if a step does not lead to a caller; nothing where it goes on. Apart for the reason that `step` gives.
#[cold]
#[inline(never)]
fn no_caller(step: Step, trail: &mut Trail, in_one_piece: bool) -> Option<Result<Found, Lost>> {
    Some(Err(match step {
        Step::Caller { .. } => unreachable!("the walk goes there itself"),
        Step::Interrupted(frame) => {
            trail.interrupted();
            trail.push(frame.registers.pc, frame.registers.sp);
            return trail.look_up(frame.registers.sp).map(|record| Ok(trail.armed(record, in_one_piece)));
        }
        Step::InterruptedElsewhere(_) if os::on_signal_stack() => Lost::SignalStack,
        Step::InterruptedElsewhere(_) => Lost::End(&HANDLER),
        Step::Switch => Lost::End(&SWITCH),
        Step::Outermost => Lost::End(&UNKNOWN),
        Step::NoTable => Lost::End(&NO_TABLE),
        // A rule that is not known may be one that cannot be learnt there.
        Step::Unsupported if os::on_signal_stack() => Lost::SignalStack,
        Step::Unsupported => Lost::Unsupported,
    }))
}

/// The record of the stack that ends in an exit trampoline with the stack pointer `base`, if it is draining: then a trampoline
/// of ours, which was there, has put the original address back already. That is at `slot`, where this is known.
fn draining(base: usize, slot: Option<usize>) -> Option<&'static Record> {
    let drains = |record: &&Record| record.is_draining() && record.is_live();
    let is_there = |record: &&Record| slot.is_none_or(|slot| may_return_by(record, slot));
    STACKS.by_base(base).filter(drains).filter(is_there)
}

/// Whether a call whose return address is at `slot` can be the one by which a trampoline drains `record`. Where that is in the
/// trampoline's frame, seen from the mark, `asm/` says. On aarch64 the mark of a stack that was abandoned in a handler can outlive
/// it (`Record::canary_may_be_stale`); on x86_64 the next stack's foot overwrites it.
fn may_return_by(record: &Record, slot: usize) -> bool {
    !cfg!(target_arch = "aarch64") || !record.is_reached_by_walk() || record.canary_at().wrapping_sub(slot) == 144
}

/// The walk from `from`: the quick one, or where that cannot go on the thorough one.
///
/// # Safety
/// `from` must be registers of the running stack, of a function that has not returned yet.
unsafe fn search(from: Registers, trail: &mut Trail) -> Result<Found, Lost> {
    // SAFETY: the caller's promise.
    let mut unwinder = unsafe { Unwinder::new(from) };
    match walk(&mut unwinder, trail) {
        Ok(Found::Unarmed(foot, way)) => {
            let memorable = way.in_one_piece && unwinder.is_repeatable();
            Ok(Found::Unarmed(foot, Route { memorable, ..way }))
        }
        Err(Lost::Unsupported) => walk_thoroughly(from, trail),
        other => other,
    }
}

/// The thorough walk, from the frame that `from` is of.
#[cfg(target_os = "linux")]
#[cold]
fn walk_thoroughly(from: Registers, trail: &mut Trail) -> Result<Found, Lost> {
    let mut anew = Trail { by_map: trail.by_map, ..Trail::new() };
    let found = crate::unwind::full_walk::from_frame_at(from.sp, |unwinder| Some(walk(unwinder, &mut anew)));
    found.map_or(Err(Lost::Unsupported), |result| {
        *trail = anew;
        result
    })
}

/// There is no other one.
#[cfg(not(target_os = "linux"))]
fn walk_thoroughly(_from: Registers, _trail: &mut Trail) -> Result<Found, Lost> {
    Err(Lost::Unsupported)
}

/// The bottom of the running stack, without recognising anything new: for reading, so it has to be quick and safe in a
/// signal handler.
///
/// # Safety
/// `from` must be registers of the running stack, of a function that has not returned yet.
pub(crate) unsafe fn walk_known(from: Registers) -> Option<Found> {
    // SAFETY: the caller's promise.
    unsafe { search(from, &mut Trail::new()) }.ok()
}

/// The bottom of the running stack by its frames alone, without what the page map has from earlier walks. As in every walk, the
/// record follows its foot.
///
/// # Safety
/// `from` must be registers of the running stack.
pub(crate) unsafe fn walk_frames(from: Registers) -> Option<Found> {
    let mut trail = Trail { by_map: false, ..Trail::new() };
    // SAFETY: the caller's promise.
    unsafe { search(from, &mut trail) }.ok()
}

/// The bottom of the running stack; recognises what this process has not met yet.
///
/// # Safety
/// `from` must be registers of the running stack, of a function that has not returned yet.
pub(crate) unsafe fn walk_to_foot(from: Registers) -> Result<Found, Error> {
    let mut recognised = false;
    // What the probes said, if this walk made them.
    let mut probe = None;
    loop {
        // Before the walk: another thread may be probing while it is made.
        let probed = recognition::is_probed();
        let mut trail = Trail::new();
        // SAFETY: the caller's promise.
        let end = match unsafe { search(from, &mut trail) } {
            Ok(bottom) => return Ok(bottom),
            Err(Lost::SignalStack) => return Err(Error::SignalStack),
            Err(Lost::Registered(address)) => {
                recognition::add_registered(address)?;
                continue;
            }
            Err(Lost::End(end)) => end,
            Err(Lost::Unsupported) => &NOT_WALKABLE,
        };
        if !probed && probe.is_none() {
            if refusal::is_too_early(&trail.addresses()) {
                return Err(Error::TooEarly);
            }
            probe = Some(recognition::probe());
            continue;
        }
        let addresses = trail.addresses();
        if !recognised && recognition::recognise(&addresses)? {
            recognised = true;
            continue;
        }
        // Where a probe has failed, this stack may be of the kind that it would have shown.
        probe.unwrap_or(Ok(()))?;
        return Err(refusal::of(end, from.pc, addresses));
    }
}
