//! The quick walk.

use super::cache;
use super::frame::{Frame, Step, Steps};
use super::memory::{LARGEST_BUFFER, Memory};
use super::rule::{Base, Rule};
use super::tables;
#[cfg(target_os = "linux")]
use super::thorough::{self, Thorough};
use crate::machine::arch::{self, Registers};
#[cfg(target_os = "linux")]
use crate::machine::os;

/// The quick walk.
pub(crate) struct Unwinder {
    pub(super) frame: Frame,
    pub(super) memory: Memory,
    /// Whether every step went by a rule of the usual form, of code that stays for ever.
    usual: bool,
}

impl Unwinder {
    /// A walk that begins with these registers.
    ///
    /// # Safety
    /// They must be registers of the running stack, of a function that has not returned when the walk ends.
    #[inline]
    pub(crate) unsafe fn new(from: Registers) -> Self {
        Self { frame: Frame { registers: from, exact: true }, memory: Memory::around(from.sp), usual: true }
    }

    /// Whether the walk so far may be remembered: every step went by a rule of the usual form, of code that stays for ever.
    pub(crate) fn is_usual(&self) -> bool {
        self.usual
    }

    /// The rest of [`Steps::step`]: where nothing is kept, or another rule than the usual one.
    #[cold]
    #[inline(never)]
    fn rarely(&mut self, pc: usize, kept: Option<Rule>) -> Step {
        let rule = kept.unwrap_or_else(|| self.learn(pc));
        self.apply(pc, rule)
    }

    /// The rule for a place, of code that may be unloaded, or from its unwind table.
    #[cfg(target_os = "linux")]
    #[cold]
    #[inline(never)]
    fn learn(&mut self, pc: usize) -> Rule {
        let key = tables::key(pc);
        if let Some(rule) = key.and_then(cache::get) {
            self.usual &= key == Some(pc);
            return rule;
        }
        if !has_room() {
            return Rule::Other;
        }
        let (rule, owner) = tables::from_tables(pc);
        if let Some(key) = key.filter(|_| owner != tables::Owner::Nobody) {
            cache::put(key, rule);
        }
        self.usual &= owner == tables::Owner::Permanent;
        rule
    }

    /// There are no tables.
    #[cfg(target_os = "macos")]
    fn learn(&mut self, pc: usize) -> Rule {
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
            // On aarch64 the kernel's own code for this has had no table since Linux 5.8 («arm64: vdso: Disable dwarf unwinding
            // through the sigreturn trampoline»): unwinders are to know its two instructions. libgcc does so as well.
            #[cfg(all(target_os = "linux", target_arch = "aarch64"))]
            Rule::NoTable if !self.frame.exact && thorough::is_kernels(self.frame.registers.pc) => {
                self.step_to_interrupted()
            }
            Rule::Outermost => Step::Outermost,
            #[cfg(target_os = "linux")]
            Rule::NoTable if self.frame.exact => {
                let Some(above) = thorough::linkage_stub(pc) else { return Step::NoTable };
                self.usual = false;
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

    /// The step by what the unwind table says, with the registers that this walk knows.
    #[cfg(target_os = "linux")]
    fn by_table(&mut self, pc: usize) -> Step {
        self.usual = false;
        if !has_room() {
            return Step::Unsupported;
        }
        let mut thorough = Thorough::of(self.frame, self.memory);
        let step = thorough.by_table(pc);
        if let Step::Caller { .. } = step {
            let Some(frame) = thorough.usual() else { return Step::Unsupported };
            (self.frame, self.memory) = (frame, thorough.memory());
        }
        step
    }

    #[cfg(target_os = "linux")]
    fn step_to_interrupted(&mut self) -> Step {
        self.usual = false;
        let mut thorough = Thorough::of(self.frame, self.memory);
        let step = thorough.step_to_interrupted();
        if let Step::Interrupted(frame) | Step::Elsewhere(frame) = step {
            (self.frame, self.memory) = (frame, thorough.memory());
        }
        step
    }

    /// The step by a rule of the usual form.
    #[inline]
    fn step_to_caller(&mut self, base: Base, offset: i32, return_at: Option<i32>, fp_at: Option<i32>) -> Step {
        let Registers { sp, fp, link, .. } = self.frame.registers;
        let cfa = match base {
            Base::StackPointer => sp,
            Base::FramePointer => fp,
        }
        .wrapping_add_signed(offset as isize);
        let by_fp = base == Base::FramePointer;
        if cfa == 0 || !cfa.is_multiple_of(8) || (!by_fp && cfa < sp) {
            return Step::Unsupported;
        }
        // A caller's frame is not below, and not on another piece, but for code that switches stacks under a frame pointer.
        let Some(readable) = self.memory.go(sp, cfa) else { return Step::Unsupported };
        let contiguous = readable && (!by_fp || cfa - sp <= LARGEST_BUFFER);
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
        Step::Caller { frame: self.frame, slot, word, contiguous, fp_slot, by_fp }
    }
}

impl Steps for Unwinder {
    /// A walk is mostly this, so what is rare is apart (here, in `cache.rs`, and in the walk): one `match` of all would be a jump
    /// by a table, and where indirect branches are not predicted (against Spectre) that takes longer than all else in a step.
    #[inline]
    fn step(&mut self) -> Step {
        let pc = self.frame.place();
        match cache::get(pc) {
            Some(Rule::Frame { base, offset, return_at, fp_at }) => self.step_to_caller(base, offset, return_at, fp_at),
            kept => self.rarely(pc, kept),
        }
    }
}

/// Whether there is room on the stack to interpret a table: that takes some KiB, which an alternate signal stack need not have.
#[cfg(target_os = "linux")]
fn has_room() -> bool {
    os::signal_stack_room().is_none_or(|room| room >= ROOM)
}

/// Enough room on a signal stack, without optimisation as well.
#[cfg(target_os = "linux")]
const ROOM: usize = if cfg!(debug_assertions) { 64 * 1024 } else { 32 * 1024 };

/// How the function whose return address is at `foot` signs it, if its unwind table says.
///
/// # Safety
/// As for [`Unwinder::new`].
pub(crate) unsafe fn signing(from: Registers, foot: usize) -> Option<arch::Signing> {
    // SAFETY: the caller's promise.
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
