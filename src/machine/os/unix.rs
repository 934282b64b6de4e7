//! What Linux and macOS share: memory, signal stacks, pinning this library. The head of `mod.rs`
//! lists the functions.

use crate::base::cancellation::Uncancelled;
use std::ffi::c_void;
use std::hint::black_box;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

/// Maps `size` bytes of zeros. Only the pages that are touched cost memory.
pub(crate) fn map_zeroes(size: usize) -> Option<*mut c_void> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: a new mapping affects no existing memory.
    let memory = unsafe { libc::mmap(std::ptr::null_mut(), size, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
    if memory == libc::MAP_FAILED {
        return None;
    }
    // A huge page would make the first touch cost 2 MiB.
    #[cfg(target_os = "linux")]
    // SAFETY: advice on a mapping that was just made. Where the system refuses it, the cost is
    // memory only.
    unsafe {
        libc::madvise(memory, size, libc::MADV_NOHUGEPAGE);
    }
    Some(memory)
}

/// Unmaps memory.
///
/// # Safety
/// `memory` must come from [`map_zeroes`] with this `size`, and nothing may refer to it any more.
pub(crate) unsafe fn unmap(memory: *mut c_void, size: usize) {
    // SAFETY: the caller promises that it is a whole mapping without references.
    unsafe { libc::munmap(memory, size) };
}

/// Whether the calling code runs on its thread's alternate signal stack.
pub(crate) fn on_signal_stack() -> bool {
    signal_stack_room().is_some()
}

/// How much room is left below the calling code on its thread's alternate signal stack; `None`
/// where it runs on another stack.
pub(crate) fn signal_stack_room() -> Option<usize> {
    // SAFETY: `sigaltstack` fills in `stack`; all zeros are a valid `stack_t`.
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

/// Keeps the object that contains this code loaded for ever: trampolines on stacks lead into it. It
/// calls the dynamic linker, so the caller must hold no lock of exeunt's.
pub(crate) fn pin() {
    static DONE: AtomicBool = AtomicBool::new(false);
    if DONE.load(Ordering::Relaxed) {
        return;
    }
    // SAFETY: `dladdr` finds the object that this function is in, and `dlopen` adds a reference to
    // it.
    unsafe {
        let mut info: libc::Dl_info = std::mem::zeroed();
        let here = pin as *const c_void;
        if libc::dladdr(here, &raw mut info) != 0 && !info.dli_fname.is_null() {
            // On some systems this fails for the program itself, which is never unloaded.
            libc::dlopen(info.dli_fname, libc::RTLD_LAZY | libc::RTLD_NOLOAD | libc::RTLD_NODELETE);
        }
    }
    DONE.store(true, Ordering::Relaxed);
}

/// Whether a block of this size could be allocated now. For calls of code that allocates later and
/// ends the process where there is no memory: libc, and std's collections. Another thread may take
/// the memory first; nothing can prevent that.
pub(crate) fn has_memory(size: usize) -> bool {
    // SAFETY: the block is freed at once, and only once. `black_box` keeps the compiler from
    // removing an allocation whose memory is not used.
    unsafe {
        let block = black_box(libc::malloc(size));
        libc::free(block);
        !block.is_null()
    }
}
