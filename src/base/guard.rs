//! Code that runs whatever happens, and code whose panic goes no further.

use super::cancellation::Uncancelled;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Calls a function when it is dropped.
pub(crate) struct OnDrop<F: FnMut()>(pub F);

impl<F: FnMut()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

/// Runs user code whose panic must not get away: the panic hook has reported it, and there is nobody to hand it to.
///
/// No cancellation may strike meanwhile: the process would abort where its unwinding met what catches the panic.
pub(crate) fn isolated(code: impl FnOnce()) {
    let _uncancelled = Uncancelled::new();
    catch_panic(code);
}

/// [`isolated`] where cancellation cannot strike anyway.
pub(crate) fn catch_panic(code: impl FnOnce()) {
    if let Err(payload) = catch_unwind(AssertUnwindSafe(code)) {
        // Dropping a payload can panic as well. Then that payload is let go of: this has to end.
        if let Err(again) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
            std::mem::forget(again);
        }
    }
}
