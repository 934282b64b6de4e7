//! The contents of a record: the part that only the code of its own stack touches.

use crate::storage::handlers::Handlers;
use crate::storage::values::Values;
use std::cell::Cell;

/// The contents of a record.
///
/// In this order, the fields that a generation with nothing but handlers needs are in the record's
/// first three cache lines: mostly another processor had them last.
#[repr(C)]
pub(super) struct Contents {
    /// The number of reads under way, or `CHANGING` or `COMPARING` (`access.rs`). The values must
    /// not change during a read.
    pub(super) access: Cell<u32>,
    /// The number of outer frames that use the record while user code runs.
    pub(super) reentrancy: Cell<u32>,
    pub(super) handlers: Handlers,
    pub(super) values: Values,
    /// The stack locals whose values are being created or dropped, the innermost first.
    pub(super) initializing: Cell<*const Initializing>,
    /// The number of gaps in `handlers`, or higher.
    pub(super) handler_gaps: usize,
}

/// A stack local whose value is being created or dropped. It lies in the frame of `initializing`.
pub(super) struct Initializing {
    pub(super) number: usize,
    pub(super) outer: *const Initializing,
}
