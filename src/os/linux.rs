//! Linux with glibc: which code its stacks return into.

use crate::arch;
use crate::stack::Kind;
use std::ffi::{CStr, c_int, c_void};
use std::ops::Range;
use std::ptr;

/// A word of memory that may not be there any more. Asking the system is safe where reading would be a fault.
pub(crate) fn read_word(address: usize) -> Option<usize> {
    let mut word = 0_usize;
    let size = size_of::<usize>();
    let local = libc::iovec { iov_base: (&raw mut word).cast(), iov_len: size };
    let remote = libc::iovec { iov_base: address as *mut c_void, iov_len: size };
    // SAFETY: the system copies between this process and itself, and checks both sides.
    let copied = unsafe { libc::process_vm_readv(libc::getpid(), &raw const local, 1, &raw const remote, 1, 0) };
    if copied == size as isize {
        return Some(word);
    }
    let error = std::io::Error::last_os_error().raw_os_error();
    if error == Some(libc::EFAULT) {
        return None;
    }
    // Forbidden here (a seccomp filter): then only reading is left, on the caller's promise that memory of armed stacks
    // is discarded before it is unmapped.
    // SAFETY: that promise.
    Some(unsafe { (address as *const usize).read_volatile() })
}

/// The memory of the running thread's stack, as its creator made it.
pub(crate) fn thread_bounds() -> Option<Range<usize>> {
    let _uncancelled = super::Uncancelled::new();
    // SAFETY: the attributes are filled in before they are read, and destroyed once.
    unsafe {
        let mut attributes: libc::pthread_attr_t = std::mem::zeroed();
        if libc::pthread_getattr_np(libc::pthread_self(), &raw mut attributes) != 0 {
            return None;
        }
        let (mut low, mut size) = (ptr::null_mut(), 0);
        let got = libc::pthread_attr_getstack(&raw const attributes, &raw mut low, &raw mut size);
        libc::pthread_attr_destroy(&raw mut attributes);
        (got == 0).then(|| low as usize..low as usize + size)
    }
}

/// Whether there is memory to register some functions with [`at_thread_end`], which ends the
/// process where there is none: that takes 40 bytes for each. The block is too large for a cache of
/// the thread's own, so `calloc`, which does not look there before glibc 2.41, finds its memory.
/// Another thread may take it first; nothing can be done about that.
pub(crate) fn room_for_thread_ends() -> bool {
    // SAFETY: a block that nobody uses.
    unsafe {
        let block = libc::malloc(4096);
        libc::free(block);
        !block.is_null()
    }
}

/// Has `end` called, with null, when the running thread ends, before what else is waiting for that. It may be asked for
/// while the thread ends.
pub(crate) fn at_thread_end(end: unsafe extern "C" fn(*mut c_void)) {
    unsafe extern "C" {
        /// What C++ and Rust register destructors of thread-locals with (glibc's `stdlib/cxa_thread_atexit_impl.c`).
        fn __cxa_thread_atexit_impl(
            end: unsafe extern "C" fn(*mut c_void),
            with: *mut c_void,
            of: *mut c_void,
        ) -> c_int;
    }
    // Whose it is: glibc takes any address in that object, but for null, of which a thread's first
    // call makes a fault.
    let of = &raw const HERE;
    static HERE: u8 = 0;
    // SAFETY: `end` takes null, and is of this library.
    unsafe { __cxa_thread_atexit_impl(end, ptr::null_mut(), of.cast_mut().cast()) };
}

unsafe extern "C" {
    /// `asm/`: stores the address that it returns to.
    fn exeunt_probe(result: *mut c_void) -> *mut c_void;
    /// C11's threads; glibc has them since 2.28.
    fn thrd_create(thread: *mut libc::pthread_t, start: ThreadStart, argument: *mut c_void) -> c_int;
    fn thrd_join(thread: libc::pthread_t, result: *mut c_int) -> c_int;
}

type ThreadStart = unsafe extern "C" fn(*mut c_void) -> *mut c_void;

/// The addresses of glibc's exit trampolines, by starting one stack of each kind and asking it where it will return to.
/// They are local symbols of libc, so that no name leads to them.
pub(crate) fn probe(found: &mut dyn FnMut(usize, Kind, &CStr)) {
    let _uncancelled = super::Uncancelled::new();
    let mut address = 0_usize;
    let argument = (&raw mut address).cast::<c_void>();
    // SAFETY: the thread only writes `address`, and is joined before that is read.
    unsafe {
        let mut attributes: libc::pthread_attr_t = std::mem::zeroed();
        libc::pthread_attr_init(&raw mut attributes);
        // Small, and no page of it is touched but the first.
        libc::pthread_attr_setstacksize(&raw mut attributes, 256 * 1024);
        let mut thread: libc::pthread_t = 0;
        let start = std::mem::transmute::<ThreadStart, extern "C" fn(*mut c_void) -> *mut c_void>(exeunt_probe);
        if libc::pthread_create(&raw mut thread, &raw const attributes, start, argument) == 0 {
            libc::pthread_join(thread, ptr::null_mut());
            if address != 0 {
                found(address, Kind::Thread, c"start_thread");
            }
        }
        libc::pthread_attr_destroy(&raw mut attributes);
    }
    address = 0;
    // SAFETY: as above.
    unsafe {
        let mut thread: libc::pthread_t = 0;
        if thrd_create(&raw mut thread, exeunt_probe, argument) == 0 {
            thrd_join(thread, ptr::null_mut());
            if address != 0 {
                found(address, Kind::Thread, c"start_thread (C11)");
            }
        }
    }
    address = 0;
    probe_context(argument);
    if address != 0 {
        found(address, Kind::Fiber, c"__start_context");
    }
}

/// Runs `exeunt_probe` on a context of its own.
fn probe_context(argument: *mut c_void) {
    const STACK: usize = 64 * 1024;
    let Some(memory) = super::map_zeroes(STACK) else { return };
    // SAFETY: the context runs on memory of its own, to its end, before this function goes on; it returns to `back`.
    unsafe {
        let mut back: libc::ucontext_t = std::mem::zeroed();
        let mut probe: libc::ucontext_t = std::mem::zeroed();
        if libc::getcontext(&raw mut probe) == 0 {
            probe.uc_stack.ss_sp = memory;
            probe.uc_stack.ss_size = STACK;
            probe.uc_link = &raw mut back;
            let start = std::mem::transmute::<ThreadStart, extern "C" fn()>(exeunt_probe);
            // glibc passes whole registers, so that a pointer is one argument.
            libc::makecontext(&raw mut probe, start, 1, argument);
            libc::swapcontext(&raw mut back, &raw const probe);
        }
        super::unmap(memory, STACK);
    }
}

/// Threads that `pthread_exit` or cancellation ends land behind the entry function's call, and come by where it returns to.
pub(crate) const ALL_ENDS_AT_HOOK: bool = true;

/// The name of main's exit trampoline, since glibc 2.34.
pub(crate) const MAIN_EXIT: &CStr = c"__libc_start_call_main";

/// Whether `address` is where `main` returns to, `outer` being the return addresses further out: the code there hands
/// the result to `exit`, and it is, or was called by, `__libc_start_main`.
pub(crate) fn main_exit(address: usize, outer: &[usize]) -> bool {
    let is_start = |address: usize| {
        let name = super::exported_symbol(address - 1);
        name.is_some_and(|name| name.to_bytes().starts_with(b"__libc_start_main"))
    };
    // In a static program nothing is exported; there the shape alone has to do.
    let named = is_start(address) || outer.first().is_some_and(|&outer| is_start(outer));
    let dynamic = super::exported_symbol(libc::exit as *const () as usize).is_some();
    // SAFETY: `address` is a return address that unwinding gave.
    (named || !dynamic) && unsafe { arch::ends_in_exit(address, libc::exit as *const () as usize) }
}
