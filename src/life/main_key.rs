//! The safety net for a main thread whose landing cannot be redirected because another copy of this
//! library has redirected it already: a thread-specific key, whose destructor `pthread_exit` runs
//! there too.
//!
//! `create` makes the key, `attach` and `update_id` set the record, `main_exits` drains.
//!
//! The ordinary net (`safety_net.rs`) is a thread-local's destructor. Where `main` ends by
//! `pthread_exit`, glibc runs none of these, but does run the destructors of keys:
//! `__libc_start_call_main` calls `__nptl_deallocate_tsd` alone.

use crate::base::ending::Cause;
use crate::base::error::Error;
use crate::base::stack_id::StackId;
use crate::life::drain;
use crate::record::header::Record;
use std::cell::Cell;
use std::ffi::c_void;
use std::sync::atomic::{AtomicU32, Ordering};

thread_local! {
    /// The main thread's record. It has no destructor, so it is there to the very end.
    static ARMED: Cell<Option<(&'static Record, StackId)>> = const { Cell::new(None) };
}

/// The key plus one; zero before it is created. Only the main thread creates it.
static KEY: AtomicU32 = AtomicU32::new(0);

/// Creates the key, if it is not there yet.
///
/// # Errors
/// [`Error::CallFailed`] where the process has no key to spare.
pub(crate) fn create() -> Result<(), Error> {
    if KEY.load(Ordering::Relaxed) != 0 {
        return Ok(());
    }
    let mut key = 0;
    // SAFETY: the destructor is a function of this library, which is pinned before a stack is
    // armed.
    let error = unsafe { libc::pthread_key_create(&raw mut key, Some(main_exits)) };
    if error != 0 {
        return Err(Error::CallFailed { call: "pthread_key_create", errno: error });
    }
    KEY.store(key + 1, Ordering::Relaxed);
    Ok(())
}

/// Attaches the net to the main thread, which runs, and whose record this is.
pub(crate) fn attach(record: &'static Record) {
    ARMED.set(record.id().map(|id| (record, id)));
    let key = KEY.load(Ordering::Relaxed).wrapping_sub(1);
    // SAFETY: `create` has made the key. Its destructor reads no value, so any value but null will
    // do.
    unsafe { libc::pthread_setspecific(key, std::ptr::from_ref(record).cast()) };
}

/// Takes over the record's new identity, if the net is attached to this record with the identity
/// `before`.
pub(crate) fn update_id(record: &'static Record, before: Option<StackId>) {
    if ARMED.get().is_some_and(|(attached, id)| std::ptr::eq(attached, record) && Some(id) == before) {
        attach(record);
    }
}

unsafe extern "C" fn main_exits(_: *mut c_void) {
    if let Some((record, _)) = ARMED.take().filter(|(record, id)| record.id() == Some(*id)) {
        drain::without_return(record, Cause::ThreadExit);
    }
}
