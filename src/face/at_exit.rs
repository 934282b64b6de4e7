//! Handlers, the stack's identity, and emptying a stack: [`at_exit`], [`id`], [`reset`],
//! [`unload`].

use crate::base::alloc::{refused, try_box};
use crate::base::error::Error;
use crate::base::stack_id::StackId;
use crate::life::{arm, lookup, unload};
use crate::storage::values::Handler;

/// The identity of the running stack. This arms the stack if it is not armed.
///
/// It stays the same until the stack ends or is unloaded, whichever thread runs a fiber.
///
/// # Errors
/// If the stack cannot be armed.
///
/// # Examples
/// ```
/// let here = std::thread::spawn(exeunt::id).join().unwrap()?;
/// let there = std::thread::spawn(exeunt::id).join().unwrap()?;
/// assert_ne!(here, there);
/// # Ok::<(), exeunt::Error>(())
/// ```
pub fn id() -> Result<StackId, Error> {
    arm::record()?.id().ok_or(Error::Busy)
}

/// Registers a handler that runs when this stack's entry function has returned. This arms the stack
/// if it is not armed.
///
/// Handlers run last in, first out, on this very stack. They run before the `thread_local!`
/// destructors and pthread keys of the thread, while all stack-local values are still there. A
/// handler may use storage and register more handlers, and those run too. If a handler panics, the
/// panic hook reports it, and the other handlers still run. A handler must not end its thread by
/// `pthread_exit`.
///
/// The stack's other ends run them as well: `pthread_exit` and cancellation, and on the main thread
/// `exit`, from any depth. A value that is lent by the [`with`](crate::with) that calls `exit` is
/// never dropped, as another thread may be using it. Handlers do not run when the process ends in
/// another way: by `_exit`, by a fatal signal, or by an `exit` that another thread calls, or a
/// fiber, or code in [`enter`](crate::enter()).
///
/// A handler on the main thread may call C's `exit`, and the rest is drained first. Rust's
/// `std::process::exit` aborts there after `main` has returned: std counts that as the first call,
/// and allows no second one.
///
/// # Errors
/// An error of arming, or [`Error::OutOfMemory`]. Then `handler` is dropped, and nothing has
/// changed.
///
/// # Examples
/// ```
/// use std::sync::mpsc::channel;
/// let (sender, receiver) = channel();
/// std::thread::spawn(move || {
///     exeunt::at_exit(move || sender.send("gone").unwrap()).unwrap();
/// });
/// assert_eq!(receiver.recv(), Ok("gone"));
/// ```
pub fn at_exit(handler: impl FnOnce() + 'static) -> Result<(), Error> {
    register(try_box(handler).map_err(|_| refused())?).map_err(|(error, _)| error)
}

/// As [`at_exit`], but an error returns the handler.
#[inline]
pub(crate) fn register(handler: Handler) -> Result<(), (Error, Handler)> {
    match arm::record_or_new() {
        Ok((record, is_new)) => {
            record.push(handler).map_err(|(error, handler)| (unload::undo(record, is_new, error), handler))
        }
        Err(error) => Err((error, handler)),
    }
}

/// Drops all values of this stack, last set first, and keeps its handlers. Does nothing on a stack
/// that is not armed.
///
/// A keyed value that an outer [`with`](crate::with) is lending is dropped when that `with`
/// returns. A stack local that an outer `with` has borrowed is out of reach at once, and is dropped
/// when the stack ends. If the stack ends by `exit` in that `with`, neither is ever dropped.
///
/// # Examples
/// ```
/// # std::thread::spawn(|| {
/// exeunt::set("k", 1)?;
/// exeunt::reset();
/// assert_eq!(exeunt::get::<i32>(&"k"), None);
/// # Ok::<(), exeunt::Error>(())
/// # }).join().unwrap().unwrap();
/// ```
pub fn reset() {
    if let Some(record) = lookup::lookup_verified() {
        unload::clear(record);
    }
}

/// Drops all values of this stack, drops its handlers without running them, and puts its exit back.
/// Then the stack is as it was before it was armed. Does nothing on a stack that is not armed.
///
/// In a handler or a destructor, while the stack drains, the exit stays redirected: then the values
/// and the handlers that have not run yet are gone, and what is added later is drained as usual. A
/// stack local that an outer `with` has borrowed, or that is being initialized, keeps the stack
/// armed for that value alone. In any case [`id`] returns another number afterwards.
///
/// # Examples
/// ```
/// # std::thread::spawn(|| {
/// let before = exeunt::id()?;
/// exeunt::at_exit(|| unreachable!("forgotten"))?;
/// exeunt::unload();
/// assert!(!exeunt::Stack::current().is_armed());
/// assert_ne!(exeunt::id()?, before);
/// # Ok::<(), exeunt::Error>(())
/// # }).join().unwrap().unwrap();
/// ```
pub fn unload() {
    if let Some(record) = lookup::lookup_verified() {
        unload::unload(record);
    }
}
