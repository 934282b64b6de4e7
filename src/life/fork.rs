//! What `fork` has to be told where exit trampolines are patched.
//!
//! The child gets a copy of all there is, also of what another thread was just changing. So a fork waits while an exit
//! trampoline is being patched, for some 15 milliseconds once in a process (most of it is the kernel's, for `membarrier`),
//! and the child finds it patched or not.
//!
//! And threads of the parent are not the child's own. Under slot redirect the word in a thread's foot tells one life of a
//! stack from the next. Under code redirect no word of a thread's stack does, which is well for as long as no thread ends
//! without our hook. In a child of `fork` all but one have done so, and its next threads may get their stacks.

use crate::base::cancellation::Uncancelled;
use crate::base::error::Error;
use crate::base::kind::Kind;
use crate::base::redirect::Method;
use crate::exit::process_lock;
use crate::machine::clib;
use crate::machine::os;
use crate::record::stacks::STACKS;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// From now on, a fork waits for the recognition lock, and children know which threads they do not have. A child that is
/// made by a bare system call gets neither.
///
/// # Errors
/// [`Error::CallFailed`] where the system has no memory for it. The next call tries again.
pub(crate) fn prepare_forks() -> Result<(), Error> {
    // Not `Once`, in which a child could find another thread at work for ever. Two threads may both register: the handlers do
    // nothing when they run a second time.
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

/// Waits for a fork that began before the handlers were known: it copies this process with the list of streams locked
/// (glibc's `posix/fork.c`, musl's `src/process/fork.c`), and a new stream goes on that list.
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

/// A fork waits so long at the most. It may come from where locks are held that the patching thread needs, such as the
/// dynamic linker's: then the child is as if made by the bare system call.
const PATIENCE: Duration = Duration::from_secs(1);

extern "C" fn before() {
    process_lock::lock_for_fork(PATIENCE);
}

extern "C" fn in_parent() {
    process_lock::unlock_after_fork();
}

extern "C" fn in_child() {
    process_lock::unlock_after_fork();
    invalidate();
}

fn invalidate() {
    let Some(own) = clib::thread_bounds() else { return };
    for record in STACKS.all() {
        let of_thread = matches!(record.kind(), Kind::Thread | Kind::Main) && record.method() == Method::Code;
        if of_thread && record.id().is_some() && !own.contains(&record.base().wrapping_sub(1)) {
            record.invalidate();
        }
    }
}
