//! The quick walk: by cached rules, with the stack pointer and the frame pointer.

use super::cache;
use super::frame::{Frame, PlainCaller, Step, Steps};
#[cfg(target_os = "linux")]
use super::full_walk::{self, FullWalk};
use super::memory::{LARGEST_BUFFER, Memory};
use super::rule::{Base, Rule};
use super::tables;
use crate::machine::arch::{self, Registers};
#[cfg(target_os = "linux")]
use crate::machine::os;

/// The quick walk.
pub(crate) struct Unwinder {
    pub(super) frame: Frame,
    pub(super) memory: Memory,
    /// Whether every step used a simple rule of code that is never unloaded.
    repeatable: bool,
}

impl Unwinder {
    /// A walk that starts with these registers.
    ///
    /// # Safety
    /// They must be registers of the running stack, of a function that does not return before the
    /// walk ends.
    #[inline]
    pub(crate) unsafe fn new(from: Registers) -> Self {
        Self { frame: Frame { registers: from, exact: true }, memory: Memory::around(from.sp), repeatable: true }
    }

    /// Whether the walk so far can be repeated by comparing words (`memo.rs`): every step used a
    /// simple rule of code that is never unloaded.
    pub(crate) fn is_repeatable(&self) -> bool {
        self.repeatable
    }

    /// The rest of [`Steps::step`]: the rule is not cached, or has another form than the simple
    /// one.
    #[cold]
    #[inline(never)]
    fn step_uncached(&mut self, pc: usize, kept: Option<Rule>) -> Step {
        let rule = kept.unwrap_or_else(|| self.look_up(pc));
        self.apply(pc, rule)
    }

    /// The rule for a place: from the cache under the key for code that may be unloaded, or from
    /// its unwind table.
    #[cfg(target_os = "linux")]
    #[cold]
    #[inline(never)]
    fn look_up(&mut self, pc: usize) -> Rule {
        let key = tables::key(pc);
        if let Some(rule) = key.and_then(cache::get) {
            self.repeatable &= key == Some(pc);
            return rule;
        }
        if !has_room() {
            return Rule::Other;
        }
        let (rule, lifetime) = tables::from_tables(pc);
        if let Some(key) = key.filter(|_| lifetime != tables::Lifetime::Unknown) {
            cache::put(key, rule);
        }
        self.repeatable &= lifetime == tables::Lifetime::Permanent;
        rule
    }

    /// The rule for a place: the same for every function, as there are no tables.
    #[cfg(target_os = "macos")]
    fn look_up(&mut self, pc: usize) -> Rule {
        let rule = tables::from_tables(pc);
        cache::put(pc, rule);
        rule
    }

    /// The step by any rule.
    #[cfg_attr(target_os = "macos", expect(unused_variables, reason = "there are no tables to look up"))]
    fn apply(&mut self, pc: usize, rule: Rule) -> Step {
        match rule {
            Rule::Frame { base, offset, return_at, fp_at } => self.step_to_caller(base, offset, return_at, fp_at),
            #[cfg(target_os = "linux")]
            Rule::Signal => self.step_to_interrupted(),
            #[cfg(not(target_os = "linux"))]
            Rule::Signal => Step::Unsupported,
            // On aarch64 the kernel's code for this has no table since Linux 5.8 («arm64: vdso:
            // Disable dwarf unwinding through the sigreturn trampoline»): unwinders are expected to
            // recognise its two instructions. libgcc does so as well. musl's has none on any
            // processor.
            #[cfg(all(target_os = "linux", any(target_arch = "aarch64", target_env = "musl")))]
            Rule::NoTable if !self.frame.exact && full_walk::is_kernels(self.frame.registers.pc) => {
                self.step_to_interrupted()
            }
            Rule::Outermost => Step::Outermost,
            #[cfg(target_os = "linux")]
            Rule::NoTable if self.frame.exact => {
                let Some(above) = full_walk::linkage_stub(pc) else { return Step::NoTable };
                self.repeatable = false;
                let return_at = if cfg!(target_arch = "x86_64") { Some(-8) } else { None };
                // Such a stub has only its return address on the stack.
                self.step_to_caller(Base::StackPointer, above as i32, return_at, None)
            }
            Rule::NoTable => Step::NoTable,
            #[cfg(target_os = "linux")]
            Rule::Other => self.by_table(pc),
            #[cfg(not(target_os = "linux"))]
            Rule::Other => Step::Unsupported,
        }
    }

    /// The step by the unwind table, with the registers that this walk has.
    #[cfg(target_os = "linux")]
    fn by_table(&mut self, pc: usize) -> Step {
        self.repeatable = false;
        if !has_room() {
            return Step::Unsupported;
        }
        let mut full = FullWalk::of(self.frame, self.memory);
        let step = full.by_table(pc);
        if let Step::Caller { .. } = step {
            let Some(frame) = full.quick() else { return Step::Unsupported };
            (self.frame, self.memory) = (frame, full.memory());
        }
        step
    }

    #[cfg(target_os = "linux")]
    fn step_to_interrupted(&mut self) -> Step {
        self.repeatable = false;
        let mut full = FullWalk::of(self.frame, self.memory);
        let step = full.step_to_interrupted();
        if let Step::Interrupted(frame) | Step::InterruptedElsewhere(frame) = step {
            (self.frame, self.memory) = (frame, full.memory());
        }
        step
    }

    /// The step by a simple rule.
    #[inline]
    fn step_to_caller(&mut self, base: Base, offset: i32, return_at: Option<i32>, fp_at: Option<i32>) -> Step {
        let Registers { sp, fp, link, .. } = self.frame.registers;
        let cfa = match base {
            Base::StackPointer => sp,
            Base::FramePointer => fp,
        }
        .wrapping_add_signed(offset as isize);
        let by_frame_pointer = base == Base::FramePointer;
        if cfa == 0 || cfa % 8 != 0 || (!by_frame_pointer && cfa < sp) {
            return Step::Unsupported;
        }
        // A caller's frame lies further out in the same segment, except for code that switches
        // stacks under a frame pointer.
        let Some(readable) = self.memory.advance(sp, cfa) else { return Step::Unsupported };
        let contiguous = readable && (!by_frame_pointer || cfa - sp <= LARGEST_BUFFER);
        let at = |at: i32| cfa.wrapping_add_signed(at as isize);
        let (slot, word) = match return_at {
            Some(place) => match self.memory.load(at(place)) {
                Some(word) => (Some(at(place)), word),
                None => return Step::Unsupported,
            },
            None => (None, link),
        };
        let pc = arch::strip(word);
        if pc == 0 {
            return Step::Outermost;
        }
        let fp_slot = fp_at.map(at);
        let fp = match fp_slot {
            Some(place) => match self.memory.load(place) {
                Some(fp) => fp,
                None => return Step::Unsupported,
            },
            None => fp,
        };
        self.frame = Frame { registers: Registers { pc, sp: cfa, fp, link: 0 }, exact: false };
        Step::Caller { frame: self.frame, slot, word, contiguous, fp_slot, by_frame_pointer }
    }
}

impl Steps for Unwinder {
    /// Nearly all of a walk is this function, so rare cases are in functions of their own (here, in
    /// `cache.rs`, and in `exit/walk.rs`). One `match` of all cases would be an indirect jump.
    /// Where those are not predicted (against Spectre), such a jump takes longer than the rest of
    /// the step.
    #[inline]
    fn step(&mut self) -> Step {
        let pc = self.frame.place();
        match cache::get(pc) {
            Some(Rule::Frame { base, offset, return_at, fp_at }) => self.step_to_caller(base, offset, return_at, fp_at),
            kept => self.step_uncached(pc, kept),
        }
    }

    /// In one loop, whose state is in registers.
    #[inline(always)]
    fn step_plainly(&mut self, mut goes_on: impl FnMut(PlainCaller) -> bool) -> Option<usize> {
        let memory = self.memory;
        let mut place = self.frame.place();
        let Registers { mut sp, mut fp, .. } = self.frame.registers;
        let mut last = None;
        // A rule without a place for the return address is that of the innermost function.
        while let Some(Rule::Frame { base, offset, return_at: Some(return_at), fp_at }) = cache::get(place) {
            let by_frame_pointer = base == Base::FramePointer;
            let from = if by_frame_pointer { fp } else { sp };
            // The checks of `step_to_caller`.
            let cfa = from.wrapping_add_signed(offset as isize);
            if cfa % 8 != 0 || !memory.is_known(sp, cfa) || by_frame_pointer && cfa - sp > LARGEST_BUFFER {
                break;
            }
            let slot = cfa.wrapping_add_signed(return_at as isize);
            let Some(word) = memory.load_known(slot) else { break };
            let pc = arch::strip(word);
            let outer_fp = match fp_at {
                Some(at) => match memory.load_known(cfa.wrapping_add_signed(at as isize)) {
                    Some(stored) => stored,
                    None => break,
                },
                None => fp,
            };
            if pc == 0 || !goes_on(PlainCaller { pc, sp: cfa }) {
                break;
            }
            (sp, fp, place) = (cfa, outer_fp, pc.wrapping_sub(1));
            last = Some(pc);
        }
        let pc = last?;
        self.frame = Frame { registers: Registers { pc, sp, fp, link: 0 }, exact: false };
        Some(sp)
    }
}

/// Whether the stack has room to interpret a table. That takes some KiB, which an alternate signal
/// stack need not have.
#[cfg(target_os = "linux")]
fn has_room() -> bool {
    os::signal_stack_room().is_none_or(|room| room >= ROOM)
}

/// The room that this needs on a signal stack, also without optimisation.
#[cfg(target_os = "linux")]
const ROOM: usize = if cfg!(debug_assertions) { 64 * 1024 } else { 32 * 1024 };

/// How the function whose return address is at `foot` signs it; `None` if its unwind table does not
/// say.
///
/// # Safety
/// As for [`Unwinder::new`].
pub(crate) unsafe fn signing(from: Registers, foot: usize) -> Option<arch::Signing> {
    // SAFETY: the caller promises registers of the running stack.
    let mut unwinder = unsafe { Unwinder::new(from) };
    loop {
        let place = unwinder.frame.place();
        match unwinder.step() {
            Step::Caller { slot, .. } if slot == Some(foot) => return tables::signing(place),
            Step::Caller { .. } | Step::Interrupted(_) => {}
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::hint::black_box;

    /// The return addresses and stack pointers of all frames outside of this one, once by single
    /// steps and once by plain ones wherever they are possible, and how many of these there were.
    #[inline(never)]
    fn walks() -> ([Vec<(usize, usize)>; 2], usize) {
        let here = Registers::here();
        let mut plain = 0;
        let walks = [false, true].map(|plainly| {
            let mut frames = Vec::new();
            // SAFETY: registers of this function.
            let mut walk = unsafe { Unwinder::new(here) };
            loop {
                if plainly {
                    let mut calls = 0;
                    let last = walk.step_plainly(|PlainCaller { pc, sp }| {
                        calls += 1;
                        // Every seventh is left to a single step.
                        let goes_on = calls % 7 != 0;
                        if goes_on {
                            plain += 1;
                            frames.push((pc, sp));
                        }
                        goes_on
                    });
                    assert_eq!(last, last.and(frames.last().map(|&(_, sp)| sp)));
                }
                match walk.step() {
                    Step::Caller { frame, .. } => frames.push((frame.registers.pc, frame.registers.sp)),
                    _ => return frames,
                }
            }
        });
        (walks, plain)
    }

    #[inline(never)]
    fn deep<const ROOM: usize>(depth: usize) -> ([Vec<(usize, usize)>; 2], usize) {
        let room = black_box([0_u8; ROOM]);
        let found = if depth == 0 { walks() } else { deep::<ROOM>(depth - 1) };
        black_box(room);
        found
    }

    #[test]
    fn plain_steps_lead_through_the_same_frames_as_single_ones() {
        for ([single, plainly], plain) in [deep::<0>(300), deep::<200>(300), deep::<5000>(50)] {
            assert!(single.len() > 50, "{}", single.len());
            assert_eq!(single, plainly);
            // In the frames of the largest room every step leads to another page.
            assert!(plain > single.len() / 2 || single.len() < 100, "{plain} of {}", single.len());
        }
    }
}
