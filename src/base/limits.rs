//! How much there is room for in a process.

/// Exit trampolines, for each of which a trampoline of the pool stands: `asm/offsets.h`.
pub(crate) const TRAMPOLINES: usize = 64;
/// Wrappers of runtimes that can be registered.
pub(crate) const WRAPPERS: usize = 32;
/// Dynamic slots.
pub(crate) const SLOTS: usize = 2048;
