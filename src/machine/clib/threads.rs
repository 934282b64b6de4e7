//! What glibc and musl share: thread bounds, libc's own functions, and the experiments with threads.

use crate::base::cancellation::Uncancelled;
use crate::base::error::Error;
use crate::machine::arch;
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

unsafe extern "C" {
    /// `asm/`: stores the address that it returns to.
    pub(super) fn exeunt_probe(result: *mut c_void) -> *mut c_void;
    /// The addresses of `thrd_create` and `thrd_join`; zeros where the program has none: see below.
    static exeunt_c11: [usize; 2];
}

// C11's threads, if they are linked; glibc has them since 2.28, musl since 1.1.5. A statically linked program has no
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

pub(super) type ThreadStart = unsafe extern "C" fn(*mut c_void) -> *mut c_void;
type PthreadCreate =
    unsafe extern "C" fn(*mut libc::pthread_t, *const libc::pthread_attr_t, ThreadStart, *mut c_void) -> c_int;
type PthreadJoin = unsafe extern "C" fn(libc::pthread_t, *mut *mut c_void) -> c_int;
type ThrdCreate = unsafe extern "C" fn(*mut libc::pthread_t, ThreadStart, *mut c_void) -> c_int;
type ThrdJoin = unsafe extern "C" fn(libc::pthread_t, *mut c_int) -> c_int;

/// The libraries with libc's thread functions. Before 2.34, glibc has them in a library of their
/// own. musl's dynamic linker is its libc, and takes this name for itself.
const LIBRARIES: &[&CStr] = if cfg!(target_env = "gnu") { &[c"libc.so.6", c"libpthread.so.0"] } else { &[c"libc.so"] };

/// The addresses of libc's own functions. The mere names may resolve to wrappers: of a sanitizer,
/// of an object in LD_PRELOAD, or of the program.
///
/// `Ok(None)` in a program without a dynamic linker: it has only the functions that it was linked
/// with.
pub(super) fn own_functions<const N: usize>(names: [&CStr; N]) -> Result<Option<[*mut c_void; N]>, Error> {
    if !has_dynamic_linker() {
        return Ok(None);
    }
    for library in LIBRARIES {
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
    Err(Error::last_call(if cfg!(target_env = "gnu") { "dlopen(\"libc.so.6\")" } else { "dlopen(\"libc.so\")" }))
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

/// The return address of threads' functions: starts a thread with `exeunt_probe`, which stores it.
pub(super) fn probe_thread() -> Result<usize, Error> {
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
        let mut thread: libc::pthread_t = std::mem::zeroed();
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
    // SAFETY: a number or a pointer.
    let mut thread: libc::pthread_t = unsafe { std::mem::zeroed() };
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

/// Whether the return address `address` follows a call by a pointer, as the call of a stack's entry
/// function does. Where one function calls another by name, a walk that ends there does not show
/// where entry functions return to.
pub(crate) fn is_behind_indirect_call(address: usize) -> bool {
    // SAFETY: a return address that leads to code (`exit/recognition.rs`, `of_code`). The call is
    // right before it.
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
