//! Where exeunt knows no fibers of the system's own there are none to show: macOS's `makecontext` is deprecated, and its
//! exit trampoline is none that exeunt knows.

use std::convert::Infallible;

/// There is none.
pub struct Memory(Infallible);

impl Memory {
    pub fn map() -> std::io::Result<Self> {
        Err(std::io::Error::new(std::io::ErrorKind::Unsupported, "exeunt knows no fibers of this system's own"))
    }
}

/// There is none.
pub struct Fiber(Infallible);

/// There is none.
pub struct Suspender(Infallible);

impl Fiber {
    pub fn on(memory: &Memory, _body: impl FnOnce(&Suspender) + Send + 'static) -> Self {
        match memory.0 {}
    }

    pub fn resume(&mut self) -> bool {
        match self.0 {}
    }
}

impl Suspender {
    pub fn suspend(&self) {
        match self.0 {}
    }
}
