//! The addresses in exit trampolines that hooks return to. `code::draining` recognises a draining
//! stack by them.

use crate::exit::trampoline;
use std::sync::atomic::{AtomicUsize, Ordering};

unsafe extern "C" {
    /// `asm/`: where the hook in exeunt's own frame returns to.
    safe fn exeunt_hooked_behind();
}

/// The return addresses of the patched calls.
static BEHIND: [AtomicUsize; trampoline::HOOKS + 1] = [const { AtomicUsize::new(0) }; trampoline::HOOKS + 1];

/// Adds `address`. The caller holds the process lock.
#[cfg(code_redirect)]
pub(super) fn add(address: usize) {
    let free = BEHIND.iter().find(|behind| [0, address].contains(&behind.load(Ordering::Relaxed)));
    // There are as many places as hooks.
    if let Some(free) = free {
        free.store(address, Ordering::Release);
    }
}

/// Whether a hook returns to `address`.
pub(super) fn is_known(address: usize) -> bool {
    BEHIND.iter().any(|behind| behind.load(Ordering::Acquire) == address)
        || address == exeunt_hooked_behind as *const () as usize
}
