//! Guards around user code.
//!
//! | name | what it does |
//! |---|---|
//! | [`OnDrop`] | calls a function at the end of a scope, also during a panic |
//! | [`isolated`] | runs code without cancellation, and catches its panic |
//! | [`catch_panic`] | runs code and catches its panic |

use super::cancellation::Uncancelled;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Calls a function when it is dropped.
pub(crate) struct OnDrop<F: FnMut()>(pub F);

impl<F: FnMut()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

/// Runs user code and catches its panic. The panic hook has reported the panic, and no caller could
/// handle it.
///
/// Cancellation is disabled meanwhile: the C library would abort the process where the unwinding of
/// a cancellation meets the frame that catches the panic.
pub(crate) fn isolated(code: impl FnOnce()) {
    let _uncancelled = Uncancelled::new();
    catch_panic(code);
}

/// [`isolated`] for places where cancellation cannot happen.
pub(crate) fn catch_panic(code: impl FnOnce()) {
    if let Err(payload) = catch_unwind(AssertUnwindSafe(code)) {
        // The payload's destructor can panic as well. That second payload is leaked, so that this
        // ends.
        if let Err(again) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
            std::mem::forget(again);
        }
    }
}
