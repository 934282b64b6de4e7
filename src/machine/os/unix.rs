//! What Linux and macOS share.

use crate::base::cancellation::Uncancelled;
use std::ffi::c_void;
use std::hint::black_box;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

/// Maps `size` bytes of zeroes of which only the pages that are touched cost memory.
pub(crate) fn map_zeroes(size: usize) -> Option<*mut c_void> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: a new mapping touches nothing that exists.
    let memory = unsafe { libc::mmap(std::ptr::null_mut(), size, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
    if memory == libc::MAP_FAILED {
        return None;
    }
    // A huge page would make the first touch cost 2 MiB.
    #[cfg(target_os = "linux")]
    // SAFETY: advice on our own mapping; where it is refused, nothing is lost but memory.
    unsafe {
        libc::madvise(memory, size, libc::MADV_NOHUGEPAGE);
    }
    Some(memory)
}

/// Gives a mapping back.
///
/// # Safety
/// `memory` must come from [`map_zeroes`] with this `size`, and nobody may use it any more.
pub(crate) unsafe fn unmap(memory: *mut c_void, size: usize) {
    // SAFETY: the caller's promise.
    unsafe { libc::munmap(memory, size) };
}

/// Whether the running code is on its thread's alternate signal stack.
pub(crate) fn on_signal_stack() -> bool {
    signal_stack_room().is_some()
}

/// How much room there is below the running code on its thread's alternate signal stack; `None` where it is on none.
pub(crate) fn signal_stack_room() -> Option<usize> {
    // SAFETY: only asks; all zeros is a valid `stack_t`.
    unsafe {
        let mut stack: libc::stack_t = std::mem::zeroed();
        let got = libc::sigaltstack(std::ptr::null(), &raw mut stack) == 0;
        let on = got && stack.ss_flags & libc::SS_ONSTACK != 0;
        on.then(|| crate::machine::arch::stack_pointer().saturating_sub(stack.ss_sp.addr()))
    }
}

/// The mapping that an address lies in.
pub(crate) fn mapping_around(address: usize) -> Option<Range<usize>> {
    let _uncancelled = Uncancelled::new();
    let region = region::query(address as *const u8).ok()?;
    Some(region.as_range())
}

/// Keeps the object that this code was loaded with in the process for ever: trampolines on stacks lead into it. It calls the
/// dynamic linker, so no lock of ours may be held.
pub(crate) fn pin() {
    static DONE: AtomicBool = AtomicBool::new(false);
    if DONE.load(Ordering::Relaxed) {
        return;
    }
    // SAFETY: only looks up which object this function is in, and counts one more use of it.
    unsafe {
        let mut info: libc::Dl_info = std::mem::zeroed();
        let here = pin as *const c_void;
        if libc::dladdr(here, &raw mut info) != 0 && !info.dli_fname.is_null() {
            // Fails for the program itself on some systems, which is never unloaded.
            libc::dlopen(info.dli_fname, libc::RTLD_LAZY | libc::RTLD_NOLOAD | libc::RTLD_NODELETE);
        }
    }
    DONE.store(true, Ordering::Relaxed);
}

/// Whether a block of this size could be allocated now. It is for what allocates later and ends the
/// process where it cannot: libc, and std's collections. Another thread may take the memory first;
/// nothing can be done about that.
pub(crate) fn has_memory(size: usize) -> bool {
    // SAFETY: a block that nobody uses. The compiler must not leave it out, as it may where it sees
    // what becomes of it.
    unsafe {
        let block = black_box(libc::malloc(size));
        libc::free(block);
        !block.is_null()
    }
}
