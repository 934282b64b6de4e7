//! Unwinding the running stack quickly, without locks or allocation, so also in a signal handler.
//!
//! Unwinding is the judge of who owns a stack pointer, so it is asked often: whenever code reads on a page for the first
//! time. The unwind tables give the truth but cost about 100 ns a frame to interpret. The rules that they give for one
//! program counter never change, and nearly all are of one form (`rule.rs`), so they are kept (`cache.rs`), and a step
//! up the stack costs a few loads. Arming goes the same way again and again, which is kept as a whole (`memo.rs`).

mod cache;
pub(crate) mod memo;
mod rule;
// Where rules come from.
#[cfg(target_os = "macos")]
#[path = "frame_records.rs"]
mod tables;
#[cfg(target_os = "linux")]
mod tables;

use crate::arch::{self, Registers};
use crate::os;
use foldhash::fast::FixedState;
use rule::{Base, Rule};
use std::hash::BuildHasher;
#[cfg(target_os = "linux")]
pub(crate) use tables::function_at;

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
        /// Whether both frames are certain to lie on one piece of memory.
        contiguous: bool,
        /// Where the caller's frame pointer was stored; `None` if it was in its register.
        fp_slot: Option<usize>,
        /// Whether the step went by the frame pointer.
        by_fp: bool,
    },
    /// The code that a signal interrupted.
    Interrupted(Frame),
    /// The way to another stack: this one ends here, and the table leads debuggers on to who resumed it.
    Switch,
    /// The unwind table says that this is the outermost frame, or the return address is zero.
    Outermost,
    /// There is no unwind table for this code.
    NoTable,
    /// There is a rule that this unwinder does not know.
    Unsupported,
}

/// Frames larger than this whose size is not fixed may have switched stacks inside (as `psm` and `stacker` do).
const LARGEST_TRUSTED_FRAME: usize = 16 * 1024;

/// Goes from a frame to its caller.
///
/// A walk is mostly this, so what is rare is apart (here, in `cache.rs`, and in the walk): one `match` of all would be a jump by
/// a table, and where indirect branches are not predicted (against Spectre) that takes longer than all else in a step.
///
/// # Safety
/// `frame` must be a frame of the running stack: what unwinding reads are words of its memory.
#[inline]
pub(crate) unsafe fn step(frame: Frame) -> Step {
    // A return address is looked up one before itself: a call may be the last instruction of its function.
    let pc = if frame.exact { frame.registers.pc } else { frame.registers.pc.wrapping_sub(1) };
    match cache::get(pc) {
        Some(Rule::Frame { base, offset, return_at, fp_at }) => {
            // SAFETY: the caller's promise.
            unsafe { to_caller(frame, base, offset, return_at, fp_at) }
        }
        // SAFETY: the caller's promise.
        kept => unsafe { rarely(frame, pc, kept) },
    }
}

/// The rest of [`step`]: where nothing is kept yet, or another rule than the usual one.
///
/// # Safety
/// As for [`step`], with `kept` being what is kept of the frame's program counter `pc`.
#[cold]
#[inline(never)]
unsafe fn rarely(frame: Frame, pc: usize, kept: Option<Rule>) -> Step {
    // SAFETY: the caller's promise.
    unsafe { apply(frame, kept.unwrap_or_else(|| learn(pc))) }
}

/// Reads the rule for a place from its unwind table. That takes some KiB of stack, which an alternate signal stack need not
/// have: there what is not known yet is for the general unwinder, or for nobody.
#[cold]
#[inline(never)]
fn learn(pc: usize) -> Rule {
    if os::on_signal_stack() {
        return Rule::Unsupported;
    }
    let rule = tables::from_tables(pc);
    cache::put(pc, rule);
    rule
}

/// How the function whose return address is at `foot` signs it, if its unwind table says.
///
/// # Safety
/// `from` must be registers of the running stack.
pub(crate) unsafe fn signing(from: Registers, foot: usize) -> Option<arch::Signing> {
    let mut frame = Frame { registers: from, exact: true };
    loop {
        // SAFETY: starts on the running stack, and goes from caller to caller.
        frame = match unsafe { step(frame) } {
            Step::Caller { slot, .. } if slot == Some(foot) => {
                let pc = if frame.exact { frame.registers.pc } else { frame.registers.pc.wrapping_sub(1) };
                return tables::signing(pc);
            }
            Step::Caller { frame, .. } | Step::Interrupted(frame) => frame,
            _ => return None,
        };
    }
}

/// Whether the code at `pc`, which a table marks as a signal's frame, is the kernel's.
#[cfg(target_os = "linux")]
fn is_kernels(pc: usize) -> bool {
    // SAFETY: there is a table for it, so it is code.
    unsafe { arch::returns_from_signal(pc) }
}

/// Whether the table marks the code at the return address `pc` as the way to another stack.
pub(crate) fn is_switch(pc: usize) -> bool {
    #[cfg(target_os = "linux")]
    return rule_before(pc) == Rule::Signal && !is_kernels(pc);
    #[cfg(not(target_os = "linux"))]
    return pc == 0;
}

/// Whether the rule for the return address `pc` is one that this unwinder does not know.
pub(crate) fn is_unsupported(pc: usize) -> bool {
    rule_before(pc) == Rule::Unsupported
}

/// The rule for a return address, without a step by it.
fn rule_before(pc: usize) -> Rule {
    let pc = pc.wrapping_sub(1);
    cache::get(pc).unwrap_or_else(|| tables::from_tables(pc))
}

/// The step by any rule.
///
/// # Safety
/// As for [`step`], with `rule` being the rule of the frame's program counter.
unsafe fn apply(frame: Frame, rule: Rule) -> Step {
    match rule {
        // SAFETY: the caller's promise.
        Rule::Frame { base, offset, return_at, fp_at } => unsafe { to_caller(frame, base, offset, return_at, fp_at) },
        // The kernel's registers are there only if it is the kernel's frame. Others that are marked as such are those of
        // coroutine libraries, at the bottom of a coroutine.
        #[cfg(target_os = "linux")]
        Rule::Signal if !is_kernels(frame.registers.pc) => Step::Switch,
        #[cfg(target_os = "linux")]
        Rule::Signal => {
            // SAFETY: the rule says that this is a signal frame.
            let registers = unsafe { Registers::interrupted(frame.registers.sp) };
            Step::Interrupted(Frame { registers, exact: true })
        }
        #[cfg(not(target_os = "linux"))]
        Rule::Signal => Step::Unsupported,
        // On aarch64 the kernel's own code for this has had no table since Linux 5.8 («arm64: vdso: Disable dwarf unwinding
        // through the sigreturn trampoline»): unwinders are to know its two instructions. libgcc does so as well.
        #[cfg(all(target_os = "linux", target_arch = "aarch64"))]
        Rule::NoTable if !frame.exact && is_kernels(frame.registers.pc) => {
            // SAFETY: only a signal handler returns to this code.
            let registers = unsafe { Registers::interrupted(frame.registers.sp) };
            Step::Interrupted(Frame { registers, exact: true })
        }
        Rule::Outermost => Step::Outermost,
        Rule::NoTable if frame.exact => {
            // SAFETY: the exact program counter of running code.
            let Some(above) = (unsafe { arch::linkage_stub(frame.registers.pc) }) else { return Step::NoTable };
            let return_at = if cfg!(target_arch = "x86_64") { Some(-8) } else { None };
            // SAFETY: the caller's promise; such a stub has only its return address on the stack.
            unsafe { to_caller(frame, Base::StackPointer, above as i32, return_at, None) }
        }
        Rule::NoTable => Step::NoTable,
        Rule::Unsupported => Step::Unsupported,
    }
}

/// The step by a rule of the usual form.
///
/// # Safety
/// As for [`step`], with what [`Rule::Frame`] says of the frame's program counter.
#[inline]
unsafe fn to_caller(frame: Frame, base: Base, offset: i32, return_at: Option<i32>, fp_at: Option<i32>) -> Step {
    let Registers { sp, fp, link, .. } = frame.registers;
    let cfa = match base {
        Base::StackPointer => sp,
        Base::FramePointer => fp,
    }
    .wrapping_add_signed(offset as isize);
    // A caller's frame is not below, but for code that switches stacks under a frame pointer.
    let contiguous = cfa >= sp && (base == Base::StackPointer || cfa - sp <= LARGEST_TRUSTED_FRAME);
    if cfa == 0 || !cfa.is_multiple_of(8) || (base == Base::StackPointer && cfa < sp) {
        return Step::Unsupported;
    }
    // SAFETY: the rule says that the registers were stored at these places of this stack.
    let load = |at: i32| unsafe { (cfa.wrapping_add_signed(at as isize) as *const usize).read_volatile() };
    let (slot, word) = match return_at {
        Some(at) => (Some(cfa.wrapping_add_signed(at as isize)), load(at)),
        None => (None, link),
    };
    let pc = arch::strip(word);
    if pc == 0 {
        return Step::Outermost;
    }
    let registers = Registers { pc, sp: cfa, fp: fp_at.map_or(fp, load), link: 0 };
    let frame = Frame { registers, exact: false };
    let fp_slot = fp_at.map(|at| cfa.wrapping_add_signed(at as isize));
    Step::Caller { frame, slot, word, contiguous, fp_slot, by_fp: base == Base::FramePointer }
}
