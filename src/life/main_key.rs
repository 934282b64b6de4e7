//! The net for a main thread whose landing cannot be redirected, since another copy of this library has done so already: a
//! thread-specific key, whose destructor `pthread_exit` runs there too.
//!
//! The ordinary net (`net.rs`) is a thread-local's destructor. Where `main` ends by `pthread_exit`, glibc runs none of these, but
//! the destructors of keys: `__libc_start_call_main` calls `__nptl_deallocate_tsd` alone.

use crate::base::error::Error;
use crate::base::stack_id::StackId;
use crate::life::drain;
use crate::record::header::Record;
use std::cell::Cell;
use std::ffi::c_void;
use std::sync::atomic::{AtomicU32, Ordering};

thread_local! {
    /// The main thread's record. Nothing is dropped with it, so it is there to the very end.
    static ARMED: Cell<Option<(&'static Record, StackId)>> = const { Cell::new(None) };
}

/// One more than the key; zero before it is made. Only the main thread makes it.
static KEY: AtomicU32 = AtomicU32::new(0);

/// Makes the key, if it is not there yet.
///
/// # Errors
/// [`Error::CallFailed`] where the process has no key to spare.
pub(crate) fn create() -> Result<(), Error> {
    if KEY.load(Ordering::Relaxed) != 0 {
        return Ok(());
    }
    let mut key = 0;
    // SAFETY: the destructor is a function of this library, which is pinned before a stack is armed.
    let error = unsafe { libc::pthread_key_create(&raw mut key, Some(main_exits)) };
    if error != 0 {
        return Err(Error::CallFailed { call: "pthread_key_create", errno: error });
    }
    KEY.store(key + 1, Ordering::Relaxed);
    Ok(())
}

/// Spreads it under the main thread, which runs, and whose record this is.
pub(crate) fn attach(record: &'static Record) {
    ARMED.set(record.id().map(|id| (record, id)));
    let key = KEY.load(Ordering::Relaxed).wrapping_sub(1);
    // SAFETY: `make` has made the key, and its destructor looks at no value, which only has to be another than null.
    unsafe { libc::pthread_setspecific(key, std::ptr::from_ref(record).cast()) };
}

/// The record has another identity now: `before` is the one that is known here, if it is the main thread's.
pub(crate) fn update_id(record: &'static Record, before: Option<StackId>) {
    if ARMED.get().is_some_and(|(attached, id)| std::ptr::eq(attached, record) && Some(id) == before) {
        attach(record);
    }
}

unsafe extern "C" fn main_exits(_: *mut c_void) {
    if let Some((record, id)) = ARMED.take()
        && record.id() == Some(id)
    {
        drain::without_return(record);
    }
}
