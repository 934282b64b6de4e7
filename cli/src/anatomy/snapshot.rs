//! A stack as it was at one moment: registers and words.

use super::registers::Registers;
use exeunt::FootInfo;

/// A stack, copied while its thread waited or was stopped.
pub struct Snapshot {
    /// A heading for it.
    pub title: String,
    /// What can select it on the command line.
    pub key: String,
    pub registers: Registers,
    /// The address of the first word: the stack pointer.
    pub start: usize,
    pub words: Vec<usize>,
    /// Whether the processor checks the thread's returns against a shadow stack.
    pub shadow_stack: bool,
    /// What the library itself found on the stack, if it is one of this process.
    pub own: Option<Own>,
}

/// What the library found on a stack of this process, and what it did there afterwards.
pub struct Own {
    pub foot: Result<FootInfo, String>,
    /// The foot's word after the stack was armed, or why it could not be armed.
    pub armed: Result<usize, String>,
}
