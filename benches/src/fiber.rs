//! Fibers on memory that the caller keeps and can use again: `makecontext`'s, and where the C library
//! has none, corosensei's inside `enter`.

#[cfg(target_env = "musl")]
mod corosensei;
#[cfg(not(target_env = "musl"))]
mod makecontext;

#[cfg(target_env = "musl")]
pub use corosensei::{Fiber, Inside};
#[cfg(not(target_env = "musl"))]
pub use makecontext::{Fiber, Inside};

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

    /// Memory for many stacks in one mapping, one after the other: Linux allows some ten thousands
    /// of mappings in a process.
    pub fn many(count: usize, size: usize) -> Vec<Self> {
        let all = Self::new(count * size);
        let start = all.start;
        // Each piece unmaps itself.
        std::mem::forget(all);
        // SAFETY: within the mapping.
        (0..count).map(|number| Self { start: unsafe { start.add(number * size) }, size }).collect()
    }

    /// The addresses of its bytes.
    pub fn range(&self) -> std::ops::Range<usize> {
        self.start.addr()..self.start.addr() + self.size
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

/// Runs `body` on a fiber to its end, and returns what it returned.
pub fn on_fiber<R: 'static>(memory: &mut Memory, body: impl FnOnce() -> R + 'static) -> R {
    let result = std::rc::Rc::new(std::cell::Cell::new(None));
    let theirs = std::rc::Rc::clone(&result);
    let done = Fiber::new(memory, move |_| theirs.set(Some(body()))).resume();
    assert!(done, "the body does not suspend itself");
    result.take().expect("the body has run")
}
