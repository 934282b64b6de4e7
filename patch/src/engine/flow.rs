//! Where execution goes on behind one instruction.

/// Where a path through code goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Here is a direct call.
    Call,
    /// At this address, with the stack pointer as it was.
    On(usize),
    /// At this address, or at the next instruction.
    Fork(usize),
    /// Not in one way only, for this reason.
    End(&'static str),
}
