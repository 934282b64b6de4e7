//! The safety net: drains a thread's stack whose entry function never returns, because the thread ended by
//! `pthread_exit`, by cancellation, or, the main thread, by `exit`.
//!
//! It is a thread-local destructor, which all these ends run on the thread itself.

use crate::record::Record;
use crate::stack::StackId;
use crate::{drain, registry};
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
        record.ending();
        // After `pthread_exit` the frames above are gone, and the foot with them. A word of this frame stands for it,
        // and the drain's own block is where handlers find their record.
        let stands_for_foot = Cell::new(&raw const *record as usize);
        record.watch(stands_for_foot.as_ptr() as usize, stands_for_foot.get());
        registry::prove(crate::arch::stack_pointer(), record);
        drain::finish(record);
        std::hint::black_box(&stands_for_foot);
    }
}
