//! `fork` under code redirect: the handlers that `pthread_atfork` runs. `prepare_forks` registers
//! them.
//!
//! The child gets a copy of everything, also of what another thread was just changing. So a fork
//! waits while an exit trampoline is being patched, for some 15 milliseconds once in a process
//! (most of them the kernel's, for `membarrier`). The child finds the trampoline patched or not.
//!
//! Threads of the parent do not exist in the child. Under slot redirect the word in a thread's foot
//! tells one generation of a stack from the next. Under code redirect no word of a thread's stack
//! does. That suffices for as long as each thread's end passes exeunt's hook. In a child of `fork`
//! all threads but one have ended without that, and the child's next threads may get their stacks.
//! So the child invalidates their records.

use crate::base::cancellation::Uncancelled;
use crate::base::error::Error;
use crate::base::kind::Kind;
use crate::base::redirect::Method;
use crate::exit::process_lock;
use crate::machine::clib;
use crate::machine::os;
use crate::record::stacks::STACKS;
use std::cell::LazyCell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Makes forks wait for the process lock, and lets children invalidate the records of threads that
/// they do not have. A child that is made by a bare system call gets neither.
///
/// # Errors
/// [`Error::CallFailed`] where the system has no memory for it. The next call tries again.
pub(crate) fn prepare_forks() -> Result<(), Error> {
    // Not `Once`: a child could find another thread at work in it for ever. Two threads may both
    // register the handlers, which do nothing when they run a second time.
    static REGISTERED: AtomicBool = AtomicBool::new(false);
    static DONE: AtomicBool = AtomicBool::new(false);
    if DONE.load(Ordering::Acquire) {
        return Ok(());
    }
    let _uncancelled = Uncancelled::new();
    os::pin();
    if !REGISTERED.load(Ordering::Acquire) {
        // SAFETY: the handlers fit, and this library is pinned.
        let error = unsafe { libc::pthread_atfork(Some(before), Some(in_parent), Some(in_child)) };
        if error != 0 {
            return Err(Error::CallFailed { call: "pthread_atfork", errno: error });
        }
        REGISTERED.store(true, Ordering::Release);
    }
    await_forks()?;
    DONE.store(true, Ordering::Release);
    Ok(())
}

/// Waits for a fork that began before the handlers were registered. It copies this process with the
/// list of streams locked (glibc's `posix/fork.c`, musl's `src/process/fork.c`), and a new stream
/// goes on that list.
fn await_forks() -> Result<(), Error> {
    let mut room = [0_u8; 8];
    // SAFETY: the stream is closed before its memory goes.
    unsafe {
        let stream = libc::fmemopen(room.as_mut_ptr().cast(), room.len(), c"r".as_ptr());
        if stream.is_null() {
            return Err(Error::last_call("fmemopen"));
        }
        libc::fclose(stream);
    }
    Ok(())
}

/// A fork waits no longer than this. It may come from code that holds locks which the patching
/// thread needs, such as the dynamic linker's. Then the child is as if made by the bare system
/// call.
const MAX_WAIT: Duration = Duration::from_secs(1);

extern "C" fn before() {
    process_lock::lock_for_fork(MAX_WAIT);
}

extern "C" fn in_parent() {
    process_lock::unlock_after_fork();
}

extern "C" fn in_child() {
    process_lock::unlock_after_fork();
    invalidate_absent_threads();
}

fn invalidate_absent_threads() {
    // Found only where a record needs it: this allocates, and on main reads a file. Handlers of the
    // program's allocator may have to run first, and may not have run yet.
    let own = LazyCell::new(clib::thread_bounds);
    for record in STACKS.all() {
        let of_thread = matches!(record.kind(), Kind::Thread | Kind::Main) && record.method() == Method::Code;
        let is_absent = || own.as_ref().is_some_and(|own| !own.contains(&record.base().wrapping_sub(1)));
        if of_thread && record.id().is_some() && is_absent() {
            record.invalidate();
        }
    }
}
