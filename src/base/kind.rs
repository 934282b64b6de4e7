//! [`Kind`]: the kinds of stacks.

/// What a stack is to the system.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
#[repr(u8)]
pub enum Kind {
    /// The stack has none of the known ends.
    Unknown,
    /// The stack of a thread.
    Thread,
    /// The stack that `main` runs on.
    Main,
    /// A `makecontext` fiber.
    Fiber,
    /// A fiber of another library, whose function runs inside [`enter`](crate::enter()).
    Entered,
    /// A fiber whose exit trampoline its runtime has registered.
    Registered,
    /// An alternate signal stack. It serves every stack that its thread runs, and cannot be armed.
    Signal,
}

impl Kind {
    pub(crate) fn from_raw(raw: u8) -> Self {
        match raw {
            1 => Self::Thread,
            2 => Self::Main,
            3 => Self::Fiber,
            4 => Self::Entered,
            5 => Self::Registered,
            6 => Self::Signal,
            _ => Self::Unknown,
        }
    }
}
