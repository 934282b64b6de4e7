//! The two ways to redirect a stack's exit: [`Redirect`] as users choose it, [`Method`] as it is
//! used.

use std::fmt;

/// How the exits of stacks are redirected through exeunt. A process uses one of the two for all of
/// its stacks, see [`Builder`](crate::Builder).
///
/// | | [`Slot`](Redirect::Slot) | [`Code`](Redirect::Code) |
/// |---|---|---|
/// | exeunt writes | one word of each armed stack: its foot | once a call's target in libc |
/// | return addresses | the outermost one of an armed stack is a trampoline's | all as they were |
/// | other stacks | untouched | run a few instructions of a hook at their end |
/// | shadow stacks (CET, GCS) | refused: the return would fault | work |
/// | needs of the system | nothing | see below |
///
/// - **Code redirect needs** `mprotect` or `/proc/self/mem` on libc's code, and `membarrier`. On
///   macOS it needs an Intel processor, no Rosetta, and no hardened runtime.
/// - **The memory of an abandoned fiber, used again.** Slot redirect notices it when the next fiber
///   there is armed. On aarch64, reads before that may find a value of the old fiber. Code redirect
///   does the same for `makecontext` and [`enter`](crate::enter()), but on aarch64 only if the
///   entry function saves its frame pointer. Otherwise, and behind a registered wrapper,
///   [`discard`](crate::discard) the memory first.
/// - **A function of a registered wrapper.** With slot redirect it returns to a trampoline. With
///   code redirect the first direct call behind it leads to a hook. The hook keeps the arguments,
///   but for the upper halves of vectors wider than 128 bits. A wrapper without such a call is
///   refused.
///
/// [`Builder`]: crate::Builder
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[non_exhaustive]
pub enum Redirect {
    /// exeunt rewrites the foot: the stack word that holds the entry function's return address. The
    /// default.
    Slot,
    /// exeunt patches the exit trampoline's code.
    Code,
    /// [`Slot`](Redirect::Slot); [`Code`](Redirect::Code) where the thread that arms the first
    /// stack has a shadow stack.
    Auto,
}

impl fmt::Display for Redirect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Slot => "slot",
            Self::Code => "code",
            Self::Auto => "auto",
        })
    }
}

/// The redirect in use: [`Redirect`] without `Auto`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Method {
    Slot = 1,
    Code = 2,
}

impl Method {
    pub(crate) fn from_raw(raw: u8) -> Self {
        if raw == Self::Code as u8 { Self::Code } else { Self::Slot }
    }

    pub(crate) fn redirect(self) -> Redirect {
        match self {
            Self::Slot => Redirect::Slot,
            Self::Code => Redirect::Code,
        }
    }
}
