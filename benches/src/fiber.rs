//! `makecontext` fibers on memory that the caller keeps and can use again.

use std::ffi::c_int;

/// Memory for a fiber's stack.
pub struct Memory {
    start: *mut u8,
    size: usize,
}

// SAFETY: plain memory. A fiber that runs on it borrows it mutably.
unsafe impl Send for Memory {}

impl Memory {
    /// `size` bytes, page-aligned and untouched.
    pub fn new(size: usize) -> Self {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a new mapping touches nothing that exists.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), size, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
        assert_ne!(start, libc::MAP_FAILED, "no memory for a stack of {size} bytes");
        // A huge page would hide which pages are in use.
        // SAFETY: advice on our own mapping.
        unsafe { libc::madvise(start, size, libc::MADV_NOHUGEPAGE) };
        Self { start: start.cast(), size }
    }

    /// Writes to the uppermost `bytes`, so that a later use of them is no page fault.
    pub fn touch_top(&mut self, bytes: usize) {
        // SAFETY: within the mapping, on which no fiber runs, as it is borrowed mutably.
        unsafe { std::ptr::write_bytes(self.start.add(self.size - bytes), 1, bytes) };
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: from `new`, and no fiber runs on it, as a fiber borrows it.
        unsafe { libc::munmap(self.start.cast(), self.size) };
    }
}

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

/// Runs `body` on a fiber to its end, and returns what it returned.
pub fn on_fiber<R: 'static>(memory: &mut Memory, body: impl FnOnce() -> R + 'static) -> R {
    let result = std::rc::Rc::new(std::cell::Cell::new(None));
    let theirs = std::rc::Rc::clone(&result);
    let done = Fiber::new(memory, move |_| theirs.set(Some(body()))).resume();
    assert!(done, "the body does not suspend itself");
    result.take().expect("the body has run")
}
