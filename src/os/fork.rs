//! What `fork` has to be told where exit trampolines are patched.
//!
//! The child gets a copy of all there is, also of what another thread was just changing. So a fork waits while an exit
//! trampoline is being patched, for some 15 milliseconds once in a process (most of it is the kernel's, for `membarrier`),
//! and the child finds it patched or not.
//!
//! And threads of the parent are not the child's own. Under slot redirect the word in a thread's foot tells one life of a
//! stack from the next. Under code redirect no word of a thread's stack does, which is well for as long as no thread ends
//! without our hook. In a child of `fork` all but one have done so, and its next threads may get their stacks.

use crate::redirect::Way;
use crate::stack::Kind;
use crate::{exits, registry};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// From now on, a fork waits for the recognition lock, and children know which threads they do not have. A child that is
/// made by a bare system call gets neither.
pub(crate) fn prepare_forks() {
    // Not `Once`, in which a child could find another thread at work for ever.
    static DONE: AtomicBool = AtomicBool::new(false);
    if DONE.swap(true, Ordering::Relaxed) {
        return;
    }
    super::pin();
    // SAFETY: the handlers fit, and this library is pinned. Without memory for them, children are as if made by the bare
    // system call.
    unsafe { libc::pthread_atfork(Some(before), Some(in_parent), Some(in_child)) };
    await_forks();
}

/// Waits for a fork that began before the handlers were known: it copies this process with the list of streams locked
/// (glibc's `posix/fork.c`, musl's `src/process/fork.c`), and a new stream goes on that list.
fn await_forks() {
    let _uncancelled = super::Uncancelled::new();
    let mut room = [0_u8; 8];
    // SAFETY: the stream is closed before its memory goes. Where there is none, nobody can have been waited for.
    unsafe {
        let stream = libc::fmemopen(room.as_mut_ptr().cast(), room.len(), c"r".as_ptr());
        if !stream.is_null() {
            libc::fclose(stream);
        }
    }
}

/// A fork waits so long at the most. It may come from where locks are held that the patching thread needs, such as the
/// dynamic linker's: then the child is as if made by the bare system call.
const PATIENCE: Duration = Duration::from_secs(1);

extern "C" fn before() {
    exits::hold(PATIENCE);
}

extern "C" fn in_parent() {
    exits::let_go();
}

extern "C" fn in_child() {
    exits::let_go();
    forsake();
}

fn forsake() {
    let Some(own) = super::thread_bounds() else { return };
    for record in registry::all() {
        let of_thread = matches!(record.kind(), Kind::Thread | Kind::Main) && record.way() == Way::Code;
        if of_thread && record.id().is_some() && !own.contains(&record.top().wrapping_sub(1)) {
            record.forsake();
        }
    }
}
