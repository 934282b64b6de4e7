//! Where hooks return to in exit trampolines.

use crate::exit::trampoline;
use std::sync::atomic::{AtomicUsize, Ordering};

unsafe extern "C" {
    /// `asm/`: where the hook in our own frame returns to.
    safe fn exeunt_hooked_behind();
}

/// Where the calls are behind which exit trampolines go on when a hook has drained a stack.
static BEHIND: [AtomicUsize; trampoline::HOOKS + 1] = [const { AtomicUsize::new(0) }; trampoline::HOOKS + 1];

/// Makes `address` known as one that a hook returns to. The caller holds the recognition lock.
#[cfg(code_redirect)]
pub(super) fn add(address: usize) {
    let free = BEHIND.iter().find(|behind| [0, address].contains(&behind.load(Ordering::Relaxed)));
    // There are as many as hooks.
    if let Some(free) = free {
        free.store(address, Ordering::Release);
    }
}

/// Whether a hook returns to `address`.
pub(super) fn is_known(address: usize) -> bool {
    BEHIND.iter().any(|behind| behind.load(Ordering::Acquire) == address)
        || address == exeunt_hooked_behind as *const () as usize
}
