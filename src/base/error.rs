//! [`Error`]: what can go wrong. The texts say what was found and what to do about it.

use super::limits;
use super::redirect::Redirect;
use super::stack_id::StackId;
use super::unrecognised::Unrecognised;
use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

/// Why exeunt could not arm a stack, or not set a value. After an error nothing has changed: no
/// word of the stack, and no record.
///
/// `Debug` prints the same text as `Display`, so that a failed `unwrap`, or an error that `main`
/// returns, also says what was found and what to do.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// The walk along this stack has found no known exit trampoline.
    UnknownTrampoline(Box<Unrecognised>),
    /// The stack's entry function has ended, and the handlers have run. The calling code is a
    /// destructor of a thread-local, of a pthread key or of a static, or an `atexit` function.
    StackHasEnded,
    /// `main` has not begun. The calling code is a constructor of the program or of a library, or
    /// the initialiser of a static.
    TooEarly,
    /// The calling code runs on a signal handler's alternate stack, which serves every stack that
    /// its thread runs.
    SignalStack,
    /// The processor checks this thread's returns against a shadow stack: a rewritten return
    /// address would end the process.
    ShadowStack,
    /// exeunt cannot patch the exit trampoline: its code has no known shape, or the system refuses.
    /// The text says what was found, with its bytes, and with the feature `symbols` their disassembly.
    NoCodeSite(Cow<'static, str>),
    /// `EXEUNT_REDIRECT` has a value other than `slot`, `code` and `auto`.
    UnknownRedirect(String),
    /// The process already uses another redirect.
    RedirectChosen {
        /// The redirect that the process uses.
        chosen: Redirect,
        /// The redirect that was requested.
        wanted: Redirect,
    },
    /// Distinct exit trampolines have taken all trampolines.
    TooManyTrampolines,
    /// All places for the wrappers of runtimes are taken.
    TooManyWrappers,
    /// The system has refused to change the protection of a page that holds exeunt's data.
    Protection {
        /// The page's address.
        address: usize,
        /// The system's error.
        reason: String,
    },
    /// The foot does not hold the return address that unwinding has found, neither plain nor signed
    /// with a known key.
    ForeignFoot {
        /// The foot's address.
        address: usize,
        /// The word found there.
        found: usize,
        /// The return address that was expected.
        expected: usize,
    },
    /// This stack is armed already, so its end is settled. `enter` is for the first function of a
    /// stack.
    AlreadyArmed(StackId),
    /// The calling code does not run on the given stack.
    NotOnThatStack {
        /// The stack pointer.
        stack_pointer: usize,
        /// The memory that the caller gave.
        range: Range<usize>,
    },
    /// All dynamic slots are allocated.
    SlotsExhausted,
    /// No dynamic slot has this handle: it was never allocated, or it was freed.
    NoSuchSlot(u32),
    /// There is no memory for the record or the stack map.
    OutOfMemory,
    /// A change was requested during another change: from a key's `Eq`, or from a signal handler
    /// that has interrupted one.
    Busy,
    /// A stack local was used while its own value on this stack was being created or dropped.
    RecursiveInit,
    /// A call has failed that exeunt makes to find out where stacks end, or to prepare for patching
    /// code. The next use tries again.
    CallFailed {
        /// The function that failed.
        call: &'static str,
        /// The error number (`errno`).
        errno: i32,
    },
    /// Another function is called at every end of a stack already.
    EveryEndTaken,
    /// The word at the given address is no foot of a stack that can be armed.
    NoFoot {
        /// The address.
        address: usize,
        /// The word found there. Zero if it was not read.
        found: usize,
        /// Why not.
        reason: &'static str,
    },
    /// The patched exit trampolines are in use.
    CodeSitesInUse {
        /// How many stacks are armed whose ends need them.
        armed: usize,
        /// Whether a function is called at every end.
        every_end: bool,
    },
    /// exeunt is calling this code, an allocator or a handler of `fork`, in an outer frame of this
    /// stack, and the code has requested something that takes another such call.
    Reentered,
}

impl Error {
    /// The error of the call that has just failed, with its `errno`.
    #[cfg(any(target_os = "linux", code_redirect))]
    pub(crate) fn last_call(call: &'static str) -> Self {
        Self::CallFailed { call, errno: std::io::Error::last_os_error().raw_os_error().unwrap_or(0) }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownTrampoline(found) => found.fmt(f),
            Self::StackHasEnded => f.write_str(
                "this stack's function has ended, and its handlers have run: code that runs this late (destructors of \
                 thread-locals, of pthread keys and of statics, atexit functions) can use no storage and no handlers \
                 here, so let a handler do it",
            ),
            Self::TooEarly => f.write_str(
                "main has not begun, so the end of this stack is not known yet: code that runs this early \
                 (constructors, initialisers of statics) can use no storage and no handlers here, so do it in main",
            ),
            Self::SignalStack => f.write_str(
                "this code runs on a signal stack, which belongs to no thread or fiber: \
                 arm the stack before the signal comes, from its ordinary code",
            ),
            Self::ShadowStack => f.write_str(
                "the processor checks this thread's returns against a shadow stack, so a rewritten return address \
                 would end the process: redirect the code instead (EXEUNT_REDIRECT=code, or exeunt::Builder), or run \
                 without it (GLIBC_TUNABLES=glibc.cpu.x86_shstk=off)",
            ),
            Self::NoCodeSite(found) => {
                write!(f, "code redirect is not possible here: {found}; slot redirect (EXEUNT_REDIRECT=slot) may be")
            }
            Self::UnknownRedirect(value) => {
                write!(f, "EXEUNT_REDIRECT is {value:?}, which is no redirect: set it to slot, code or auto")
            }
            Self::RedirectChosen { chosen, wanted } => write!(
                f,
                "this process already uses {chosen} redirect, so it is too late for {wanted} redirect: choose before \
                 the first stack is armed"
            ),
            Self::TooManyTrampolines => write!(
                f,
                "all {} trampolines are taken by as many distinct exit trampolines: \
                 the stacks of this process end in more ways than exeunt has room for",
                limits::TRAMPOLINES
            ),
            Self::TooManyWrappers => write!(
                f,
                "all {} places for the wrappers of runtimes are taken: register a wrapper's code once in a process, not \
                 each function that it calls",
                limits::WRAPPERS
            ),
            Self::Protection { address, reason } => write!(
                f,
                "the page at {address:#x} that holds the trampolines' cells could not be made writable and read-only \
                 again ({reason}): allow mprotect, or arm one stack of each kind before forbidding it"
            ),
            Self::ForeignFoot { address, found, expected } => write!(
                f,
                "the foot at {address:#x} holds {found:#x}, but by its unwind tables the entry function returns to \
                 {expected:#x}: another tool rewrites return addresses here (as uftrace and other tracers do), so \
                 exeunt has changed nothing: run without that tool, or arm the stack before it starts"
            ),
            Self::AlreadyArmed(id) => write!(
                f,
                "this stack is armed already, as stack {id}: enter is for the first function of a fiber; \
                 here, just use storage and handlers"
            ),
            Self::NotOnThatStack { stack_pointer, range } => write!(
                f,
                "the stack pointer {stack_pointer:#x} is not in {range:#x?}: \
                 give the memory of the stack that this code runs on"
            ),
            Self::SlotsExhausted => {
                write!(f, "all {} dynamic slots are allocated: free some", limits::SLOTS)
            }
            Self::NoSuchSlot(handle) => {
                write!(f, "no dynamic slot has the handle {handle:#x}: it was never allocated, or it was freed")
            }
            Self::OutOfMemory => {
                f.write_str("there is no memory for this stack's record or its place in the stack map")
            }
            Self::Busy => f.write_str(
                "an outer frame of this very stack is changing the stack's storage (it called a key's Eq, or a signal \
                 interrupted it): change the storage after that frame has returned",
            ),
            Self::RecursiveInit => f.write_str(
                "an outer frame of this very stack is creating or dropping this stack local's value: \
                 its initial value and its destructor cannot use it",
            ),
            Self::CallFailed { call, errno } => write!(
                f,
                "{call} failed: {}. exeunt calls it at a process's first use, to find out where stacks end or to \
                 prepare for patching that code. Nothing has changed, and the next use tries again: {}",
                std::io::Error::from_raw_os_error(*errno),
                match *errno {
                    libc::EPERM | libc::EACCES | libc::ENOSYS => "allow it, where a filter or a policy refuses it",
                    _ => "make room for one more thread (ulimit -u, a cgroup's pids.max), open file or page of memory",
                }
            ),
            Self::EveryEndTaken => f.write_str(
                "another function is called at every end of a stack already, and there is room for one in a process: \
                 take that one back first",
            ),
            Self::NoFoot { address, found, reason } => {
                write!(f, "the word at {address:#x}, {found:#x}, is no foot of a stack that can be armed: {reason}")
            }
            Self::CodeSitesInUse { armed, every_end } => write!(
                f,
                "the patched exit trampolines are in use: {armed} stacks are armed whose ends need them, and {} \
                 function is called at every end: unload these stacks, or let them end, and take the function back",
                if *every_end { "a" } else { "no" }
            ),
            Self::Reentered => f.write_str(
                "exeunt is calling this code (an allocator, or a handler of fork) in an outer frame of this very \
                 stack, and cannot do so again before that call returns: use no storage in such code, or only storage \
                 that exists already",
            ),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for Error {}
