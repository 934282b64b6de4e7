//! glibc: thread bounds, thread ends, and exit trampolines. The head of `mod.rs` lists the names.
//!
//! Exit trampolines are found in two ways. Those of threads and fibers are local functions, which
//! have no name to look up, so an experiment runs a function on such a stack and takes its return
//! address ([`PROBES`], [`probe_c11`]). That of `main` is recognised by its code ([`main_exit`]).

use super::probe::Probe;
use crate::base::cancellation::Uncancelled;
use crate::base::error::Error;
use crate::base::kind::Kind;
use crate::base::symbols::exported_symbol;
use crate::machine::arch;
use crate::machine::os;
use std::arch::global_asm;
use std::ffi::{CStr, c_int, c_void};
use std::ops::Range;
use std::ptr;

/// The memory of the running thread's stack, as the thread's creator has made it.
pub(crate) fn thread_bounds() -> Option<Range<usize>> {
    let _uncancelled = Uncancelled::new();
    // SAFETY: `pthread_getattr_np` fills in the attributes before they are read; they are destroyed
    // once.
    unsafe {
        let mut attributes: libc::pthread_attr_t = std::mem::zeroed();
        if libc::pthread_getattr_np(libc::pthread_self(), &raw mut attributes) != 0 {
            return None;
        }
        let (mut low, mut size) = (ptr::null_mut(), 0);
        let got = libc::pthread_attr_getstack(&raw const attributes, &raw mut low, &raw mut size);
        libc::pthread_attr_destroy(&raw mut attributes);
        let low = arch::untagged(low as usize);
        (got == 0).then(|| low..low + size)
    }
}

/// Registers `end` to be called, with null, at the end of the running thread, before what was
/// registered earlier. It also works while the thread ends.
pub(crate) fn at_thread_end(end: unsafe extern "C" fn(*mut c_void)) {
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
}

unsafe extern "C" {
    /// `asm/`: stores the address that it returns to.
    fn exeunt_probe(result: *mut c_void) -> *mut c_void;
    /// The addresses of `thrd_create` and `thrd_join`; zeros where the program has none: see below.
    static exeunt_c11: [usize; 2];
}

// C11's threads, if they are linked; glibc has them since 2.28. A statically linked program has no
// other way to find them. A weak reference links nothing in: it resolves to what the program has.
global_asm!(
    ".weak thrd_create",
    ".weak thrd_join",
    ".pushsection .data.rel.ro.exeunt_c11, \"aw\", %progbits",
    ".balign 8",
    ".hidden exeunt_c11",
    ".globl exeunt_c11",
    "exeunt_c11: .quad thrd_create",
    ".quad thrd_join",
    ".popsection",
);

type ThreadStart = unsafe extern "C" fn(*mut c_void) -> *mut c_void;
type PthreadCreate =
    unsafe extern "C" fn(*mut libc::pthread_t, *const libc::pthread_attr_t, ThreadStart, *mut c_void) -> c_int;
type PthreadJoin = unsafe extern "C" fn(libc::pthread_t, *mut *mut c_void) -> c_int;
type ThrdCreate = unsafe extern "C" fn(*mut libc::pthread_t, ThreadStart, *mut c_void) -> c_int;
type ThrdJoin = unsafe extern "C" fn(libc::pthread_t, *mut c_int) -> c_int;

/// The addresses of libc's own functions. The mere names may resolve to wrappers: of a sanitizer,
/// of an object in LD_PRELOAD, or of the program.
///
/// `Ok(None)` in a program without a dynamic linker: it has only the functions that it was linked
/// with.
fn own_functions<const N: usize>(names: [&CStr; N]) -> Result<Option<[*mut c_void; N]>, Error> {
    if !has_dynamic_linker() {
        return Ok(None);
    }
    // Before 2.34, the thread functions are in a library of their own.
    for library in [c"libc.so.6", c"libpthread.so.0"] {
        // SAFETY: `RTLD_NOLOAD` finds only a library that is loaded already. Closing the handle
        // does not unload it: the program depends on it.
        let found = unsafe {
            let handle = libc::dlopen(library.as_ptr(), libc::RTLD_LAZY | libc::RTLD_NOLOAD);
            if handle.is_null() {
                continue;
            }
            let found = names.map(|name| libc::dlsym(handle, name.as_ptr()));
            libc::dlclose(handle);
            found
        };
        if found.iter().all(|function| !function.is_null()) {
            return Ok(Some(found));
        }
    }
    Err(Error::last_call("dlopen(\"libc.so.6\")"))
}

/// Whether a dynamic linker has loaded this program: the program's headers then name one.
fn has_dynamic_linker() -> bool {
    // SAFETY: the auxiliary vector has the address of the program's headers, which stay mapped.
    unsafe {
        let headers = libc::getauxval(libc::AT_PHDR) as *const libc::Elf64_Phdr;
        let count = libc::getauxval(libc::AT_PHNUM) as usize;
        (0..count).any(|number| !headers.is_null() && (*headers.add(number)).p_type == libc::PT_INTERP)
    }
}

/// The experiments that every process makes. They find local functions of libc, which have no name
/// to look up.
pub(crate) const PROBES: [Probe; 2] = [
    Probe { kind: Kind::Thread, name: c"start_thread", run: probe_thread },
    Probe { kind: Kind::Fiber, name: c"__start_context", run: probe_context },
];

/// The return address of threads' functions: starts a thread with `exeunt_probe`, which stores it.
fn probe_thread() -> Result<usize, Error> {
    let own = own_functions([c"pthread_create", c"pthread_join"])?;
    let [create, join] = own.unwrap_or([libc::pthread_create as *mut c_void, libc::pthread_join as *mut c_void]);
    // SAFETY: these are the functions' types in C.
    let (create, join) = unsafe {
        (
            std::mem::transmute::<*mut c_void, PthreadCreate>(create),
            std::mem::transmute::<*mut c_void, PthreadJoin>(join),
        )
    };
    let mut address = 0_usize;
    // SAFETY: the thread writes nothing but `address`, which is read after the thread was joined.
    // The attributes are filled in before they are read, and destroyed once.
    let error = unsafe {
        let mut attributes: libc::pthread_attr_t = std::mem::zeroed();
        libc::pthread_attr_init(&raw mut attributes);
        // The stack is small, and the thread touches only its first page.
        libc::pthread_attr_setstacksize(&raw mut attributes, 256 * 1024);
        let mut thread: libc::pthread_t = 0;
        let mut start = |attributes| create(&raw mut thread, attributes, exeunt_probe, (&raw mut address).cast());
        let mut error = start(&raw const attributes);
        if error == libc::EINVAL {
            // The program's thread-locals lie on the stack as well, and may need more: those of
            // ThreadSanitizer do.
            error = start(ptr::null());
        }
        if error == 0 {
            join(thread, ptr::null_mut());
        }
        libc::pthread_attr_destroy(&raw mut attributes);
        error
    };
    if error == 0 { Ok(address) } else { Err(Error::CallFailed { call: "pthread_create", errno: error }) }
}

/// The return address of functions of C11's threads; `None` if libc has no such threads.
pub(crate) fn probe_c11() -> Result<Option<usize>, Error> {
    // SAFETY: the linkers fill in these two words before any code runs.
    let linked = unsafe { exeunt_c11 };
    // An error means that libc has no such threads, so that the program cannot have started one.
    let own = own_functions([c"thrd_create", c"thrd_join"]).ok().flatten();
    let [create, join] = own.unwrap_or(linked.map(ptr::with_exposed_provenance_mut));
    if create.is_null() || join.is_null() {
        return Ok(None);
    }
    // SAFETY: as in `probe_thread`.
    let (create, join) = unsafe {
        (std::mem::transmute::<*mut c_void, ThrdCreate>(create), std::mem::transmute::<*mut c_void, ThrdJoin>(join))
    };
    let mut address = 0_usize;
    let mut thread: libc::pthread_t = 0;
    // SAFETY: as in `probe_thread`.
    let code = unsafe { create(&raw mut thread, exeunt_probe, (&raw mut address).cast()) };
    /// `<threads.h>`: `thrd_success` and `thrd_nomem`. A thread that the system refuses gives any
    /// other code.
    const SUCCESS: c_int = 0;
    const NOMEM: c_int = 3;
    match code {
        SUCCESS => {
            // SAFETY: the thread was started, and is joined once.
            unsafe { join(thread, ptr::null_mut()) };
            Ok(Some(address))
        }
        NOMEM => Err(Error::CallFailed { call: "thrd_create", errno: libc::ENOMEM }),
        _ => Err(Error::CallFailed { call: "thrd_create", errno: libc::EAGAIN }),
    }
}

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

/// Whether the return address `address` follows a call by a pointer, as the call of a stack's entry
/// function does. Where one function calls another by name, a walk that ends there does not show
/// where entry functions return to.
pub(crate) fn is_behind_indirect_call(address: usize) -> bool {
    // SAFETY: unwinding has given this return address, in a function with an unwind table. The call
    // is right before it.
    unsafe {
        if cfg!(target_arch = "x86_64") {
            // `call rel32`
            (address as *const u8).sub(5).read() != 0xe8
        } else {
            // `bl`
            (address as *const u32).sub(1).read() & 0xfc00_0000 != 0x9400_0000
        }
    }
}

/// Threads that end by `pthread_exit` or by cancellation land behind the call of the entry
/// function, and then reach the code that the entry function returns to.
pub(crate) const ALL_ENDS_AT_HOOK: bool = true;

/// The name of the exit trampoline of `main`, if `main` returns to `address`. The code there passes
/// the result to `exit`. It lies in `__libc_start_main`, or in a function that `__libc_start_main`
/// calls: `outer` are the return addresses of the outer frames.
pub(crate) fn main_exit(address: usize, outer: &[usize]) -> Option<&'static CStr> {
    // The code first: reading it is much faster than looking up names.
    // SAFETY: unwinding has given the return address `address`.
    if !unsafe { arch::ends_in_exit(address, libc::exit as *const () as usize) } {
        return None;
    }
    // A static program exports nothing, so there the code's shape alone decides.
    let named = is_start(address) || outer.first().is_some_and(|&outer| is_start(outer));
    let is_main = named || exported_symbol(libc::exit as *const () as usize).is_none();
    is_main.then(|| if has_start_call_main() { c"__libc_start_call_main" } else { c"__libc_start_main" })
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
