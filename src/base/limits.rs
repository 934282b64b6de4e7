//! The fixed capacities of a process.

/// Exit trampolines. Each has a trampoline of the pool: `asm/offsets.h`.
pub(crate) const TRAMPOLINES: usize = 64;
/// Wrappers of runtimes that can be registered.
pub(crate) const WRAPPERS: usize = 32;
/// Dynamic slots.
pub(crate) const SLOTS: usize = 2048;
