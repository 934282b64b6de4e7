//! Thread cancellation: switched off in a scope ([`Uncancelled`]), and the identity of the running
//! thread ([`this_thread`]).

unsafe extern "C" {
    safe fn pthread_setcancelstate(state: libc::c_int, old: &mut libc::c_int) -> libc::c_int;
}

/// Disables cancellation of this thread in its scope. The unwinding of a cancellation must never
/// run through frames of exeunt.
///
/// A fiber may move to another thread in that scope. That thread is then left as it is.
pub(crate) struct Uncancelled {
    thread: usize,
    old: libc::c_int,
}

impl Uncancelled {
    #[cfg(target_os = "linux")]
    const DISABLE: libc::c_int = 1;
    #[cfg(target_os = "macos")]
    const DISABLE: libc::c_int = 0;

    pub(crate) fn new() -> Self {
        let mut old = 0;
        pthread_setcancelstate(Self::DISABLE, &mut old);
        Self { thread: this_thread(), old }
    }
}

impl Drop for Uncancelled {
    fn drop(&mut self) {
        // `pthread_setcancelstate` is no cancellation point. The next cancellation point acts on a
        // request that has arrived meanwhile.
        if self.thread == this_thread() {
            pthread_setcancelstate(self.old, &mut 0);
        }
    }
}

/// A number that identifies the running thread. `pthread_self` is opaque to the compiler, so every
/// call is really made: a fiber may have moved to another thread in between.
pub(crate) fn this_thread() -> usize {
    // SAFETY: `pthread_self` has no preconditions.
    unsafe { libc::pthread_self() as usize }
}
