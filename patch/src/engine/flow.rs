//! Where execution goes on behind one instruction.

/// Where a path through code goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// Here is a direct call.
    Call,
    /// At this address, with the stack pointer as it was.
    Next(usize),
    /// At this address, or at the next instruction.
    Conditional(usize),
    /// Not in one way only, for this reason.
    Unknown(&'static str),
}
