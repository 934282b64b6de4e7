//! `makecontext` fibers, as a C program would make them: memory, a context to run there, and one to come back to.

use std::ffi::c_void;
use std::ptr;

/// The body of a fiber.
type Body = Box<dyn FnOnce(&Suspender) + Send>;

/// Memory for a fiber to run on.
pub struct Memory {
    base: *mut c_void,
}

impl Memory {
    /// Symbols are resolved on it, which takes deep calls.
    const SIZE: usize = 1 << 20;

    pub fn map() -> std::io::Result<Self> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_STACK;
        // SAFETY: a new mapping touches nothing that exists.
        let base = unsafe { libc::mmap(ptr::null_mut(), Self::SIZE, protection, flags, -1, 0) };
        if base == libc::MAP_FAILED { Err(std::io::Error::last_os_error()) } else { Ok(Self { base }) }
    }
}

/// What a fiber and its resumer share, at an address that stays.
struct Shared {
    own: libc::ucontext_t,
    resumer: libc::ucontext_t,
    body: Option<Body>,
    done: bool,
}

/// A fiber. Dropped before its body is through, it is abandoned: nothing on its stack is cleaned up. Its memory is
/// never unmapped, so that a record of an abandoned stack never leads to an address that is gone.
pub struct Fiber {
    shared: *mut Shared,
}

// SAFETY: the body is `Send`, and `resume` takes the fiber exclusively, so one thread runs it at a time.
unsafe impl Send for Fiber {}

/// Lets a fiber's body go back to whoever resumed it.
pub struct Suspender {
    shared: *mut Shared,
}

impl Fiber {
    /// A fiber that runs on `memory`, whose former fiber must be through or abandoned.
    pub fn on(memory: &Memory, body: impl FnOnce(&Suspender) + Send + 'static) -> Self {
        // SAFETY: plain data for which all zeroes is a valid value; `getcontext` fills it in.
        let context = || unsafe { std::mem::zeroed::<libc::ucontext_t>() };
        let body: Body = Box::new(body);
        let shared =
            Box::into_raw(Box::new(Shared { own: context(), resumer: context(), body: Some(body), done: false }));
        // SAFETY: `shared` is ours and stays where it is. glibc passes whole registers, so a pointer is one argument.
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

    /// Runs it until it suspends itself or is through; says whether it is through.
    ///
    /// Never inlined, as what a compiler knows of thread-locals must not outlive the switch.
    #[inline(never)]
    pub fn resume(&mut self) -> bool {
        // SAFETY: the fiber is suspended or fresh, as `self` is borrowed exclusively; it comes back to `resumer`, by
        // `suspend` or, at its end, by `uc_link`.
        unsafe {
            assert!(!(*self.shared).done, "this fiber is through");
            libc::swapcontext(&raw mut (*self.shared).resumer, &raw const (*self.shared).own);
            (*self.shared).done
        }
    }
}

impl Suspender {
    /// Goes back to the resumer, until another `resume`, maybe on another thread.
    #[inline(never)]
    pub fn suspend(&self) {
        // SAFETY: only the fiber itself has a `Suspender`, so `resumer` is where it was resumed.
        unsafe { libc::swapcontext(&raw mut (*self.shared).own, &raw const (*self.shared).resumer) };
    }
}

/// The fiber's entry function. A panic here ends the process: there is nobody to hand it to.
extern "C" fn fiber_main(shared: *mut Shared) {
    // SAFETY: `Fiber::on` passes its own, and the resumer waits.
    let body = unsafe { (*shared).body.take() };
    if let Some(body) = body {
        body(&Suspender { shared });
    }
    // SAFETY: as above.
    unsafe { (*shared).done = true };
}

impl Drop for Fiber {
    fn drop(&mut self) {
        // SAFETY: a fiber that is through uses it no more. An abandoned one's stack may still point to it.
        unsafe {
            if (*self.shared).done {
                drop(Box::from_raw(self.shared));
            }
        }
    }
}
