//! glibc: thread ends and exit trampolines. The head of `mod.rs` lists the names.
//!
//! Exit trampolines are found in two ways. Those of threads and fibers are local functions, which
//! have no name to look up, so an experiment runs a function on such a stack and takes its return
//! address ([`PROBES`], `threads.rs`). That of `main` is recognised by its code ([`main_exit`]).

use super::probe::Probe;
use super::threads::{ThreadStart, exeunt_probe, own_functions, probe_thread};
use crate::base::error::Error;
use crate::base::kind::Kind;
use crate::base::symbols::exported_symbol;
use crate::machine::arch;
use crate::machine::os;
use std::ffi::{CStr, c_int, c_void};
use std::ptr;

/// Registers `end` to be called, with null, at the end of the running thread, before what was
/// registered earlier. It also works while the thread ends.
pub(crate) fn at_thread_end(end: unsafe extern "C" fn(*mut c_void)) -> Result<(), Error> {
    unsafe extern "C" {
        /// C++ and Rust register the destructors of thread-locals with this function (glibc's
        /// `stdlib/cxa_thread_atexit_impl.c`).
        fn __cxa_thread_atexit_impl(
            end: unsafe extern "C" fn(*mut c_void),
            with: *mut c_void,
            of: *mut c_void,
        ) -> c_int;
    }
    // The third argument is an address in the object that `end` belongs to. glibc takes any such
    // address. With null, a thread's first call would fault.
    let of = &raw const HERE;
    static HERE: u8 = 0;
    // SAFETY: `end` takes null, and lies in the same object as `HERE`.
    unsafe { __cxa_thread_atexit_impl(end, ptr::null_mut(), of.cast_mut().cast()) };
    Ok(())
}

/// `exit` runs what [`at_thread_end`] has registered for the thread that calls it
/// (`__call_tls_dtors` in glibc's `stdlib/exit.c`).
pub(crate) const EXIT_ENDS_THREAD: bool = true;

/// The experiments that every process makes. They find local functions of libc, which have no name
/// to look up.
pub(crate) const PROBES: [Probe; 2] = [
    Probe { kind: Kind::Thread, name: c"start_thread", run: probe_thread },
    Probe { kind: Kind::Fiber, name: c"__start_context", run: probe_context },
];

/// The return address of contexts' functions: runs `exeunt_probe` on a context, which stores it.
fn probe_context() -> Result<usize, Error> {
    const STACK: usize = 64 * 1024;
    /// Valgrind takes a change of the stack pointer by less than 2,000,000 bytes for a large frame
    /// (`--max-stackframe`), and would then treat the caller's own frames as unused. So under
    /// valgrind the context's stack lies in the middle of a mapping of this size.
    const APART: usize = 8 << 20;
    let size = if os::is_valgrind() { APART } else { STACK };
    let memory = os::map_zeroes(size).ok_or_else(|| Error::last_call("mmap"))?;
    let mut address = 0_usize;
    // SAFETY: the context runs on memory of its own. It ends before this function continues, as its
    // link is `back`.
    let result = unsafe {
        let mut back: libc::ucontext_t = std::mem::zeroed();
        let mut probe: libc::ucontext_t = std::mem::zeroed();
        if libc::getcontext(&raw mut probe) != 0 {
            Err(Error::last_call("getcontext"))
        } else {
            probe.uc_stack.ss_sp = memory.byte_add((size - STACK) / 2);
            probe.uc_stack.ss_size = STACK;
            probe.uc_link = &raw mut back;
            let start = std::mem::transmute::<ThreadStart, extern "C" fn()>(exeunt_probe);
            // glibc passes whole registers, so a pointer is one argument.
            libc::makecontext(&raw mut probe, start, 1, (&raw mut address).cast::<c_void>());
            let switched = libc::swapcontext(&raw mut back, &raw const probe) == 0;
            switched.then_some(()).ok_or_else(|| Error::last_call("swapcontext"))
        }
    };
    // SAFETY: the context has ended, or has never begun.
    unsafe { os::unmap(memory, size) };
    // The compiler cannot see the context's store to `address`; `black_box` makes it read the
    // variable.
    result.map(|()| std::hint::black_box(address))
}

/// Threads that end by `pthread_exit` or by cancellation land behind the call of the entry
/// function, and then reach the code that the entry function returns to.
pub(crate) const ALL_ENDS_AT_HOOK: bool = true;

/// The name of the exit trampoline of `main`, if `main` returns to `address`. The code there passes
/// the result to `exit`. It lies in `__libc_start_main`, or in a function that `__libc_start_main`
/// calls: `outer` are the return addresses of the outer frames.
pub(crate) fn main_exit(address: usize, outer: &[usize]) -> Option<&'static CStr> {
    // The code first: reading it is much faster than looking up names.
    // SAFETY: the caller has checked that the return address leads to code (`exit/recognition.rs`,
    // `of_code`).
    if !unsafe { arch::ends_in_exit(address, libc::exit as *const () as usize) } {
        return None;
    }
    // A static program exports nothing, so there the code's shape alone decides.
    let named = is_start(address) || outer.first().is_some_and(|&outer| is_start(outer));
    let is_main = named || exported_symbol(libc::exit as *const () as usize).is_none();
    is_main.then(|| if has_start_call_main() { c"__libc_start_call_main" } else { c"__libc_start_main" })
}

/// libc's own `__libc_start_main` and `exit`. `None` in a program without a dynamic linker.
pub(crate) fn start_and_exit() -> Result<Option<[usize; 2]>, Error> {
    Ok(own_functions([c"__libc_start_main", c"exit"])?.map(|found| found.map(|function| function as usize)))
}

/// The name of the exit trampoline of `main`.
pub(crate) fn main_exit_name() -> &'static CStr {
    if has_start_call_main() { c"__libc_start_call_main" } else { c"__libc_start_main" }
}

/// Whether the return address lies in libc's `__libc_start_main`, which the program's first code
/// calls.
pub(crate) fn is_start(address: usize) -> bool {
    let name = exported_symbol(address - 1);
    name.is_some_and(|name| name.to_bytes().starts_with(b"__libc_start_main"))
}

/// Whether `__libc_start_main` calls `main` through a function of its own: since glibc 2.34.
fn has_start_call_main() -> bool {
    // SAFETY: glibc returns a string that is never freed.
    let version = unsafe { CStr::from_ptr(libc::gnu_get_libc_version()) }.to_str().unwrap_or_default();
    let mut numbers = version.split('.').map(|number| number.parse::<u32>().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (2, 34)
}
