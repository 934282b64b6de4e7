//! The full walk: with all registers, by the DWARF tables at every step.
//!
//! It continues where a quick walk cannot. It neither fills nor reads the caches, so it also serves
//! as an independent second attempt where a quick walk has failed.

use super::frame::{Frame, Step, Steps};
use super::general::{self, Found};
use super::memory::Memory;
use super::registers::{RETURN, Registers};
use crate::machine::arch::{self, dwarf};
use crate::machine::os;
use std::mem::offset_of;

/// A walk with all registers.
pub(crate) struct FullWalk {
    registers: Registers,
    exact: bool,
    memory: Memory,
}

/// Calls `walk` with a full walk that starts at the innermost frame of the running stack whose
/// stack pointer is not below `sp`.
#[inline(never)]
pub(crate) fn from_frame_at<R>(sp: usize, walk: impl FnOnce(&mut FullWalk) -> Option<R>) -> Option<R> {
    // This function's own registers. The unwind tables lead from them to those of the outer frames.
    let registers = Registers::here();
    let mut full = FullWalk { registers, exact: true, memory: Memory::around(registers.sp()?) };
    while full.registers.sp()? < sp {
        if !matches!(full.step(), Step::Caller { .. }) {
            return None;
        }
    }
    walk(&mut full)
}

/// The value of a register in the frame that is returned to at `address`, the innermost such one of
/// the running stack.
#[cfg(target_arch = "x86_64")]
pub(super) fn saved_register(address: usize, register: u16) -> Option<usize> {
    from_frame_at(0, |walk| {
        loop {
            match walk.step() {
                Step::Caller { frame, .. } if frame.registers.pc == address => return walk.registers.get(register),
                Step::Caller { .. } | Step::Interrupted(_) => {}
                _ => return None,
            }
        }
    })
}

impl FullWalk {
    /// A walk that continues with the registers of a quick walk.
    pub(super) fn of(frame: Frame, memory: Memory) -> Self {
        Self { registers: Registers::of(frame.registers, frame.exact), exact: frame.exact, memory }
    }

    /// The frame that a quick walk continues with; `None` if a register that it needs is not known.
    pub(super) fn quick(&self) -> Option<Frame> {
        Some(Frame { registers: self.registers.of_quick_walk()?, exact: self.exact })
    }

    pub(super) fn memory(&self) -> Memory {
        self.memory
    }

    /// The current frame, in the form that all walks return. A frame pointer that is not known is
    /// zero, which points nowhere.
    fn frame(&self) -> Frame {
        let get = |register: u16| self.registers.get(register).unwrap_or(0);
        let link = if cfg!(target_arch = "aarch64") { get(RETURN) } else { 0 };
        let (pc, sp, fp) = (self.registers.pc, get(dwarf::STACK_POINTER), get(dwarf::FRAME_POINTER));
        Frame { registers: arch::Registers { pc, sp, fp, link }, exact: self.exact }
    }

    /// The step by the unwind table, looked up at `pc`.
    pub(super) fn by_table(&mut self, pc: usize) -> Step {
        match general::step(&self.registers, pc, &mut self.memory) {
            Found::Caller { registers, slot, word, fp_slot, contiguous } => {
                (self.registers, self.exact) = (registers, false);
                Step::Caller { frame: self.frame(), slot, word, contiguous, fp_slot, by_frame_pointer: false }
            }
            Found::Signal => self.step_to_interrupted(),
            // `quick.rs` says where the kernel's code for this has no table.
            Found::NoTable
                if !self.exact
                    && cfg!(any(target_arch = "aarch64", target_env = "musl"))
                    && is_kernels(self.registers.pc) =>
            {
                self.step_to_interrupted()
            }
            Found::NoTable if self.exact => self.over_linkage_stub().unwrap_or(Step::NoTable),
            Found::NoTable => Step::NoTable,
            Found::Switch => Step::Switch,
            Found::Outermost => Step::Outermost,
            Found::Unsupported => Step::Unsupported,
        }
    }

    /// The step from a stub of the procedure linkage table. It has no unwind table, and stores
    /// nothing but its return address.
    fn over_linkage_stub(&mut self) -> Option<Step> {
        let sp = self.registers.sp()?;
        let cfa = sp + linkage_stub(self.registers.pc)?;
        let contiguous = self.memory.advance(sp, cfa)?;
        let slot = cfg!(target_arch = "x86_64").then(|| cfa - 8);
        let word = match slot {
            Some(slot) => self.memory.load(slot)?,
            None => self.registers.get(RETURN)?,
        };
        self.registers = self.registers.kept(arch::strip(word));
        self.registers.set(dwarf::STACK_POINTER, Some(cfa));
        self.registers.set(RETURN, None);
        self.exact = false;
        Some(Step::Caller { frame: self.frame(), slot, word, contiguous, fp_slot: None, by_frame_pointer: false })
    }

    /// The step from the frame that a signal handler returns into, if it is the kernel's. Other
    /// frames that a table marks so are those of coroutine libraries, the outermost ones of a
    /// coroutine.
    ///
    /// The kernel has saved the interrupted registers there, and the bounds of the alternate signal
    /// stack at that time (`uc_stack`). If the frame lies on that, and the interrupted code does
    /// not, then the handler has begun on another stack. It is the handler's own stack if the
    /// alternate one was taken away since, as QEMU and GNU Pth do to make a coroutine. Without an
    /// alternate stack the kernel puts the frame right below the code that it interrupts.
    pub(super) fn step_to_interrupted(&mut self) -> Step {
        if !is_kernels(self.registers.pc) {
            return Step::Switch;
        }
        self.interrupted().unwrap_or(Step::Unsupported)
    }

    fn interrupted(&mut self) -> Option<Step> {
        let frame = self.registers.sp()?;
        // Linux: `rt_sigframe`, on x86_64 without its return address
        // (arch/x86/include/asm/sigframe.h), on aarch64 with a `siginfo` first
        // (arch/arm64/kernel/signal.c).
        let context = if cfg!(target_arch = "x86_64") { frame } else { frame + size_of::<libc::siginfo_t>() };
        // Extends the known range over the words that are read below, if they lie in one segment.
        self.memory.advance(frame, (context + size_of::<libc::mcontext_t>()).next_multiple_of(8))?;
        #[cfg_attr(not(target_arch = "x86_64"), expect(unused_mut, reason = "only there it is changed"))]
        let mut registers = Registers::interrupted(context, &self.memory)?;
        let stack = context + offset_of!(libc::ucontext_t, uc_stack);
        let start = self.memory.load(stack + offset_of!(libc::stack_t, ss_sp))?;
        let size = self.memory.load(stack + offset_of!(libc::stack_t, ss_size))?;
        let flags = self.memory.load(stack + offset_of!(libc::stack_t, ss_flags))? as i32;
        let was_alternate = flags & libc::SS_DISABLE == 0;
        let on_alternate = |sp: usize| was_alternate && sp.wrapping_sub(start) <= size;
        let sp = registers.sp()?;
        let same = on_alternate(frame) == on_alternate(sp)
            && sp > frame
            && sp - frame <= LARGEST_SIGNAL_FRAME
            && self.memory.advance(frame, sp)?;
        if !same && self.memory.advance(frame, sp).is_none() {
            return None;
        }
        #[cfg(target_arch = "x86_64")]
        if same {
            let landing = super::eh_return::landing(&registers, &self.memory).filter(|landing| {
                landing.sp().is_some_and(|above| above > sp && self.memory.advance(sp, above) == Some(true))
            });
            if let Some(landing) = landing {
                registers = landing;
            }
        }
        (self.registers, self.exact) = (registers, true);
        Some(if same { Step::Interrupted(self.frame()) } else { Step::InterruptedElsewhere(self.frame()) })
    }
}

/// More than the registers that the kernel saves on any processor: with Arm's SME they take a
/// little more than 64 KiB.
const LARGEST_SIGNAL_FRAME: usize = 128 * 1024;

impl Steps for FullWalk {
    fn step(&mut self) -> Step {
        let pc = if self.exact { self.registers.pc } else { self.registers.pc.wrapping_sub(1) };
        self.by_table(pc)
    }
}

/// Whether the code at `pc`, which a table marks as a signal's frame, is the kernel's.
pub(super) fn is_kernels(pc: usize) -> bool {
    // SAFETY: `is_readable` has checked the bytes that are read.
    os::is_readable(pc) && os::is_readable(pc.wrapping_add(8)) && unsafe { arch::returns_from_signal(pc) }
}

/// The distance from the stack pointer to the beginning of the caller's frame, if the code at `pc`
/// is in a stub of the procedure linkage table.
pub(super) fn linkage_stub(pc: usize) -> Option<usize> {
    let readable = os::is_readable(pc & !15) && os::is_readable((pc & !15).wrapping_add(24));
    // SAFETY: `is_readable` has checked the code that is read: 16 bytes around `pc`, or a few
    // instructions from there on.
    if readable { unsafe { arch::linkage_stub(pc) } } else { None }
}
