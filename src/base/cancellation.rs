//! Cancellation of threads.

unsafe extern "C" {
    safe fn pthread_setcancelstate(state: libc::c_int, old: &mut libc::c_int) -> libc::c_int;
}

/// While it lives, this thread is not cancelled: unwinding by cancellation must never run through frames of ours.
///
/// A fiber may move on to another thread meanwhile, which is then left as it is.
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
        // `setcancelstate` is no cancellation point; a request that came meanwhile is acted on at the next one.
        if self.thread == this_thread() {
            pthread_setcancelstate(self.old, &mut 0);
        }
    }
}

/// A number of the running thread's own. The compiler knows nothing of the function that gives it, so
/// it calls that each time: a fiber may have moved to another thread in between.
pub(crate) fn this_thread() -> usize {
    // SAFETY: only asks.
    unsafe { libc::pthread_self() as usize }
}
