//! The two ways to redirect a stack's exit.

use std::fmt;

/// How stacks' exits are made to go through exeunt. One of the two for the whole process, see [`Builder`].
///
/// | | [`Slot`](Redirect::Slot) | [`Code`](Redirect::Code) |
/// |---|---|---|
/// | is written | one word of each armed stack: its foot | once per process and exit trampoline: the target of a call in libc's code |
/// | return addresses | the armed stack's outermost one is a trampoline's | all as they were |
/// | stacks that are not armed | untouched | go through a few instructions of a hook when they end |
/// | memory of an abandoned fiber, used again | noticed when the next one there is armed; on aarch64 its reads before that may find a value of the old one | the same for `makecontext` and [`enter`](crate::enter()); on aarch64 only if the entry function saves its frame pointer. Else, and behind a registered wrapper, [`discard`](crate::discard) it first |
/// | a function of a registered wrapper | returns to a trampoline | the first direct call behind it leads to a hook, which keeps arguments but for the upper halves of vectors wider than 128 bits; without such a call it is refused |
/// | shadow stacks (CET, GCS) | refused: the return would fault | work |
/// | needs | nothing | `mprotect` or `/proc/self/mem` on libc's code, and `membarrier`; on macOS an Intel processor, no Rosetta, and no hardened runtime |
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Redirect {
    /// The word at the stack's bottom that holds the entry function's return address is rewritten. The default.
    Slot,
    /// The exit trampoline's code is patched.
    Code,
    /// [`Slot`](Redirect::Slot), or [`Code`](Redirect::Code) where the thread that arms the first stack has a shadow stack.
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

/// A way, as it is used.
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
