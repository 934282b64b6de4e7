//! Unwinding the running stack quickly, without locks or allocation, so also in a signal handler.
//!
//! Unwinding is the judge of who owns a stack pointer, so it is asked often: whenever code reads on a page for the first
//! time. The unwind tables give the truth but cost about 100 ns a frame to interpret. Nearly all of their rules are of one
//! form (`rule.rs`), and are kept as long as the code is there (`cache.rs`, `objects.rs`), so a step up the stack costs a few
//! loads. Each address is known to be readable before it is read (`memory.rs`). Rules of other forms are followed as the
//! tables say (`general.rs`). Arming goes the same way again and again, which is kept as a whole (`memo.rs`).
//!
//! | walk | knows | follows |
//! |---|---|---|
//! | [`Unwinder`] | the stack pointer and the frame pointer | kept rules, and others that refer to these two |
//! | [`Thorough`] | all registers that functions save | the tables, each time |

mod cache;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod eh_return;
// Rules of any form, where tables give them.
#[cfg(target_os = "linux")]
mod general;
pub(crate) mod memo;
mod memory;
#[cfg(target_os = "linux")]
mod objects;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod rbx;
#[cfg(target_os = "linux")]
mod registers;
mod rule;
// Where rules come from.
#[cfg(target_os = "macos")]
#[path = "frame_records.rs"]
mod tables;
#[cfg(target_os = "linux")]
mod tables;
#[cfg(target_os = "linux")]
mod thorough;

use crate::arch::{self, Registers};
#[cfg(target_os = "linux")]
use crate::os;
use foldhash::fast::FixedState;
use memory::{LARGEST_BUFFER, Memory};
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
pub(crate) use rbx::saved_rbx;
use rule::{Base, Rule};
use std::hash::BuildHasher;
#[cfg(target_os = "linux")]
pub(crate) use tables::function_at;
#[cfg(target_os = "linux")]
use thorough::Thorough;
#[cfg(target_os = "linux")]
pub(crate) use thorough::thoroughly;

/// A number for a place in the code, by which to keep what is known of it. Functions lie at regular distances, which must
/// not show in it: Fibonacci hashing gave 64 functions 304 bytes apart 18 of 64 places.
#[inline]
fn spread(pc: usize) -> usize {
    FixedState::default().hash_one(pc) as usize
}

/// One frame, as seen from the frame below it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Frame {
    /// Its registers: `pc` is a return address unless `exact`.
    pub registers: Registers,
    /// Whether `pc` is the very instruction that was reached, and not the one after a call.
    pub exact: bool,
}

impl Frame {
    /// Where its rule is looked up: for a return address one before itself, as a call may be the last instruction of its function.
    #[inline]
    fn place(&self) -> usize {
        if self.exact { self.registers.pc } else { self.registers.pc.wrapping_sub(1) }
    }
}

/// What a step up the stack found.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(target_os = "macos", allow(dead_code, reason = "frame records say nothing of signals and switches"))]
pub(crate) enum Step {
    /// The caller's frame.
    Caller {
        frame: Frame,
        /// Where the return address was stored; `None` if it was in a register.
        slot: Option<usize>,
        /// The word found there.
        word: usize,
        /// Whether both frames lie on one piece of memory (`memory.rs`).
        contiguous: bool,
        /// Where the caller's frame pointer was stored; `None` if it was in its register.
        fp_slot: Option<usize>,
        /// Whether the step went by the frame pointer.
        by_fp: bool,
    },
    /// The code that a signal interrupted, right above the handler's frames on the same piece of memory.
    Interrupted(Frame),
    /// The same on another stack: the handler has begun on an alternate signal stack, which need not be in use as one any more.
    Elsewhere(Frame),
    /// The way to another stack: this one ends here, and the table leads debuggers on to who resumed it.
    Switch,
    /// The unwind table says that this is the outermost frame, or the return address is zero.
    Outermost,
    /// There is no unwind table for this code.
    NoTable,
    /// This unwinder cannot go on: the table cannot be read, asks for a register that is not known, or leads to where nothing is.
    Unsupported,
}

/// A walk up the running stack, from caller to caller.
pub(crate) trait Steps {
    /// Goes from the present frame to its caller, which is the present one from then on.
    fn step(&mut self) -> Step;
}

/// The quick walk.
pub(crate) struct Unwinder {
    frame: Frame,
    memory: Memory,
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
