//! What can go wrong, in words for the person who has to do something about it.

use super::limits;
use super::redirect::Redirect;
use super::stack_id::StackId;
use super::unrecognised::Unrecognised;
use std::borrow::Cow;
use std::fmt;

/// Why a stack could not be armed, or a value not be set. After an error nothing has changed: no word of the stack, and
/// no record.
///
/// Its `Debug` is its `Display`: what was found and what to do is also said where an `unwrap` fails or `main` returns it.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// Unwinding this stack led to no exit trampoline that is known.
    UnknownTrampoline(Box<Unrecognised>),
    /// This stack's function has ended, and its handlers have run: this is a destructor of a thread-local, of a pthread
    /// key or of a static, or an `atexit` function.
    StackHasEnded,
    /// `main` has not begun: this is a constructor of the program or of a library, or the initialiser of a static.
    TooEarly,
    /// The code runs on a signal handler's alternate stack, which serves whatever runs on its thread.
    SignalStack,
    /// Returns on this thread are checked against a shadow stack: a rewritten return address would end the process.
    ShadowStack,
    /// The exit trampoline cannot be patched: it has another shape than those known, or the system refuses. The text
    /// tells what was found, with bytes and disassembly.
    NoCodeSite(Cow<'static, str>),
    /// `EXEUNT_REDIRECT` has a value that says nothing.
    UnknownRedirect(String),
    /// The process redirects exits in another way already.
    RedirectChosen {
        /// The way that it uses.
        chosen: Redirect,
        /// The one that was asked for.
        wanted: Redirect,
    },
    /// All trampolines are taken, by as many distinct exit trampolines.
    PoolFull,
    /// All places for the wrappers of runtimes are taken.
    TooManyWrappers,
    /// The system refused to change the protection of a page of ours.
    Protection {
        /// The page's address.
        address: usize,
        /// What the system said.
        reason: String,
    },
    /// The word in the foot is not the return address that unwinding gave, plain or signed with a key of ours.
    ForeignFoot {
        /// The foot's address.
        address: usize,
        /// The word found there.
        found: usize,
        /// The return address that was expected.
        expected: usize,
    },
    /// This stack is armed already, so its end is settled: `enter` is for the first function of a stack.
    AlreadyArmed(StackId),
    /// The running code is not on the stack that was named.
    NotOnThatStack {
        /// The stack pointer.
        stack_pointer: usize,
        /// The memory that was named.
        range: (usize, usize),
    },
    /// All dynamic slots are allocated.
    SlotsExhausted,
    /// No dynamic slot is allocated under this handle: it never was, or it was freed.
    NoSuchSlot(u32),
    /// There is no memory for the record or the page map.
    OutOfMemory,
    /// A change from inside a change: from a key's `Eq`, or from a signal handler that came in the middle of one.
    Busy,
    /// A stack local was asked for while its own value on this stack was being made or dropped.
    RecursiveInit,
    /// A call failed by which exeunt learns where stacks end, or gets ready to patch code. The next use tries again.
    CallFailed {
        /// The function that failed.
        call: &'static str,
        /// Its error number.
        errno: i32,
    },
    /// The library has called this code, an allocator or a handler of `fork`, further up on this
    /// stack, and the code asks for what takes another such call.
    Reentered,
}

impl Error {
    /// The call that has just failed, with the error number that it left.
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
                "this stack's function has ended, and its handlers have run: what runs this late (destructors of \
                 thread-locals, of pthread keys and of statics, atexit functions) can use no storage and no handlers \
                 here, so let a handler do it",
            ),
            Self::TooEarly => f.write_str(
                "main has not begun, so nothing is known yet that ends this stack: what runs this early (constructors, \
                 initialisers of statics) can use no storage and no handlers here, so do it in main",
            ),
            Self::SignalStack => f.write_str(
                "this code runs on a signal stack, which belongs to no thread or fiber: \
                 arm the stack before the signal comes, from its ordinary code",
            ),
            Self::ShadowStack => f.write_str(
                "this thread's returns are checked against a shadow stack, so a rewritten return address would end \
                 the process: redirect the code instead (EXEUNT_REDIRECT=code, or exeunt::Builder), or run without it \
                 (GLIBC_TUNABLES=glibc.cpu.x86_shstk=off)",
            ),
            Self::NoCodeSite(found) => {
                write!(f, "code redirect is not possible here: {found}; slot redirect (EXEUNT_REDIRECT=slot) may be")
            }
            Self::UnknownRedirect(value) => {
                write!(f, "EXEUNT_REDIRECT is {value:?}, which says nothing: set it to slot, code or auto")
            }
            Self::RedirectChosen { chosen, wanted } => write!(
                f,
                "this process redirects exits by {chosen} already, so that {wanted} comes too late: choose before the \
                 first stack is armed"
            ),
            Self::PoolFull => write!(
                f,
                "all {} trampolines are taken by as many distinct exit trampolines: \
                 this process ends its stacks in more ways than exeunt has room for",
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
                "the foot at {address:#x} holds {found:#x}, but unwinding says that the entry function returns to \
                 {expected:#x}: something else rewrites return addresses here (as uftrace and other tracers do), so this \
                 stack is left alone: run without it, or arm the stack before it begins"
            ),
            Self::AlreadyArmed(id) => write!(
                f,
                "this stack is armed already, as stack {id}: enter is for the first function of a fiber; \
                 here, just use storage and handlers"
            ),
            Self::NotOnThatStack { stack_pointer, range: (low, high) } => write!(
                f,
                "the stack pointer {stack_pointer:#x} is not in {low:#x}..{high:#x}: \
                 name the memory of the very stack that this runs on"
            ),
            Self::SlotsExhausted => {
                write!(f, "all {} dynamic slots are allocated: free some", limits::SLOTS)
            }
            Self::NoSuchSlot(handle) => {
                write!(f, "no dynamic slot is allocated under {handle:#x}: it never was, or it was freed")
            }
            Self::OutOfMemory => f.write_str("no memory for this stack's record or its place in the page map"),
            Self::Busy => f.write_str(
                "this stack's storage is being changed further up on this very stack (in a key's Eq, or in the code \
                 that a signal interrupted): change it from outside",
            ),
            Self::RecursiveInit => f.write_str(
                "this stack local's value is being made or dropped further up on this very stack: \
                 its initial value and its destructor cannot use it",
            ),
            Self::CallFailed { call, errno } => write!(
                f,
                "{call} failed: {}. exeunt calls it at a process's first use, to learn where stacks end or to get ready to patch \
                 that code. Nothing has changed, and the next use tries again: {}",
                std::io::Error::from_raw_os_error(*errno),
                match *errno {
                    libc::EPERM | libc::EACCES | libc::ENOSYS => "allow it, where a filter or a policy refuses it",
                    _ => "make room for one more thread (ulimit -u, a cgroup's pids.max), open file or page of memory",
                }
            ),
            Self::Reentered => f.write_str(
                "exeunt has called this code (an allocator, or a handler of fork) further up on this very stack, and \
                 cannot do so again before it returns: do without storage in such code, or let it use only what is \
                 there already",
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
