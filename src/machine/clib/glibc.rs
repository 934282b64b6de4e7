//! glibc: which of its code stacks return into, and what else it is asked for.

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

/// The memory of the running thread's stack, as its creator made it.
pub(crate) fn thread_bounds() -> Option<Range<usize>> {
    let _uncancelled = Uncancelled::new();
    // SAFETY: the attributes are filled in before they are read, and destroyed once.
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
    /// `thrd_create` and `thrd_join`, or zeros where this program has none: see below.
    static exeunt_c11: [usize; 2];
}

// C11's threads, if they are linked; glibc has them since 2.28. In a program that is linked statically this is the only way to
// them. A weak reference asks for nothing: it takes what the program has.
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

/// Functions of libc itself. By their mere names they may be somebody's wrappers: of a sanitizer, of an object in LD_PRELOAD,
/// or of the program.
///
/// `Ok(None)` in a program without a dynamic linker, which has those only that it was linked with.
fn own_functions<const N: usize>(names: [&CStr; N]) -> Result<Option<[*mut c_void; N]>, Error> {
    if !has_dynamic_linker() {
        return Ok(None);
    }
    // Before 2.34, threads have a library of their own.
    for library in [c"libc.so.6", c"libpthread.so.0"] {
        // SAFETY: only looks for a library that is loaded already, and in it. Closing the handle unloads neither: everything
        // here stands on them.
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

/// Whether a dynamic linker has loaded this program: then the program names it.
fn has_dynamic_linker() -> bool {
    // SAFETY: the auxiliary vector leads to the program's headers, which stay.
    unsafe {
        let headers = libc::getauxval(libc::AT_PHDR) as *const libc::Elf64_Phdr;
        let count = libc::getauxval(libc::AT_PHNUM) as usize;
        (0..count).any(|number| !headers.is_null() && (*headers.add(number)).p_type == libc::PT_INTERP)
    }
}

/// The experiments that every process makes. They show local symbols of libc, to which no name leads.
pub(crate) const PROBES: [Probe; 2] = [
    Probe { kind: Kind::Thread, name: c"start_thread", run: probe_thread },
    Probe { kind: Kind::Fiber, name: c"__start_context", run: probe_context },
];

/// Where threads' functions return to, by starting a thread and asking it.
fn probe_thread() -> Result<usize, Error> {
    let own = own_functions([c"pthread_create", c"pthread_join"])?;
    let [create, join] = own.unwrap_or([libc::pthread_create as *mut c_void, libc::pthread_join as *mut c_void]);
    // SAFETY: these are the functions' types, in C's terms.
    let (create, join) = unsafe {
        (
            std::mem::transmute::<*mut c_void, PthreadCreate>(create),
            std::mem::transmute::<*mut c_void, PthreadJoin>(join),
        )
    };
    let mut address = 0_usize;
    // SAFETY: the thread only writes `address`, and is joined before that is read. The attributes are filled in before they are
    // read, and destroyed once.
    let error = unsafe {
        let mut attributes: libc::pthread_attr_t = std::mem::zeroed();
        libc::pthread_attr_init(&raw mut attributes);
        // Small, and no page of it is touched but the first.
        libc::pthread_attr_setstacksize(&raw mut attributes, 256 * 1024);
        let mut thread: libc::pthread_t = 0;
        let mut start = |attributes| create(&raw mut thread, attributes, exeunt_probe, (&raw mut address).cast());
        let mut error = start(&raw const attributes);
        if error == libc::EINVAL {
            // The program's thread-locals alone are larger, and they lie on the stack: ThreadSanitizer's are.
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

/// The same for C11's threads, if there are any.
pub(crate) fn probe_c11() -> Result<Option<usize>, Error> {
    // SAFETY: two words that the linkers fill in before any code runs.
    let linked = unsafe { exeunt_c11 };
    // libc has none: nobody can have started one.
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
    /// `<threads.h>`: `thrd_success` and `thrd_nomem`. Any other is what a thread that is refused gives.
    const SUCCESS: c_int = 0;
    const NOMEM: c_int = 3;
    match code {
        SUCCESS => {
            // SAFETY: it was started, and is joined once.
            unsafe { join(thread, ptr::null_mut()) };
            Ok(Some(address))
        }
        NOMEM => Err(Error::CallFailed { call: "thrd_create", errno: libc::ENOMEM }),
        _ => Err(Error::CallFailed { call: "thrd_create", errno: libc::EAGAIN }),
    }
}

/// Where contexts' functions return to, by running `exeunt_probe` on a context of its own.
fn probe_context() -> Result<usize, Error> {
    const STACK: usize = 64 * 1024;
    /// Valgrind takes a step of the stack pointer by less than 2,000,000 bytes for a large frame
    /// (`--max-stackframe`), and would then call the caller's own frames unused. So the context's
    /// stack is in the middle of a mapping of this size there.
    const APART: usize = 8 << 20;
    let size = if os::is_valgrind() { APART } else { STACK };
    let memory = os::map_zeroes(size).ok_or_else(|| Error::last_call("mmap"))?;
    let mut address = 0_usize;
    // SAFETY: the context runs on memory of its own, to its end, before this function goes on; it returns to `back`.
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
            // glibc passes whole registers, so that a pointer is one argument.
            libc::makecontext(&raw mut probe, start, 1, (&raw mut address).cast::<c_void>());
            let switched = libc::swapcontext(&raw mut back, &raw const probe) == 0;
            switched.then_some(()).ok_or_else(|| Error::last_call("swapcontext"))
        }
    };
    // SAFETY: the context has come to its end, or was never begun.
    unsafe { os::unmap(memory, size) };
    // What it stored; the compiler knows nothing of that context.
    result.map(|()| std::hint::black_box(address))
}

/// Whether the return address `address` is behind a call by a pointer, as that of a stack's function is. Where a function
/// calls another by name, a walk from there says nothing about stacks' functions.
pub(crate) fn is_behind_indirect_call(address: usize) -> bool {
    // SAFETY: a return address that unwinding gave, in a function with a table: the call is right before it.
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

/// Threads that `pthread_exit` or cancellation ends land behind the entry function's call, and come by where it returns to.
pub(crate) const ALL_ENDS_AT_HOOK: bool = true;

/// The name of the exit trampoline of `main`, if `address` is where `main` returns to, `outer` being the return addresses
/// further out: the code there hands the result to `exit`, and it is, or was called by, `__libc_start_main`.
pub(crate) fn main_exit(address: usize, outer: &[usize]) -> Option<&'static CStr> {
    // The code first: it is far quicker to look at than the names are to find.
    // SAFETY: `address` is a return address that unwinding gave.
    if !unsafe { arch::ends_in_exit(address, libc::exit as *const () as usize) } {
        return None;
    }
    // In a static program nothing is exported; there the shape alone has to do.
    let named = is_start(address) || outer.first().is_some_and(|&outer| is_start(outer));
    let is_main = named || exported_symbol(libc::exit as *const () as usize).is_none();
    is_main.then(|| if has_start_call_main() { c"__libc_start_call_main" } else { c"__libc_start_main" })
}

/// Whether the return address lies in libc's function that the program's first code calls.
pub(crate) fn is_start(address: usize) -> bool {
    let name = exported_symbol(address - 1);
    name.is_some_and(|name| name.to_bytes().starts_with(b"__libc_start_main"))
}

/// Whether `__libc_start_main` has a function of its own that calls `main`: since glibc 2.34.
fn has_start_call_main() -> bool {
    // SAFETY: a string that lives as long as libc.
    let version = unsafe { CStr::from_ptr(libc::gnu_get_libc_version()) }.to_str().unwrap_or_default();
    let mut numbers = version.split('.').map(|number| number.parse::<u32>().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (2, 34)
}
