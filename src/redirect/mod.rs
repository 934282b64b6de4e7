//! The ways to make a stack's exit go through a trampoline of ours.

pub(crate) mod slot;
