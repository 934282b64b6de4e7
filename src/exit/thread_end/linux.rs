//! How the running thread ends, where its stack does not show that: by the fields of libc's that an
//! experiment finds (`machine/clib/thread_end.rs`). The experiment runs when code first asks.

use crate::base::cancellation::Uncancelled;
use crate::exit::process_lock::Experiment;
use crate::machine::clib::thread_end::{self, CANCELED, EndFields};
use std::sync::atomic::{AtomicUsize, Ordering};

/// The fields; zero before they are found.
static FIELDS: AtomicUsize = AtomicUsize::new(0);

fn fields() -> Option<EndFields> {
    let known = FIELDS.load(Ordering::Relaxed);
    if known != 0 {
        return Some(EndFields::from_packed(known));
    }
    let _uncancelled = Uncancelled::new();
    let _experiment = Experiment::begin().ok()?;
    let found = thread_end::experiment()?;
    FIELDS.store(found.packed(), Ordering::Relaxed);
    Some(found)
}

/// Whether the running thread ends by `pthread_exit` or by cancellation. `None` where libc does not
/// keep that, and where the experiment fails.
pub(crate) fn is_exiting() -> Option<bool> {
    fields()?.is_exiting()
}

/// The value that `pthread_join` will give of the running thread, which ends. `None` where the
/// experiment fails.
pub(crate) fn value() -> Option<usize> {
    Some(fields()?.value())
}

/// Whether the running thread, which ends without a return, was cancelled.
pub(crate) fn is_cancelled() -> Option<bool> {
    Some(value()? == CANCELED)
}
