//! The error for a stack on which no foot was found: `of`. `is_too_early` says whether `main` has
//! begun.

use crate::base::error::Error;
use crate::base::unrecognised::{Addresses, Unrecognised};
use std::alloc::{Layout, alloc};
use std::ptr;

/// Where a walk ended that found no foot, and what the reader of the error can do.
pub(crate) struct WalkEnd {
    reason: &'static str,
    advice: &'static str,
}

const FIBER: &str = "if this is a fiber whose function never returns (corosensei, may, Boost.Context), or a runtime of your \
                     own, run its function inside exeunt::enter (C: exeunt_enter); if a wrapper of your runtime calls the \
                     function and then switches away, register it with exeunt::register_trampoline";

pub(crate) static SWITCH: WalkEnd =
    WalkEnd { reason: "it ends in a coroutine's switch to the stack that resumed it", advice: FIBER };
pub(crate) static HANDLER: WalkEnd = WalkEnd {
    reason: "it begins with a signal handler on a former alternate signal stack",
    advice: "if this is a coroutine that was made by a signal handler on an alternate signal stack (QEMU, GNU Pth), run its \
             function inside exeunt::enter (C: exeunt_enter)",
};
pub(crate) static NOT_WALKABLE: WalkEnd = WalkEnd { reason: "it could not be unwound", advice: FIBER };
pub(crate) static UNKNOWN: WalkEnd = WalkEnd {
    reason: "its outermost frame is no exit trampoline that exeunt recognises",
    advice: "if this runs before main has begun, or after the stack's function has returned (initialisers and destructors \
             of statics, destructors of thread-locals, atexit), use storage and handlers in between, and let a handler do \
             what is to be done at the end; if it is a stack that was made by bare system calls, run its function inside \
             exeunt::enter (C: exeunt_enter); if a wrapper of your runtime calls the function and then switches away, \
             register it with exeunt::register_trampoline",
};
/// The foot holds a trampoline of exeunt's, but no record belongs to it: the stack was drained or
/// discarded.
pub(crate) static STACK_ENDED: WalkEnd = WalkEnd { reason: "", advice: "" };
#[cfg(not(target_env = "musl"))]
pub(crate) static NO_TABLE: WalkEnd = WalkEnd {
    reason: "it runs code without unwind tables",
    advice: "compile the code of the outermost frame with unwind tables (-fasynchronous-unwind-tables; CFI directives in \
             assembly); or, if that is where a fiber begins, run the fiber's function inside exeunt::enter (C: \
             exeunt_enter), or register the wrapper that calls it with exeunt::register_trampoline",
};
#[cfg(target_env = "musl")]
pub(crate) static NO_TABLE: WalkEnd = WalkEnd {
    reason: "it runs code without unwind tables",
    advice: "musl's functions have none: where musl has called this code (initialisers and destructors \
             of statics, destructors of thread-locals, atexit functions, qsort's comparison), use storage \
             and handlers before or after that; compile other code with unwind tables \
             (-fasynchronous-unwind-tables; CFI directives in assembly); or, if that is where a fiber \
             begins, run the fiber's function inside exeunt::enter (C: exeunt_enter), or register the \
             wrapper that calls it with exeunt::register_trampoline",
};
#[cfg(target_os = "linux")]
static NO_INDEX: WalkEnd = WalkEnd {
    reason: "it runs code of a program or library that has no index of its unwind tables (.eh_frame_hdr)",
    advice: "link that program or library with the index (-Wl,--eh-frame-hdr, the compilers' default; take \
             -Wl,--no-eh-frame-hdr away); or run the stack's function inside exeunt::enter (C: exeunt_enter)",
};
#[cfg(target_os = "linux")]
static NO_OBJECT: WalkEnd = WalkEnd {
    reason: "its outermost return address lies in no program or library that is loaded",
    advice: "if a tool rewrites return addresses in this process (as uftrace does), run without the tool; if this is code \
             that was made at run time, register unwind tables for it (__register_frame), or run the stack's function \
             inside exeunt::enter (C: exeunt_enter)",
};
#[cfg(target_os = "linux")]
static OTHER_LIBC: WalkEnd = WalkEnd {
    reason: "it was started by a second copy of libc (dlmopen loads one), and exeunt recognises stacks only of the libc that it calls",
    advice: "run the stack's function inside exeunt::enter (C: exeunt_enter), or load exeunt into the namespace of that \
             libc and use it there",
};

/// The error for a stack on which a walk from `pc` met these return addresses and then ended at
/// `end`.
pub(crate) fn of(end: &'static WalkEnd, pc: usize, addresses: Addresses) -> Error {
    if ptr::eq(end, &raw const STACK_ENDED) {
        return Error::StackHasEnded;
    }
    #[cfg(target_env = "gnu")]
    {
        let is_outermost = ptr::eq(end, &raw const UNKNOWN) || ptr::eq(end, &raw const NO_TABLE);
        if let Some(error) = is_outermost.then(|| stage::of(&addresses)).flatten() {
            return error;
        }
    }
    #[cfg(target_env = "musl")]
    if ptr::eq(end, &raw const NO_TABLE) && HAS_ENDED.get() {
        return Error::StackHasEnded;
    }
    #[cfg(target_os = "linux")]
    let end = refine(end, pc, &addresses);
    #[cfg(not(target_os = "linux"))]
    let _ = pc;
    unrecognised(addresses, end)
}

#[cfg(target_env = "musl")]
thread_local! {
    static HAS_ENDED: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// Notes that the running thread's stack has ended, and was drained. From now on only musl itself
/// calls code on this thread: destructors, and atexit functions if it is `main`'s. No walk shows
/// that, as musl has no unwind tables.
#[cfg(target_env = "musl")]
pub(crate) fn note_end() {
    HAS_ENDED.set(true);
}

/// The error for a stack with these return addresses.
fn unrecognised(addresses: Addresses, end: &WalkEnd) -> Error {
    let layout = Layout::new::<Unrecognised>();
    // SAFETY: the layout is not empty. `Box::new` would end the process if there is no memory.
    let place = unsafe { alloc(layout) }.cast::<Unrecognised>();
    if place.is_null() {
        return Error::OutOfMemory;
    }
    // SAFETY: the global allocator has just given this memory, for a value of this type.
    Error::UnknownTrampoline(unsafe {
        place.write(Unrecognised::new(addresses, end.reason, end.advice));
        Box::from_raw(place)
    })
}

/// A more precise end, if the objects that the addresses lie in allow one.
#[cfg(target_os = "linux")]
fn refine(end: &'static WalkEnd, pc: usize, addresses: &[usize]) -> &'static WalkEnd {
    use crate::base::symbols::object_file;
    use crate::machine::os;

    let outermost = addresses.last().map_or(pc, |address| address - 1);
    if ptr::eq(end, &raw const NO_TABLE) {
        return match os::object_at(outermost) {
            None => &NO_OBJECT,
            Some(object) if !object.has_index => &NO_INDEX,
            Some(_) => end,
        };
    }
    let is_other_libc = || {
        let ours = libc::exit as *const () as usize;
        let file = object_file(ours);
        file.is_some() && object_file(outermost) == file && os::object_at(outermost) != os::object_at(ours)
    };
    if ptr::eq(end, &raw const UNKNOWN) && is_other_libc() { &OTHER_LIBC } else { end }
}

/// Whether a stack with these return addresses is that of `main`, which has not begun. This calls
/// nothing that needs libc's own initialisers, which may not have run: `dlopen` would run them,
/// with no arguments and no environment, and once for all.
pub(crate) fn is_too_early(addresses: &[usize]) -> bool {
    #[cfg(target_env = "gnu")]
    return stage::is_too_early(addresses);
    #[cfg(not(target_env = "gnu"))]
    {
        let _ = addresses;
        false
    }
}

/// Whether a stack that leads to no foot has not begun, or has ended. Only certain cases count.
#[cfg(target_env = "gnu")]
mod stage {
    use crate::base::error::Error;
    use crate::base::kind::Kind;
    use crate::exit::landing;
    use crate::exit::trampoline;
    use crate::machine::arch;
    use crate::machine::clib;
    use crate::machine::os;
    use crate::unwind::tables::function_at;

    /// The error for such a stack. The addresses are all those of the stack up to its outermost
    /// frame, or its outermost ones.
    pub(super) fn of(addresses: &[usize]) -> Option<Error> {
        if (0..trampoline::known()).any(|number| is_behind(number, addresses)) {
            return Some(Error::StackHasEnded);
        }
        if !is_main_s_thread() || !is_start(addresses) {
            return None;
        }
        if is_too_early(addresses) {
            return Some(Error::TooEarly);
        }
        main_has_ended(addresses).then_some(Error::StackHasEnded)
    }

    /// Whether this is the stack of `main`'s thread, and `main` has not begun.
    pub(super) fn is_too_early(addresses: &[usize]) -> bool {
        is_main_s_thread() && is_start(addresses) && !landing::has_begun()
    }

    /// Whether the exit trampoline `number` has called the running code, but not as the stack's
    /// function.
    ///
    /// All places are known at which an exit trampoline calls stacks' functions, and the walk has
    /// met none of them. Before it calls those, it calls no other function of the program.
    fn is_behind(number: usize, addresses: &[usize]) -> bool {
        // How many frames it is from the outermost one, at most: `start_thread` is called by
        // `clone3`, `__libc_start_call_main` by `__libc_start_main`, and that by `_start`.
        let depth = match trampoline::kind(number) {
            Kind::Thread => 2,
            Kind::Main => 3,
            Kind::Fiber => 1,
            _ => return false,
        };
        let function = function_at(trampoline::original(number) - 1);
        let is_in =
            |address: usize| function.is_some() && function_at(address - 1) == function && called(address).is_some();
        outermost(addresses, depth).iter().any(|&address| is_in(address))
    }

    /// Whether the exit trampoline of `main`, which is not known yet, has called the running code
    /// after `main`. Either it has called `exit`, or the function that `main` returns to has called
    /// something else than `main`.
    fn main_has_ended(addresses: &[usize]) -> bool {
        /// How many bytes the instructions take that `ends_in_exit` recognises.
        const SHAPE: usize = if cfg!(target_arch = "aarch64") { 4 } else { 7 };
        let exit = libc::exit as *const () as usize;
        let is_behind_main = |address: usize| {
            let start = function_at(address - 1).unwrap_or(address);
            // The function continues behind the address, as far as the unwind table says.
            let further = (1..=16).map(|step| address + 16 * step);
            let end = further.take_while(|end| function_at(end - 1) == Some(start)).last().unwrap_or(address);
            let mut places = (start..=end.saturating_sub(SHAPE)).step_by(ALIGNMENT);
            // SAFETY: these bytes are that function's.
            places.any(|at| unsafe { arch::ends_in_exit(at, exit) })
        };
        outermost(addresses, 3).iter().any(|&address| match called(address) {
            Some(target) => target == exit || is_behind_main(address),
            // Before glibc 2.34 it calls by a pointer the code that `pthread_exit` of `main` leads
            // to. It calls `main` and the initialisers in the same way. But `main` has begun, and a
            // walk that meets its call has its foot.
            None => clib::is_start(address),
        })
    }

    /// How instructions are aligned.
    const ALIGNMENT: usize = if cfg!(target_arch = "aarch64") { 4 } else { 1 };

    fn outermost(addresses: &[usize], count: usize) -> &[usize] {
        &addresses[addresses.len().saturating_sub(count)..]
    }

    /// The target of the call that returns to `address`, if it is a direct one.
    fn called(address: usize) -> Option<usize> {
        // No call instruction is longer. The memory before the function may be unmapped.
        const LENGTH: usize = 5;
        let start = function_at(address - 1)?;
        // SAFETY: these bytes are of a function that unwinding went through.
        if start + LENGTH <= address { unsafe { arch::called_directly(address) } } else { None }
    }

    fn is_main_s_thread() -> bool {
        // By a system call: libc has a function for the number only since glibc 2.30.
        // SAFETY: the call only asks.
        unsafe { libc::syscall(libc::SYS_gettid) == libc::c_long::from(libc::getpid()) }
    }

    /// Whether the outermost frame is the code at which the kernel starts a program: the program's
    /// own, which calls `main`, or before that the dynamic linker's, which calls initialisers of
    /// libraries.
    fn is_start(addresses: &[usize]) -> bool {
        // The code only calls `__libc_start_main`. In static programs it may have no unwind table.
        const LENGTH: usize = 64;
        let Some(&last) = addresses.last() else { return false };
        // SAFETY: only asks.
        let (entry, linker) = unsafe { (libc::getauxval(libc::AT_ENTRY), libc::getauxval(libc::AT_BASE)) };
        let (entry, linker) = (entry as usize, linker as usize);
        let is_linker = || linker != 0 && os::object_at(last - 1) == os::object_at(linker);
        (entry..=entry + LENGTH).contains(&last) || is_linker()
    }
}
