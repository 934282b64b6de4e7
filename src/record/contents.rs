//! What only the code of a record's own stack touches.

use crate::storage::values::{Handler, Values};
use std::cell::Cell;

/// The part of a record that only its stack touches.
///
/// In this order, what a life with nothing but handlers needs is in the record's first three cache lines: mostly
/// another processor had them last.
#[repr(C)]
pub(super) struct Contents {
    /// How many calls are using the values right now: such a call must not be changed under its feet.
    pub(super) access: Cell<u32>,
    /// How many are using the record further up on the stack while code of the user's runs.
    pub(super) reentrancy: Cell<u32>,
    pub(super) handlers: Vec<Handler>,
    pub(super) values: Values,
    /// The stack locals whose values are being made or dropped, the innermost first.
    pub(super) initializing: Cell<*const Initializing>,
}

/// A stack local whose value is being made or dropped; it lies in the frame of whoever does that.
pub(super) struct Initializing {
    pub(super) number: usize,
    pub(super) outer: *const Initializing,
}
