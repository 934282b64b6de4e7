//! `makecontext` fibers as a small runtime has them: resumed from any thread, suspended from inside, on given memory.

use std::any::Any;
use std::cell::{Cell, UnsafeCell};
use std::ffi::{c_int, c_void};
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// Pages of their own for a stack.
pub struct Pages {
    memory: *mut c_void,
    size: usize,
}

// SAFETY: addresses; who uses what is behind them is up to those who make fibers there.
unsafe impl Send for Pages {}
// SAFETY: as above.
unsafe impl Sync for Pages {}

impl Pages {
    /// Maps that many bytes of zeroes.
    pub fn new(size: usize) -> Self {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a new mapping touches nothing that exists.
        let memory = unsafe { libc::mmap(std::ptr::null_mut(), size, protection, flags, -1, 0) };
        assert_ne!(memory, libc::MAP_FAILED, "{}", std::io::Error::last_os_error());
        Self { memory, size }
    }

    /// The addresses.
    pub fn range(&self) -> Range<usize> {
        self.memory as usize..self.memory as usize + self.size
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: mapped in `new`; fibers on it are no longer resumed, as `Fiber::new` demands.
        unsafe { libc::munmap(self.memory, self.size) };
    }
}

/// A fiber that was made and not dropped yet.
pub struct Fiber {
    shared: *mut Shared,
}

// SAFETY: a fiber is resumed by one thread at a time, which has it. What its closure holds goes along: the tests put
// nothing into fibers that minds.
unsafe impl Send for Fiber {}

type Entry = Box<dyn FnOnce(Inside)>;

struct Shared {
    fiber: UnsafeCell<libc::ucontext_t>,
    back: UnsafeCell<libc::ucontext_t>,
    entry: Cell<Option<Entry>>,
    payload: Cell<Option<Box<dyn Any + Send>>>,
    over: Cell<bool>,
}

/// The fiber as seen from inside.
#[derive(Clone, Copy)]
pub struct Inside {
    shared: *const Shared,
}

impl Inside {
    /// Goes back to whoever resumed this fiber, until it is resumed again, maybe on another thread.
    #[inline(never)]
    pub fn suspend(self) {
        // SAFETY: the fiber lives while it runs, and only its own code comes here.
        unsafe {
            let shared = &*self.shared;
            assert_eq!(libc::swapcontext(shared.fiber.get(), shared.back.get()), 0);
        }
    }
}

/// The entry function.
extern "C" fn start(shared: *const Shared) {
    // SAFETY: `Fiber::with_arguments` passes the address, and the fiber lives while it runs.
    let shared = unsafe { &*shared };
    let entry = shared.entry.take().expect("a fiber starts once");
    if let Err(payload) = catch_unwind(AssertUnwindSafe(|| entry(Inside { shared }))) {
        shared.payload.set(Some(payload));
    }
    shared.over.set(true);
}

impl Fiber {
    /// A fiber that will run `entry` on that memory when it is resumed for the first time.
    ///
    /// # Safety
    /// The memory must stay, and be used by nobody else, until the fiber is over or will not be resumed any more.
    pub unsafe fn new(memory: Range<usize>, entry: impl FnOnce(Inside) + 'static) -> Self {
        // SAFETY: the caller's promise.
        unsafe { Self::with_arguments(memory, 1, entry) }
    }

    /// The same, passing its entry function `count` arguments: those beyond the registers lie at the top of the stack,
    /// and its foot is that much lower.
    ///
    /// # Safety
    /// As for [`Fiber::new`].
    pub unsafe fn with_arguments(memory: Range<usize>, count: c_int, entry: impl FnOnce(Inside) + 'static) -> Self {
        type Start = extern "C" fn(*const Shared);
        // SAFETY: all zeros is a valid ucontext; `getcontext` fills in what counts.
        let (fiber, back) = unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
        let shared = Box::into_raw(Box::new(Shared {
            fiber: UnsafeCell::new(fiber),
            back: UnsafeCell::new(back),
            entry: Cell::new(Some(Box::new(entry))),
            payload: Cell::new(None),
            over: Cell::new(false),
        }));
        // SAFETY: the contexts live as long as the fiber. glibc passes arguments as whole registers, so that a pointer
        // is one; those that the entry function does not know are in nobody's way.
        unsafe {
            let context = (*shared).fiber.get();
            assert_eq!(libc::getcontext(context), 0);
            (*context).uc_stack.ss_sp = memory.start as *mut c_void;
            (*context).uc_stack.ss_size = memory.end - memory.start;
            (*context).uc_link = (*shared).back.get();
            let start = std::mem::transmute::<Start, extern "C" fn()>(start);
            assert!((1..=12).contains(&count));
            libc::makecontext(
                context, start, count, shared, 0_usize, 0_usize, 0_usize, 0_usize, 0_usize, 0_usize, 0_usize, 0_usize,
                0_usize, 0_usize, 0_usize,
            );
        }
        Self { shared }
    }

    fn shared(&self) -> &Shared {
        // SAFETY: freed in `drop` only.
        unsafe { &*self.shared }
    }

    /// Runs it until it is suspended or over. Returns whether there is more of it. Its panic comes out here.
    #[inline(never)]
    pub fn resume(&self) -> bool {
        assert!(!self.is_over(), "this fiber is over");
        // SAFETY: the fiber's memory is there, by the promise of `new`.
        unsafe { assert_eq!(libc::swapcontext(self.shared().back.get(), self.shared().fiber.get()), 0) };
        if let Some(payload) = self.shared().payload.take() {
            resume_unwind(payload);
        }
        !self.is_over()
    }

    /// Runs it to its end.
    pub fn finish(self) {
        while self.resume() {}
    }

    /// Runs it until it suspends itself, and leaves it there for ever.
    pub fn abandon(self) {
        assert!(self.resume(), "it suspends itself");
    }

    /// Whether its entry function has come to its end.
    pub fn is_over(&self) -> bool {
        self.shared().over.get()
    }
}

impl Drop for Fiber {
    /// A fiber that is not over is abandoned: what is on its stack just stays there.
    fn drop(&mut self) {
        // SAFETY: made by `Box::into_raw`, and nobody is inside any more.
        drop(unsafe { Box::from_raw(self.shared) });
    }
}
