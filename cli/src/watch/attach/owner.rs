//! The mutex by which the library in the process learns that this command lets go, or was killed: it
//! waits for it. The kernel gives a robust mutex on when its owner is gone.

use crate::watch::table::Table;
use std::io::{Error, Result};

/// The command is attached while this is there.
pub struct Owner(*mut libc::pthread_mutex_t);

const _: () = assert!(size_of::<libc::pthread_mutex_t>() == 40 && align_of::<libc::pthread_mutex_t>() <= 8);

/// Makes the mutex in a new table, and takes it.
pub fn take(table: &'static Table) -> Result<Owner> {
    let mutex = table.owner.as_ptr().cast::<libc::pthread_mutex_t>().cast_mut();
    let checked = |failed: i32| if failed == 0 { Ok(()) } else { Err(Error::from_raw_os_error(failed)) };
    // SAFETY: the place has the size (asserted above), is shared memory of atomics that only libc's
    // functions touch, and no other code has it yet.
    unsafe {
        let mut attributes = std::mem::zeroed();
        checked(libc::pthread_mutexattr_init(&mut attributes))?;
        checked(libc::pthread_mutexattr_setrobust(&mut attributes, libc::PTHREAD_MUTEX_ROBUST))?;
        checked(libc::pthread_mutexattr_setpshared(&mut attributes, libc::PTHREAD_PROCESS_SHARED))?;
        checked(libc::pthread_mutex_init(mutex, &attributes))?;
        libc::pthread_mutexattr_destroy(&mut attributes);
        checked(libc::pthread_mutex_lock(mutex))?;
    }
    Ok(Owner(mutex))
}

impl Drop for Owner {
    fn drop(&mut self) {
        // SAFETY: what `take` has locked, on the same thread.
        unsafe { libc::pthread_mutex_unlock(self.0) };
    }
}
