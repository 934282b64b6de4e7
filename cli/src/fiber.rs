//! `makecontext` fibers, as a C program makes them: memory, a context to run there, and one to
//! return to.

use std::ffi::c_void;
use std::ptr;

/// The body of a fiber.
type Body = Box<dyn FnOnce(&Suspender) + Send>;

/// Memory for a fiber to run on.
pub struct Memory {
    base: *mut c_void,
}

impl Memory {
    /// Enough to resolve symbols on it, which makes deep calls.
    const SIZE: usize = 1 << 20;

    pub fn map() -> std::io::Result<Self> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_STACK;
        // SAFETY: a new mapping changes no existing one.
        let base = unsafe { libc::mmap(ptr::null_mut(), Self::SIZE, protection, flags, -1, 0) };
        if base == libc::MAP_FAILED { Err(std::io::Error::last_os_error()) } else { Ok(Self { base }) }
    }
}

/// The data that a fiber and its resumer share, at a stable address.
struct Shared {
    own: libc::ucontext_t,
    resumer: libc::ucontext_t,
    body: Option<Body>,
    done: bool,
}

/// A fiber. If it is dropped before its body has returned, it is abandoned: nothing on its stack is
/// cleaned up. Its memory is never unmapped, so the record of an abandoned stack never leads to an
/// unmapped address.
pub struct Fiber {
    shared: *mut Shared,
}

// SAFETY: the body is `Send`, and `resume` takes the fiber exclusively, so one thread runs it at a
// time.
unsafe impl Send for Fiber {}

/// Switches from a fiber's body back to its resumer.
pub struct Suspender {
    shared: *mut Shared,
}

impl Fiber {
    /// A fiber that runs on `memory`, whose former fiber must have ended or be abandoned.
    pub fn on(memory: &Memory, body: impl FnOnce(&Suspender) + Send + 'static) -> Self {
        // SAFETY: plain data for which all zeroes is a valid value; `getcontext` fills it in.
        let context = || unsafe { std::mem::zeroed::<libc::ucontext_t>() };
        let body: Body = Box::new(body);
        let shared =
            Box::into_raw(Box::new(Shared { own: context(), resumer: context(), body: Some(body), done: false }));
        // SAFETY: this fiber owns `shared`, which does not move. glibc passes whole registers, so a
        // pointer is one argument.
        unsafe {
            libc::getcontext(&raw mut (*shared).own);
            (*shared).own.uc_stack.ss_sp = memory.base;
            (*shared).own.uc_stack.ss_size = Memory::SIZE;
            (*shared).own.uc_link = &raw mut (*shared).resumer;
            let start = std::mem::transmute::<extern "C" fn(*mut Shared), extern "C" fn()>(fiber_main);
            libc::makecontext(&raw mut (*shared).own, start, 1, shared);
        }
        Self { shared }
    }

    /// Runs the fiber until it suspends itself or ends. Returns whether it has ended.
    ///
    /// Never inlined, because the compiler must not keep addresses of thread-locals across the
    /// switch.
    #[inline(never)]
    pub fn resume(&mut self) -> bool {
        // SAFETY: the fiber is suspended or new, because `self` is borrowed exclusively. It returns
        // to `resumer`, by `suspend` or, at its end, by `uc_link`.
        unsafe {
            assert!(!(*self.shared).done, "this fiber has ended");
            libc::swapcontext(&raw mut (*self.shared).resumer, &raw const (*self.shared).own);
            (*self.shared).done
        }
    }
}

impl Suspender {
    /// Switches to the resumer, until the next `resume`, which may be on another thread.
    #[inline(never)]
    pub fn suspend(&self) {
        // SAFETY: only the fiber itself has a `Suspender`, so `resumer` is where it was resumed.
        unsafe { libc::swapcontext(&raw mut (*self.shared).own, &raw const (*self.shared).resumer) };
    }
}

/// The fiber's entry function. A panic here ends the process, because no caller could catch it.
extern "C" fn fiber_main(shared: *mut Shared) {
    // SAFETY: `Fiber::on` passes its `shared`, and the resumer waits.
    let body = unsafe { (*shared).body.take() };
    if let Some(body) = body {
        body(&Suspender { shared });
    }
    // SAFETY: as above.
    unsafe { (*shared).done = true };
}

impl Drop for Fiber {
    fn drop(&mut self) {
        // SAFETY: a fiber that has ended does not use it again. An abandoned fiber's stack may
        // still point to it, so it is not freed then.
        unsafe {
            if (*self.shared).done {
                drop(Box::from_raw(self.shared));
            }
        }
    }
}
