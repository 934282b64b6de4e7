//! [`Foot`]: what a walk finds out about a foot.

/// The foot of a stack that is not armed, and what arming has to know of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Foot {
    /// The foot's address.
    pub address: usize,
    /// The word in the foot: a return address, possibly signed.
    pub word: usize,
    /// The base of the stack: the stack pointer once the entry function has returned.
    pub base: usize,
    /// The number of the trampoline for the exit trampoline that the word leads to.
    pub trampoline: usize,
    /// Where the entry function has saved the frame pointer; `None` if it has not.
    pub frame_pointer_at: Option<usize>,
}
