//! One frame of the running stack ([`Frame`]), and the result of a step outwards ([`Step`]).

use crate::machine::arch::Registers;

/// One frame: the registers as its code will have them when the inner frame returns.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Frame {
    /// The registers: `pc` is a return address unless `exact`.
    pub registers: Registers,
    /// Whether `pc` is the exact instruction that was reached, instead of the one after a call.
    pub exact: bool,
}

impl Frame {
    /// The address to look up the rule at. For a return address that is one less: a call may be the
    /// last instruction of its function.
    #[inline]
    pub(super) fn place(&self) -> usize {
        if self.exact { self.registers.pc } else { self.registers.pc.wrapping_sub(1) }
    }
}

/// The result of a step outwards.
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
        /// Whether both frames lie in one segment of memory (`memory.rs`).
        contiguous: bool,
        /// Where the caller's frame pointer was stored; `None` if it was in its register.
        fp_slot: Option<usize>,
        /// Whether the rule counts from the frame pointer.
        by_frame_pointer: bool,
    },
    /// The code that a signal has interrupted, right outside the handler's frames in the same
    /// segment of memory.
    Interrupted(Frame),
    /// The code that a signal has interrupted on another stack. The handler has begun on an
    /// alternate signal stack, which need not be in use as one any more.
    InterruptedElsewhere(Frame),
    /// A switch of stacks: this stack ends here, and the table leads debuggers to the stack that
    /// has resumed it.
    Switch,
    /// The unwind table says that this frame is the outermost one, or the return address is zero.
    Outermost,
    /// There is no unwind table for this code.
    NoTable,
    /// The walk cannot continue: the table cannot be read, refers to a register that is not known,
    /// or leads to memory that cannot be read.
    Unsupported,
}

/// A walk along the running stack, from a frame to its caller.
pub(crate) trait Steps {
    /// Steps from the current frame to its caller, which is the current one afterwards.
    fn step(&mut self) -> Step;

    /// Steps as long as each step is plain: by a cached simple rule, within memory that is known to
    /// be readable and contiguous, and to a caller for which `goes_on` is true. Where it is false
    /// that step is not made, and [`Self::step`] makes it. Returns the stack pointer of the last
    /// caller, if there was one.
    ///
    /// Most of a walk is such steps, and they are much quicker together than one by one.
    #[inline(always)]
    fn step_plainly(&mut self, goes_on: impl FnMut(PlainCaller) -> bool) -> Option<usize> {
        let _ = goes_on;
        None
    }
}

/// The caller that a plain step leads to.
#[derive(Clone, Copy)]
pub(crate) struct PlainCaller {
    /// The return address.
    pub pc: usize,
    /// The caller's stack pointer.
    pub sp: usize,
}
