//! `makecontext` fibers.

use super::Memory;
use std::ffi::c_int;

/// A fiber that has not returned yet; it can be suspended from inside and resumed.
pub struct Fiber<'m> {
    shared: Box<Shared>,
    _memory: &'m mut Memory,
}

type Body = Box<dyn FnOnce(&Inside)>;

struct Shared {
    own: libc::ucontext_t,
    resumer: libc::ucontext_t,
    body: Option<Body>,
    done: bool,
}

/// The argument of a fiber's body, to suspend itself by.
pub struct Inside(*mut Shared);

impl Inside {
    /// Goes back to the resumer.
    #[inline(never)]
    pub fn suspend(&self) {
        // SAFETY: the fiber runs, so its `Shared` lives and `resumer` is where `resume` waits.
        unsafe { libc::swapcontext(&raw mut (*self.0).own, &raw const (*self.0).resumer) };
    }
}

extern "C" fn entry(high: c_int, low: c_int) {
    let shared = ((high as u32 as usize) << 32 | low as u32 as usize) as *mut Shared;
    // SAFETY: `Fiber::new` passed it, and `resume` keeps it alive until this returns.
    let body = unsafe { (*shared).body.take() };
    if let Some(body) = body {
        body(&Inside(shared));
    }
    // SAFETY: as above.
    unsafe { (*shared).done = true };
}

impl<'m> Fiber<'m> {
    /// A fiber that will run `body` on `memory`.
    pub fn new(memory: &'m mut Memory, body: impl FnOnce(&Inside) + 'static) -> Self {
        // SAFETY: all zeros is a valid context for `getcontext` to fill in.
        let (own, resumer) = unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
        let mut shared = Box::new(Shared { own, resumer, body: Some(Box::new(body)), done: false });
        let pointer = &raw mut *shared;
        // SAFETY: the stack is borrowed for the fiber's life; `uc_link` is filled in by `resume`
        // before it is used.
        unsafe {
            assert_eq!(libc::getcontext(&raw mut (*pointer).own), 0);
            (*pointer).own.uc_stack.ss_sp = memory.start.cast();
            (*pointer).own.uc_stack.ss_size = memory.size;
            (*pointer).own.uc_link = &raw mut (*pointer).resumer;
            let start = std::mem::transmute::<extern "C" fn(c_int, c_int), extern "C" fn()>(entry);
            let address = pointer as usize;
            libc::makecontext(&raw mut (*pointer).own, start, 2, (address >> 32) as c_int, address as c_int);
        }
        Self { shared, _memory: memory }
    }

    /// Runs the fiber until it suspends itself or returns. Returns whether it has returned.
    #[inline(never)]
    pub fn resume(&mut self) -> bool {
        let shared = &raw mut *self.shared;
        // SAFETY: `own` is a fresh or a suspended context, as it has not returned.
        unsafe {
            assert!(!(*shared).done, "a fiber that has returned cannot be resumed");
            libc::swapcontext(&raw mut (*shared).resumer, &raw const (*shared).own);
            (*shared).done
        }
    }
}
