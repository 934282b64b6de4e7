//! Where no fibers can be created: on macOS `makecontext` is deprecated, and exeunt does not
//! recognise its exit trampoline; musl has no `makecontext`.

use std::convert::Infallible;

/// Cannot exist on this system.
pub struct Memory(Infallible);

impl Memory {
    pub fn map() -> std::io::Result<Self> {
        Err(std::io::Error::new(std::io::ErrorKind::Unsupported, "exeunt supports no fibers of this system"))
    }
}

/// Cannot exist on this system.
pub struct Fiber(Infallible);

/// Cannot exist on this system.
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
