//! corosensei's coroutines, whose functions run inside `enter`.

use super::Memory;
use corosensei::stack::{Stack, StackPointer};
use corosensei::{Coroutine, CoroutineResult, Yielder};

/// A fiber that has not returned yet; it can be suspended from inside and resumed.
pub struct Fiber<'m> {
    coroutine: Coroutine<(), (), (), Pages>,
    _memory: &'m mut Memory,
}

/// The bounds of a fiber's memory.
struct Pages {
    base: StackPointer,
    limit: StackPointer,
}

// SAFETY: the memory is page-aligned and borrowed for the fiber's life. It has no guard page: the
// benchmarks give it more than their fibers use.
unsafe impl Stack for Pages {
    fn base(&self) -> StackPointer {
        self.base
    }

    fn limit(&self) -> StackPointer {
        self.limit
    }
}

/// The argument of a fiber's body, to suspend itself by.
pub struct Inside<'y>(&'y Yielder<(), ()>);

impl Inside<'_> {
    /// Goes back to the resumer.
    pub fn suspend(&self) {
        self.0.suspend(());
    }
}

impl<'m> Fiber<'m> {
    /// A fiber that will run `body` on `memory`.
    pub fn new(memory: &'m mut Memory, body: impl FnOnce(&Inside) + 'static) -> Self {
        let address = |address: usize| StackPointer::new(address).expect("no memory lies at zero");
        let start = memory.start.addr();
        let pages = Pages { base: address(start + memory.size), limit: address(start) };
        let coroutine = Coroutine::with_stack(pages, |yielder, ()| {
            exeunt::enter(|| body(&Inside(yielder))).expect("a fiber can be entered");
        });
        Self { coroutine, _memory: memory }
    }

    /// Runs the fiber until it suspends itself or returns. Returns whether it has returned.
    pub fn resume(&mut self) -> bool {
        matches!(self.coroutine.resume(()), CoroutineResult::Return(()))
    }
}
