//! The safety net: drains a thread's stack whose entry function never returns, because the thread ended by
//! `pthread_exit`, by cancellation, or, the main thread, by `exit`.
//!
//! It is a thread-local destructor, which all these ends run on the thread itself.

use crate::drain;
use crate::record::Record;
use crate::stack::StackId;
use std::cell::Cell;

struct Net {
    armed: Cell<Option<(&'static Record, StackId)>>,
}

thread_local! {
    static NET: Net = const { Net { armed: Cell::new(None) } };
}

/// Spreads the net under the running thread's stack, whose record this is.
pub(crate) fn spread(record: &'static Record) {
    // A thread that ends right now has its net behind it; then only a return drains.
    let _ = NET.try_with(|net| net.armed.set(record.id().map(|id| (record, id))));
}

impl Drop for Net {
    fn drop(&mut self) {
        let Some((record, id)) = self.armed.take() else { return };
        if record.id() != Some(id) {
            return; // its entry function returned, or it was unloaded
        }
        drain::without_return(record);
    }
}
