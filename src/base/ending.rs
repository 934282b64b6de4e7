//! [`Ending`]: how a stack ends. [`StackEnd`]: one end. [`Cause`]: what began a drain, from which
//! the ending follows.

use super::kind::Kind;

/// How a stack ends: see [`ending`](crate::ending).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
#[repr(u8)]
pub enum Ending {
    /// One of the others, and exeunt cannot find out which. On Linux that happens only where it can
    /// start no thread for the one experiment that it needs. On macOS it is so for every end of a
    /// thread or of `main` that is no return.
    Unknown = 1,
    /// Its entry function has returned. A thread of Rust's whose closure panics returns as well:
    /// std catches the panic.
    Returned,
    /// Unwinding has left the function that [`enter`](crate::enter()) runs: a panic, an exception,
    /// or the forced unwinding by which a fiber library drops a suspended fiber, or by which
    /// `pthread_exit` ends the thread.
    Unwound,
    /// The thread ends by `pthread_exit`.
    Exited,
    /// The thread was cancelled. `pthread_exit(PTHREAD_CANCELED)` counts as this, as it does for
    /// `pthread_join`.
    Cancelled,
    /// The thread calls `exit`, under all the frames of its stack.
    ProcessExit,
    /// The stack's memory is used for another stack, which has just been armed. Its code was
    /// suspended somewhere, and never runs again.
    Abandoned,
    /// Its runtime has given it to [`discard`](crate::discard).
    Discarded,
    /// C's `exeunt_scope_end` ends it. Where a C++ destructor calls that, this may be a return or
    /// an exception.
    Scope,
}

/// The end of a stack: see [`on_every_end`](crate::on_every_end) and
/// [`at_exit_at_foot`](crate::at_exit_at_foot).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct StackEnd {
    /// What the stack is to the system.
    pub kind: Kind,
    /// How it ends. For `on_every_end` it is [`Ending::Returned`], [`Ending::Exited`] or
    /// [`Ending::Cancelled`]; [`Ending::Unknown`] where exeunt could start no thread for the one
    /// experiment that it needs.
    pub ending: Ending,
    /// The value that the stack ends with, as [`returned_value`](crate::returned_value) gives it.
    pub value: Option<usize>,
    /// Whether the stack is armed. For `on_every_end`, it drains next then.
    pub is_armed: bool,
}

/// What began a drain. [`Ending`] follows from it, and from what the frames and the thread then
/// hold, which only code that asks looks up (`life/ending.rs`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Cause {
    /// A trampoline: the entry function has returned, or the thread has landed.
    Trampoline,
    /// A hook, which meets every end of a thread with glibc, and returns alone elsewhere.
    Hook,
    /// The safety net of a thread.
    Net,
    /// The thread has ended by `pthread_exit` or cancellation.
    ThreadExit,
    Unwound,
    ProcessExit,
    Abandoned,
    Discarded,
    Scope,
}

impl Cause {
    pub(crate) fn from_raw(raw: u8) -> Self {
        const ALL: [Cause; 9] = [
            Cause::Trampoline,
            Cause::Hook,
            Cause::Net,
            Cause::ThreadExit,
            Cause::Unwound,
            Cause::ProcessExit,
            Cause::Abandoned,
            Cause::Discarded,
            Cause::Scope,
        ];
        ALL.get(usize::from(raw)).copied().unwrap_or(Self::Trampoline)
    }
}
