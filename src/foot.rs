//! Where the running stack's foot is.

use crate::arch::{Registers, untagged};
use crate::error::Error;
use crate::record::Record;
use crate::redirect::code;
use crate::unwind::{Frame, Step, step};
use crate::{drain, exits, os, registry, trampoline};

/// What unwinding led to.
pub(crate) enum Bottom {
    /// The record of this stack, and whether the stack is in one piece from here to there.
    Armed(&'static Record, bool),
    /// The foot of this stack, which is not armed.
    Bare(Foot, bool),
}

/// The foot of a stack that is not armed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Foot {
    /// Its address.
    pub address: usize,
    /// The word found there: a return address, maybe signed.
    pub word: usize,
    /// The stack pointer at which the entry function returns.
    pub top: usize,
    /// The trampoline that stands for the exit trampoline found.
    pub trampoline: usize,
    /// Where the entry function has saved the frame pointer, if it has.
    pub frame_pointer_at: Option<usize>,
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
        if self.by_map { registry::find(place) } else { None }
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
    fn armed(&self, record: &'static Record, in_one_piece: bool) -> Bottom {
        if in_one_piece {
            for &place in
                self.places[..self.count.min(self.provable)].iter().filter(|&&place| untagged(place) < record.top())
            {
                registry::prove(place, record);
            }
        }
        Bottom::Armed(record, in_one_piece)
    }

    fn addresses(&self) -> Vec<usize> {
        let mut addresses = self.innermost[..self.count.min(Self::KEPT)].to_vec();
        let rest = self.count.saturating_sub(Self::KEPT);
        let first = self.count - rest.min(Self::KEPT);
        addresses.extend((first..self.count).filter(|_| rest > 0).map(|at| self.outermost[at % Self::KEPT]));
        addresses
    }
}

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

/// Where a walk ended that found nothing, and what whoever reads that can do.
struct End {
    reason: &'static str,
    advice: &'static str,
}

const FIBER: &str = "if this is a fiber whose function never returns (corosensei, may, Boost.Context), or a runtime of your \
                     own, run its function inside exeunt::enter (C: exeunt_enter); if a wrapper of your runtime calls the \
                     function and then switches away, register it with exeunt::register_trampoline";

static SWITCH: End = End { reason: "it ends in a coroutine's switch to the stack that resumed it", advice: FIBER };
static NOT_WALKABLE: End = End { reason: "it could not be unwound", advice: FIBER };
static UNKNOWN: End = End {
    reason: "its outermost frame is none that exeunt knows",
    advice: "if this runs before main has begun, or after the stack's function has returned (initialisers and destructors \
             of statics, destructors of thread-locals, atexit), use storage and handlers in between, and let a handler do \
             what is to be done at the end; if it is a stack that was made by bare system calls, run its function inside \
             exeunt::enter (C: exeunt_enter); if a wrapper of your runtime calls the function and then switches away, \
             register it with exeunt::register_trampoline",
};
static OVER: End = End {
    reason: "its foot holds a trampoline of exeunt, but no record belongs to it",
    advice: "this stack is at its end, and its handlers have run: what runs this late (destructors of thread-locals and of \
             statics, atexit) can use no storage and no handlers; let a handler do it",
};
static NO_TABLE: End = End {
    reason: "it runs code without unwind tables",
    advice: "compile the code of the outermost frame with unwind tables (-fasynchronous-unwind-tables; CFI directives in \
             assembly); or, if that is where a fiber begins, run the fiber's function inside exeunt::enter (C: \
             exeunt_enter), or register the wrapper that calls it with exeunt::register_trampoline",
};

/// Unwinds from `from` to the first frame that a live record owns, or to the foot.
///
/// # Safety
/// `from` must be registers of the running stack.
unsafe fn walk(from: Registers, trail: &mut Trail) -> Result<Bottom, Lost> {
    let mut frame = Frame { registers: from, exact: true };
    let mut in_one_piece = true;
    loop {
        // SAFETY: starts on the running stack, and goes from caller to caller.
        let (caller, slot, word, contiguous, fp_slot) = match unsafe { step(frame) } {
            Step::Caller { frame, slot, word, contiguous, fp_slot, .. } => (frame, slot, word, contiguous, fp_slot),
            other => match no_caller(other, trail, in_one_piece) {
                Ok(interrupted) => {
                    frame = interrupted;
                    continue;
                }
                Err(answer) => return answer,
            },
        };
        in_one_piece &= contiguous;
        let (address, top) = (caller.registers.pc, caller.registers.sp);
        trail.push(address, top);
        if let Some(slot) = slot {
            if trampoline::is_label(address) {
                let record = registry::by_top(top).filter(|record| record.follow(slot, word));
                return record.map(|record| trail.armed(record, in_one_piece)).ok_or(Lost::End(&OVER));
            }
            let trampoline = trampoline::standing_for(address);
            if trampoline.is_some()
                && let Some(record) = draining(top, Some(slot))
            {
                return Ok(trail.armed(record, in_one_piece));
            }
            if let Some(record) = code::draining(address, slot, top) {
                return Ok(trail.armed(record, in_one_piece));
            }
            if let Some(trampoline) = trampoline {
                let foot = Foot { address: slot, word, top, trampoline, frame_pointer_at: fp_slot };
                if let Some(record) = code::owner(foot) {
                    return Ok(trail.armed(record, in_one_piece));
                }
                return Ok(Bottom::Bare(foot, in_one_piece));
            }
            if exits::is_registered(address) {
                return Err(Lost::Registered(address));
            }
        }
        if let Some(record) = trail.look_up(top) {
            return Ok(trail.armed(record, in_one_piece));
        }
        frame = caller;
    }
}

/// Where a walk goes on, or what it ends with, if a step does not lead to a caller. Apart for the reason that `step` gives.
#[cold]
#[inline(never)]
fn no_caller(step: Step, trail: &mut Trail, in_one_piece: bool) -> Result<Frame, Result<Bottom, Lost>> {
    Err(Err(match step {
        Step::Interrupted(_) if os::on_signal_stack() => Lost::SignalStack,
        Step::Caller { .. } => unreachable!("the walk goes there itself"),
        Step::Interrupted(frame) => {
            trail.interrupted();
            trail.push(frame.registers.pc, frame.registers.sp);
            return match trail.look_up(frame.registers.sp) {
                Some(record) => Err(Ok(trail.armed(record, in_one_piece))),
                None => Ok(frame),
            };
        }
        Step::Switch => Lost::End(&SWITCH),
        Step::Outermost => Lost::End(&UNKNOWN),
        Step::NoTable => Lost::End(&NO_TABLE),
        // A rule that is not known may be one that cannot be learnt there.
        Step::Unsupported if os::on_signal_stack() => Lost::SignalStack,
        Step::Unsupported => Lost::Unsupported,
    }))
}

/// The record of the stack that ends in an exit trampoline with the stack pointer `top`, if it is draining: then a trampoline
/// of ours, which was there, has put the original address back already. That is at `slot`, where this is known.
fn draining(top: usize, slot: Option<usize>) -> Option<&'static Record> {
    let drains = |record: &&Record| record.is_draining() && record.is_live();
    let is_there = |record: &&Record| slot.is_none_or(|slot| drain::may_return_by(record, slot));
    registry::by_top(top).filter(drains).filter(is_there)
}

/// The bottom of the running stack, without recognising anything new: for reading, so it has to be quick and safe in a
/// signal handler.
///
/// # Safety
/// `from` must be registers of the running stack.
pub(crate) unsafe fn known_bottom(from: Registers) -> Option<Bottom> {
    let mut trail = Trail::new();
    // SAFETY: the caller's promise.
    match unsafe { walk(from, &mut trail) } {
        Ok(bottom) => Some(bottom),
        // SAFETY: the caller's promise.
        Err(Lost::Unsupported) => unsafe { slowly::bottom(from, &mut trail) }.ok(),
        Err(_) => None,
    }
}

/// The bottom of the running stack by its frames alone, without what the page map has from earlier walks. As in every walk, the
/// record follows its foot.
///
/// # Safety
/// `from` must be registers of the running stack.
pub(crate) unsafe fn bottom_by_frames(from: Registers) -> Option<Bottom> {
    let mut trail = Trail { by_map: false, ..Trail::new() };
    // SAFETY: the caller's promise.
    match unsafe { walk(from, &mut trail) } {
        Ok(bottom) => Some(bottom),
        // SAFETY: the caller's promise.
        Err(Lost::Unsupported) => unsafe { slowly::bottom(from, &mut trail) }.ok(),
        Err(_) => None,
    }
}

/// The bottom of the running stack; recognises what this process has not met yet.
///
/// # Safety
/// `from` must be registers of the running stack.
pub(crate) unsafe fn bottom(from: Registers) -> Result<Bottom, Error> {
    let mut tried_main = false;
    loop {
        // Before the walk: another thread may be probing while it is made.
        let probed = exits::is_probed();
        let mut trail = Trail::new();
        // SAFETY: the caller's promise.
        let mut result = unsafe { walk(from, &mut trail) };
        if let Err(Lost::Unsupported) = result {
            trail = Trail::new();
            // SAFETY: the caller's promise.
            result = unsafe { slowly::bottom(from, &mut trail) };
        }
        let end = match result {
            Ok(bottom) => return Ok(bottom),
            Err(Lost::SignalStack) => return Err(Error::SignalStack),
            Err(Lost::Registered(address)) => {
                exits::add_registered(address)?;
                continue;
            }
            Err(Lost::End(end)) => end,
            Err(Lost::Unsupported) => &NOT_WALKABLE,
        };
        if !probed {
            exits::probe()?;
            continue;
        }
        let addresses = trail.addresses();
        if !tried_main && exits::recognise_main(&addresses)? {
            tried_main = true;
            continue;
        }
        return Err(exits::unrecognised(&addresses, end.reason, end.advice));
    }
}

/// The general unwinder, for stacks with a frame whose rule is not of the common form: functions that realign their
/// stack, and coroutines whose bottom frame leads to the stack that resumed them.
mod slowly {
    use super::{Bottom, Foot, Lost, OVER, Registers, SWITCH, Trail, UNKNOWN, code, exits, registry, trampoline};
    use crate::unwind;

    /// A larger step than this, or one downwards, leads to another stack.
    const LARGEST_STEP: usize = 1 << 20;

    /// # Safety
    /// `from` must be registers of the running stack.
    pub(super) unsafe fn bottom(from: Registers, trail: &mut Trail) -> Result<Bottom, Lost> {
        let _uncancelled = crate::os::Uncancelled::new();
        let mut result = Err(Lost::End(&UNKNOWN));
        let mut previous: Option<Registers> = None;
        // SAFETY: `trace_unsynchronized` shares state with concurrent traces only on systems that have to load their
        // unwinder; Linux and macOS do not.
        unsafe {
            backtrace::trace_unsynchronized(|frame| {
                let (pc, sp) = (frame.ip() as usize, frame.sp() as usize);
                // The unwinder's own frames, and those between it and `from`.
                if sp < from.sp && previous.is_none() {
                    return true;
                }
                // How some outermost frames are marked; it is no address to look for names at.
                if pc == 0 {
                    return false;
                }
                if let Some(inner) = previous {
                    trail.push(pc, sp);
                    match verdict(inner, pc, sp, trail) {
                        Some(answer) => {
                            result = answer;
                            return false;
                        }
                        None => previous = Some(Registers { pc, sp, ..inner }),
                    }
                } else {
                    previous = Some(Registers { pc, sp, ..from });
                }
                true
            });
        }
        result
    }

    /// What the step from `inner` to a caller at `pc` with the stack pointer `sp` tells, if it ends the walk.
    fn verdict(inner: Registers, pc: usize, sp: usize, trail: &Trail) -> Option<Result<Bottom, Lost>> {
        let jumped = sp <= inner.sp || sp - inner.sp > LARGEST_STEP;
        // The rule says so, and not a step by it: where `inner` has its frame pointer is not known here.
        if unwind::is_switch(inner.pc) || jumped && unwind::is_unsupported(inner.pc) {
            return Some(Err(Lost::End(&SWITCH)));
        }
        let slot = return_slot(inner, pc, sp);
        if trampoline::is_label(pc) {
            let record = registry::by_top(sp).filter(|record| slot.is_none_or(|(at, word)| record.follow(at, word)));
            return Some(record.map(|record| Bottom::Armed(record, false)).ok_or(Lost::End(&OVER)));
        }
        let at = slot.map_or(0, |(at, _)| at);
        let trampoline = trampoline::standing_for(pc);
        let drained = trampoline.and_then(|_| super::draining(sp, slot.map(|(at, _)| at)));
        if let Some(record) = drained.or_else(|| code::draining(pc, at, sp)) {
            return Some(Ok(Bottom::Armed(record, false)));
        }
        if let (Some(trampoline), Some((address, word))) = (trampoline, slot) {
            // Where this unwinder's frames have saved what, it does not tell.
            let foot = Foot { address, word, top: sp, trampoline, frame_pointer_at: None };
            let record = code::owner(foot);
            return Some(Ok(record.map_or(Bottom::Bare(foot, false), |record| Bottom::Armed(record, false))));
        }
        if exits::is_registered(pc) {
            return Some(Err(Lost::Registered(pc)));
        }
        trail.look_up(sp).map(|record| Ok(Bottom::Armed(record, false)))
    }

    /// Where in the frame of `inner` the return address `pc` is stored, and the word there.
    fn return_slot(inner: Registers, pc: usize, sp: usize) -> Option<(usize, usize)> {
        let read = |address: usize| {
            // SAFETY: a word of the frame that was just unwound, between its own stack pointer and its caller's.
            let word = unsafe { (address as *const usize).read_volatile() };
            (crate::arch::strip(word) == pc).then_some((address, word))
        };
        if cfg!(target_arch = "x86_64") {
            return read(sp - 8);
        }
        // Elsewhere the function chose the place. Only one that cannot be mistaken will do, and none in what may lie between two stacks.
        if sp.saturating_sub(inner.sp) > LARGEST_STEP {
            return None;
        }
        let mut found = (inner.sp..sp).step_by(8).filter_map(read);
        let first = found.next()?;
        found.next().is_none().then_some(first)
    }
}
