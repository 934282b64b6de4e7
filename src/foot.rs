//! Where the running stack's foot is.

use crate::arch::Registers;
use crate::error::{Addresses, Error};
use crate::record::Record;
use crate::redirect::code;
use crate::refusal::{self, End, NO_TABLE, NOT_WALKABLE, OVER, SWITCH, UNKNOWN};
use crate::unwind::{Frame, Step, step};
use crate::{exits, os, registry, trampoline};

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
        }
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
            for &place in self.places[..self.count.min(self.provable)].iter().filter(|&&place| place < record.top()) {
                registry::prove(place, record);
            }
        }
        Bottom::Armed(record, in_one_piece)
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
                && let Some(record) = draining(top)
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
        if let Some(record) = registry::find(top) {
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
            return match registry::find(frame.registers.sp) {
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
/// of ours, which was there, has put the original address back already.
fn draining(top: usize) -> Option<&'static Record> {
    registry::by_top(top).filter(|record| record.is_draining() && record.is_live())
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

/// The bottom of the running stack; recognises what this process has not met yet.
///
/// # Safety
/// `from` must be registers of the running stack.
pub(crate) unsafe fn bottom(from: Registers) -> Result<Bottom, Error> {
    let mut recognised = false;
    // What the probes said, if this walk made them.
    let mut probe = None;
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
        if !probed && probe.is_none() {
            probe = Some(exits::probe());
            continue;
        }
        let addresses = trail.addresses();
        if !recognised && exits::recognise(&addresses)? {
            recognised = true;
            continue;
        }
        // Where a probe has failed, this stack may be of the kind that it would have shown.
        probe.unwrap_or(Ok(()))?;
        return Err(refusal::of(end, from.pc, addresses));
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
                    match verdict(inner, pc, sp) {
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
    fn verdict(inner: Registers, pc: usize, sp: usize) -> Option<Result<Bottom, Lost>> {
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
        let drained = trampoline.and_then(|_| super::draining(sp));
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
        registry::find(sp).map(|record| Ok(Bottom::Armed(record, false)))
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
