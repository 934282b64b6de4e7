//! Handlers, identity, and the end of all that a stack has: `at_exit`, `id`, `reset`, `unload`.

use crate::base::alloc::{refused, try_box};
use crate::base::error::Error;
use crate::base::stack_id::StackId;
use crate::life::{arm, lookup, unload};
use crate::storage::values::Handler;

/// The identity of the running stack, which is armed if it was not.
///
/// It stays the same until the stack ends or is unloaded, wherever a fiber runs.
///
/// # Errors
/// Where the stack cannot be armed.
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

/// Registers a handler that runs when this stack's entry function has returned. The stack is armed if it was not.
///
/// Handlers run last in, first out, on this very stack, before its `thread_local!` destructors and pthread keys, with
/// all stack-local values still there. A handler may use storage and register more handlers; those run too. One that
/// panics is reported by the panic hook, and the others still run. A handler must not end its thread by `pthread_exit`.
///
/// The stack's other ends run them as well: `pthread_exit` and cancellation, and on the main thread `exit`, also when
/// called somewhere deep. What a [`with`](crate::with) that calls `exit` has lent is never dropped:
/// another thread may be using it. They do not run when the process ends in another way: by
/// `_exit`, by a fatal signal, or by an
/// `exit` that another thread calls, or a fiber, or what runs in [`enter`](crate::enter()).
///
/// A handler on the main thread may call C's `exit`, and the rest is drained first. Rust's `std::process::exit` aborts there
/// when `main` has returned: std counts that as the first call, and allows no second one.
///
/// # Errors
/// Where the stack cannot be armed, and [`Error::OutOfMemory`]. Then `handler` is dropped, and
/// nothing has changed.
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

/// [`at_exit`], which gives the handler back with the error.
#[inline]
pub(crate) fn register(handler: Handler) -> Result<(), (Error, Handler)> {
    match arm::record_or_new() {
        Ok((record, is_new)) => {
            record.push(handler).map_err(|(error, handler)| (unload::undo(record, is_new, error), handler))
        }
        Err(error) => Err((error, handler)),
    }
}

/// Drops all values of this stack, last set first, and keeps its handlers. Does nothing on a stack that is not armed.
///
/// A keyed value that a [`with`](crate::with) further up is looking at is dropped when that is done. A stack local that
/// is borrowed by a `with` further up is out of reach at once, and is dropped when the stack ends.
/// (Where it ends by `exit` in that `with`, neither is ever dropped.)
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

/// Drops all values of this stack, forgets its handlers without running them, and puts its exit back: it is as it was
/// before it was armed. Does nothing on a stack that is not armed.
///
/// In a handler or a destructor, while the stack is ending, the exit is behind it: then the values and the handlers that
/// have not run yet are gone, and what is added later counts as any other. A stack that holds a stack local which is
/// borrowed by a `with` further up, or being made, stays armed for that value alone. In any case [`id`] gives another number afterwards.
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
