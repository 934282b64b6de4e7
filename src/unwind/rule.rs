//! The rule by which the unwind tables lead from one frame to its caller, in the one form that nearly all have.

/// What the canonical frame address is counted from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Base {
    StackPointer,
    FramePointer,
}

/// How to get from a frame to its caller.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(target_os = "macos", allow(dead_code, reason = "frame records say nothing of signals and switches"))]
pub(super) enum Rule {
    /// The caller's stack pointer, the canonical frame address, is a register plus a constant, and what was stored is at
    /// constant distances from it.
    Frame {
        base: Base,
        offset: i32,
        /// Where the return address is, from the canonical frame address; `None` if it is still in its register.
        return_at: Option<i32>,
        /// Where the caller's frame pointer is; `None` if it is still in its register.
        fp_at: Option<i32>,
    },
    /// The frame that a signal handler returns into.
    Signal,
    /// The table says that there is no caller.
    Outermost,
    /// Nothing is known about this code.
    NoTable,
    /// Another form, such as a canonical frame address by a DWARF expression, or a table that cannot be read: `general.rs`.
    Other,
}
