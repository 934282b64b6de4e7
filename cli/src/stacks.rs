//! Runs code on a stack of each kind, and finds the foot of the running stack.

use crate::fiber::{Fiber, Memory};
use exeunt::{Error, FootInfo, Stack};

/// Whether the system has fibers that exeunt recognises.
pub const HAS_FIBERS: bool = cfg!(target_env = "gnu");

/// The foot of the running stack, or the reason why it was not found.
pub fn foot() -> Result<FootInfo, Error> {
    let stack = Stack::current();
    stack.foot().cloned().ok_or_else(|| stack.problem().cloned().unwrap_or(Error::Busy))
}

/// Runs `code` on a new thread.
pub fn on_a_thread<R: Send + 'static>(code: impl FnOnce() -> R + Send + 'static) -> Result<R, String> {
    let thread = std::thread::Builder::new().spawn(code).map_err(|error| format!("no thread: {error}"))?;
    thread.join().map_err(|_| "the thread panicked".to_owned())
}

/// Runs `code` on a new fiber.
pub fn on_a_fiber<R: Send + 'static>(code: impl FnOnce() -> R + Send + 'static) -> Result<R, String> {
    let memory = Memory::map().map_err(|error| format!("no memory for a fiber: {error}"))?;
    let (sender, receiver) = std::sync::mpsc::channel();
    Fiber::on(&memory, move |_| {
        let _ = sender.send(code());
    })
    .resume();
    receiver.recv().map_err(|_| "the fiber did not return".to_owned())
}
