//! Rules for systems where every function keeps a frame record: macOS.

use super::rule::{Base, Rule};

/// Apple's systems have their own compact tables, but every function keeps a frame record there: the platform's ABI asks
/// for it («Writing ARM64 code for Apple platforms», «x86-64 code model»).
pub(super) fn from_tables(_pc: usize) -> Rule {
    Rule::Frame { base: Base::FramePointer, offset: 16, return_at: Some(-8), fp_at: Some(-16) }
}

/// Programs of ordinary users are built for arm64, in which no return address is signed.
pub(super) fn signing(_pc: usize) -> Option<crate::machine::arch::Signing> {
    None
}
