//! The addresses in exit trampolines that hooks return to, and the kinds of stacks that end there.
//! `code::draining` recognises a draining stack by them.

#[cfg(code_redirect)]
use crate::base::kind::Kind;
use crate::exit::trampoline;
#[cfg(code_redirect)]
use std::sync::atomic::AtomicU8;
use std::sync::atomic::{AtomicUsize, Ordering};

unsafe extern "C" {
    /// `asm/`: where the hook in exeunt's own frame returns to.
    safe fn exeunt_hooked_behind();
}

/// The return addresses of the patched calls.
static BEHIND: [AtomicUsize; trampoline::HOOKS + 1] = [const { AtomicUsize::new(0) }; trampoline::HOOKS + 1];
/// The kinds of stacks that end at these calls.
#[cfg(code_redirect)]
static KINDS: [AtomicU8; trampoline::HOOKS + 1] = [const { AtomicU8::new(0) }; trampoline::HOOKS + 1];

/// Adds `address`. The caller holds the process lock.
#[cfg(code_redirect)]
pub(super) fn add(address: usize, kind: Kind) {
    let free = BEHIND.iter().position(|behind| [0, address].contains(&behind.load(Ordering::Relaxed)));
    // There are as many places as hooks.
    if let Some(free) = free {
        KINDS[free].store(kind as u8, Ordering::Relaxed);
        BEHIND[free].store(address, Ordering::Release);
    }
}

/// Whether a hook returns to `address`.
pub(super) fn is_known(address: usize) -> bool {
    BEHIND.iter().any(|behind| behind.load(Ordering::Acquire) == address)
        || address == exeunt_hooked_behind as *const () as usize
}

/// The kind of stack that ends at the patched call which returns to `address`.
#[cfg(code_redirect)]
pub(crate) fn kind(address: usize) -> Option<Kind> {
    let known = BEHIND.iter().position(|behind| behind.load(Ordering::Acquire) == address)?;
    Some(Kind::from_raw(KINDS[known].load(Ordering::Relaxed)))
}
