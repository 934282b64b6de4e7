//! The rule that leads from a frame to its caller ([`Rule`]), in the simple form that nearly all
//! have.

/// The register that the canonical frame address is relative to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Base {
    StackPointer,
    FramePointer,
}

/// How to step from a frame to its caller.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(target_os = "macos", allow(dead_code, reason = "frame records say nothing of signals and switches"))]
pub(super) enum Rule {
    /// The simple rule. The canonical frame address (the caller's stack pointer) is a register plus
    /// a constant, and the saved words are at constant distances from it.
    Frame {
        base: Base,
        offset: i32,
        /// Where the return address is, relative to the canonical frame address; `None` if it is
        /// still in its register.
        return_at: Option<i32>,
        /// Where the caller's frame pointer is; `None` if it is still in its register.
        fp_at: Option<i32>,
    },
    /// The frame that a signal handler returns into.
    Signal,
    /// The table marks this frame as the outermost one.
    Outermost,
    /// There is no table for this code.
    NoTable,
    /// Another form, such as a DWARF expression for the canonical frame address, or a table that
    /// cannot be read: `general.rs`.
    Other,
}
