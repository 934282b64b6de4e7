//! A frame of any processor's.

/// What to write, where, and where the stack pointer is for a function that returns through it.
pub struct Frame {
    pub stack_pointer: u64,
    pub bytes: Vec<u8>,
}
