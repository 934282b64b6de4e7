//! `makecontext` fibers as a small runtime has them: any thread can resume them, they suspend
//! themselves, and they run on given memory.

use std::any::Any;
use std::cell::{Cell, UnsafeCell};
use std::ffi::{c_int, c_void};
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// Pages for a stack.
pub struct Pages {
    memory: *mut c_void,
    size: usize,
}

// SAFETY: it holds addresses only; those who make fibers there are responsible for the memory.
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

// SAFETY: one thread at a time has a fiber and resumes it. The values of its closure move along:
// the tests put nothing into fibers that must not move.
unsafe impl Send for Fiber {}

type Entry = Box<dyn FnOnce(Inside)>;

struct Shared {
    fiber: UnsafeCell<libc::ucontext_t>,
    back: UnsafeCell<libc::ucontext_t>,
    entry: Cell<Option<Entry>>,
    payload: Cell<Option<Box<dyn Any + Send>>>,
    over: Cell<bool>,
}

/// The handle of a fiber for its own code.
#[derive(Clone, Copy)]
pub struct Inside {
    shared: *const Shared,
}

impl Inside {
    /// Switches to the code that resumed this fiber. Returns when the fiber is resumed again, maybe
    /// on another thread.
    #[inline(never)]
    pub fn suspend(self) {
        // SAFETY: the fiber exists while it runs, and only its own code calls this.
        unsafe {
            let shared = &*self.shared;
            assert_eq!(libc::swapcontext(shared.fiber.get(), shared.back.get()), 0);
        }
    }
}

/// The entry function.
extern "C" fn start(shared: *const Shared) {
    // SAFETY: `Fiber::with_arguments` passes the address, and the fiber exists while it runs.
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
    /// The memory must stay, and nothing else may use it, until the fiber has ended or will not be
    /// resumed any more.
    pub unsafe fn new(memory: Range<usize>, entry: impl FnOnce(Inside) + 'static) -> Self {
        // SAFETY: the caller's promise.
        unsafe { Self::with_arguments(memory, 1, entry) }
    }

    /// The same, with `count` arguments for its entry function. Those beyond the registers lie at
    /// the stack's base, and the foot's address is lower by their size.
    ///
    /// # Safety
    /// As for [`Fiber::new`].
    pub unsafe fn with_arguments(memory: Range<usize>, count: c_int, entry: impl FnOnce(Inside) + 'static) -> Self {
        type Start = extern "C" fn(*const Shared);
        // SAFETY: all zeros is a valid ucontext, and `getcontext` fills in the rest.
        let (fiber, back) = unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
        let shared = Box::into_raw(Box::new(Shared {
            fiber: UnsafeCell::new(fiber),
            back: UnsafeCell::new(back),
            entry: Cell::new(Some(Box::new(entry))),
            payload: Cell::new(None),
            over: Cell::new(false),
        }));
        // SAFETY: the contexts exist as long as the fiber. glibc passes arguments as whole
        // registers, so a pointer fits one. The entry function ignores further arguments.
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

    /// Runs it until it suspends itself or ends. Returns whether there is more of it. Its panic
    /// continues here.
    #[inline(never)]
    pub fn resume(&self) -> bool {
        assert!(!self.is_over(), "this fiber is over");
        // SAFETY: the fiber's memory exists, by the promise of `new`.
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

    /// Runs it until it suspends itself, and abandons it there.
    pub fn abandon(self) {
        assert!(self.resume(), "it suspends itself");
    }

    /// Whether its entry function has returned.
    pub fn is_over(&self) -> bool {
        self.shared().over.get()
    }
}

impl Drop for Fiber {
    /// A fiber that has not ended is abandoned: the contents of its stack stay there.
    fn drop(&mut self) {
        // SAFETY: made by `Box::into_raw`, and no code runs on it any more.
        drop(unsafe { Box::from_raw(self.shared) });
    }
}
