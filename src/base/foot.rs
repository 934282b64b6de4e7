//! A foot, as a walk finds it.

/// The foot of a stack that is not armed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Foot {
    /// Its address.
    pub address: usize,
    /// The word found there: a return address, maybe signed.
    pub word: usize,
    /// The stack pointer at which the entry function returns.
    pub base: usize,
    /// The trampoline that stands for the exit trampoline found.
    pub trampoline: usize,
    /// Where the entry function has saved the frame pointer, if it has.
    pub frame_pointer_at: Option<usize>,
}
