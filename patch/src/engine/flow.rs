//! Where execution continues after one instruction.

/// Where execution continues after an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// The instruction is a direct call that can be retargeted.
    Call,
    /// At this address, with the stack pointer unchanged.
    Next(usize),
    /// At this address or at the next instruction: a conditional branch.
    Conditional(usize),
    /// Not known to be at one address with the stack pointer unchanged, for this reason.
    Unknown(&'static str),
}
