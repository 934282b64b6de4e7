//! One frame of the running stack, and what a step from it to its caller finds.

use crate::machine::arch::Registers;

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
    pub(super) fn place(&self) -> usize {
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
