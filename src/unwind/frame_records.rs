//! Rules for macOS, where every function keeps a frame record.

use super::rule::{Base, Rule};

/// The rule of a function with a frame record. Apple's systems have their own compact tables, but
/// their ABI requires frame records («Writing ARM64 code for Apple platforms», «x86-64 code
/// model»).
pub(super) fn from_tables(_pc: usize) -> Rule {
    Rule::Frame { base: Base::FramePointer, offset: 16, return_at: Some(-8), fp_at: Some(-16) }
}

/// How a function signs its return address: not known. Programs of ordinary users are built for
/// arm64, which does not sign.
pub(super) fn signing(_pc: usize) -> Option<crate::machine::arch::Signing> {
    None
}
