//! What Linux and macOS share.

use std::arch::asm;
use std::ffi::{CStr, c_void};
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
        on.then(|| crate::arch::stack_pointer().saturating_sub(stack.ss_sp.addr()))
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

/// The exported symbol that an address lies in.
pub(crate) fn exported_symbol(address: usize) -> Option<&'static CStr> {
    // SAFETY: only looks up; the name lives as long as the object.
    unsafe {
        let mut info: libc::Dl_info = std::mem::zeroed();
        let found = libc::dladdr(address as *const c_void, &raw mut info) != 0 && !info.dli_sname.is_null();
        found.then(|| CStr::from_ptr(info.dli_sname))
    }
}

/// The file of the object that an address lies in.
pub(crate) fn object_file(address: usize) -> Option<String> {
    // SAFETY: as above.
    unsafe {
        let mut info: libc::Dl_info = std::mem::zeroed();
        let found = libc::dladdr(address as *const c_void, &raw mut info) != 0 && !info.dli_fname.is_null();
        found.then(|| CStr::from_ptr(info.dli_fname).to_string_lossy().into_owned())
    }
}

unsafe extern "C" {
    safe fn pthread_setcancelstate(state: libc::c_int, old: &mut libc::c_int) -> libc::c_int;
}

/// While it lives, this thread is not cancelled: unwinding by cancellation must never run through frames of ours.
///
/// A fiber may move on to another thread meanwhile, which is then left as it is.
pub(crate) struct Uncancelled {
    thread: usize,
    old: libc::c_int,
}

impl Uncancelled {
    #[cfg(target_os = "linux")]
    const DISABLE: libc::c_int = 1;
    #[cfg(target_os = "macos")]
    const DISABLE: libc::c_int = 0;

    pub(crate) fn new() -> Self {
        let mut old = 0;
        pthread_setcancelstate(Self::DISABLE, &mut old);
        Self { thread: this_thread(), old }
    }
}

impl Drop for Uncancelled {
    fn drop(&mut self) {
        // `setcancelstate` is no cancellation point; a request that came meanwhile is acted on at the next one.
        if self.thread == this_thread() {
            pthread_setcancelstate(self.old, &mut 0);
        }
    }
}

/// A number of the running thread's own. A compiler takes a thread-local's address for the same all through a function, and a
/// function that does no more than give one for the same each time: but a fiber moves on in between. So this is not inlined,
/// and gives what assembly gives, of which nothing is known.
#[inline(never)]
fn this_thread() -> usize {
    thread_local! { static HERE: u8 = const { 0 } }
    let mut number = HERE.with(|here| std::ptr::from_ref(here).addr());
    // SAFETY: no instruction at all. It is not `pure`, so it is not left out, nor taken from an earlier call.
    unsafe { asm!("/* {} */", inout(reg) number, options(nomem, nostack, preserves_flags)) };
    number
}
