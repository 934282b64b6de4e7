//! Handlers, the stack's identity, and emptying a stack: [`at_exit`], [`at_exit_stoppable`],
//! [`id`], [`reset`], [`unload`].

use crate::base::alloc::{refused, try_box};
use crate::base::cancellation::Uncancelled;
use crate::base::ending::StackEnd;
use crate::base::error::Error;
use crate::base::stack_id::StackId;
use crate::life::{arm, ending, lookup, unload};
use crate::machine::arch::stack_pointer;
use crate::record::drain;
use crate::storage::handlers::Handler;
use std::fmt;
use std::marker::PhantomData;
use std::num::NonZeroU64;

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
// Not inlined, nor are the other functions that arm, except for `at_exit`: then the frame of each
// shows which code has called it (`arm::record_or_new_for`).
#[inline(never)]
pub fn id() -> Result<StackId, Error> {
    id_for(stack_pointer())
}

/// [`id`]. `face` is the stack pointer of the function that users call.
#[inline(always)]
pub(crate) fn id_for(face: usize) -> Result<StackId, Error> {
    arm::record_or_new_for(stack_pointer(), face)?.0.id().ok_or(Error::Busy)
}

/// Registers a handler that runs when this stack's entry function has returned. This arms the stack
/// if it is not armed. [`at_exit_stoppable`] registers one that can be taken back.
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
/// A handler on the main thread may call C's `exit`, and the rest is drained first (with musl it
/// must not). Rust's `std::process::exit` aborts there after `main` has returned: std counts that
/// as the first call, and allows no second one.
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
#[cfg_attr(debug_assertions, inline(never))]
#[cfg_attr(not(debug_assertions), inline(always))]
pub fn at_exit(handler: impl FnOnce() + 'static) -> Result<(), Error> {
    register(try_box(handler).map_err(|_| refused())?, own_frame()).map(drop).map_err(|(error, _)| error)
}

/// As [`at_exit`], where you know the foot and the base of the running stack: then arming a thread's
/// stack, or main's, needs no walk. It is for start routines that stand before the program's own, as
/// of libraries which are loaded before it (`LD_PRELOAD`).
///
/// At the first instruction of an x86_64 function the stack pointer is the foot, if the function is
/// the stack's entry function, and `base` is `foot + 8`. On aarch64 the base is the stack pointer at
/// that instruction, and the foot is the word in which the function then stores `x30`.
///
/// The word at `foot` decides. If it leads to no exit trampoline of a thread or of `main` that this
/// process has met before, or if the stack is armed already, this does what `at_exit` does. So it does
/// on a process's first thread. `handler` is told of the end, without the walk that
/// [`ending`](crate::ending) may need. A handler that has captured nothing takes no memory of its own.
///
/// # Safety
/// `foot` and `base` must be those of the running stack.
///
/// # Errors
/// As [`at_exit`].
pub unsafe fn at_exit_at_foot(
    foot: usize,
    base: usize,
    handler: impl FnOnce(&StackEnd) + 'static,
) -> Result<(), Error> {
    drain::ask_for_record();
    let handler: Handler = try_box(|| handler(&ending::of_handler())).map_err(|_| refused())?;
    // SAFETY: the caller's promise.
    let (record, is_new) = unsafe { arm::record_at_foot(foot, base) }?;
    record.push(handler).map(drop).map_err(|(error, _)| unload::undo(record, is_new, error))
}

/// As [`at_exit`], of a handler that you can take back: [`Registration::stop`].
///
/// It is for code that runs many times on a stack that goes on, as one request after the other on a
/// connection's thread. If you drop the registration, the handler stays.
///
/// # Errors
/// As [`at_exit`].
///
/// # Examples
/// ```
/// # std::thread::spawn(|| {
/// for request in 0..100_000 {
///     let cleanup = exeunt::at_exit_stoppable(move || println!("request {request} was cut off"))?;
///     // ... serve the request; then:
///     assert!(cleanup.stop());
/// }
/// // No handler is left, and the stack's list of handlers has not grown.
/// # Ok::<(), exeunt::Error>(())
/// # }).join().unwrap().unwrap();
/// ```
#[cfg_attr(debug_assertions, inline(never))]
#[cfg_attr(not(debug_assertions), inline(always))]
pub fn at_exit_stoppable(handler: impl FnOnce() + 'static) -> Result<Registration, Error> {
    let number = register(try_box(handler).map_err(|_| refused())?, own_frame()).map_err(|(error, _)| error)?;
    Registration::from_raw(number).ok_or(Error::Busy)
}

/// A handler that [`at_exit_stoppable`] has registered.
///
/// It stays on its thread: only code of the handler's own stack can take the handler back, and a
/// value that an `async` task carries to another worker's stack would no longer be able to.
///
/// ```compile_fail,E0277
/// let registration = exeunt::at_exit_stoppable(|| ())?;
/// std::thread::spawn(move || registration.stop());
/// # Ok::<(), exeunt::Error>(())
/// ```
#[must_use = "dropping it leaves the handler registered: use `at_exit` if that is what you want"]
pub struct Registration {
    number: NonZeroU64,
    not_send: PhantomData<*mut ()>,
}

impl Registration {
    /// The registration with this number, which `register` gave.
    pub(crate) fn from_raw(number: u64) -> Option<Self> {
        Some(Self { number: NonZeroU64::new(number)?, not_send: PhantomData })
    }

    /// Takes the handler back. Returns whether this call has done so: then the handler is dropped
    /// here, without having run, and never runs. Otherwise nothing has changed.
    ///
    /// The order of the other handlers stays. This takes the time of a binary search among them.
    ///
    /// | called | |
    /// |---|---|
    /// | while the stack drains, by another handler or a destructor | `true` if the handler has not begun |
    /// | by the handler itself, and after it has run | `false` |
    /// | a second time | `false` |
    /// | after [`unload`] | `false` |
    /// | after the stack's end | `false` |
    /// | on another stack: a fiber of the same thread, an alternate signal stack | `false` |
    /// | from inside a key's `Eq` | as anywhere else |
    /// | below code without unwind tables (with musl, what `qsort` calls) | `false`; the handler will still run |
    /// | in a signal handler | not allowed: it frees memory |
    ///
    /// This never arms a stack. If the handler's own destructor panics, the panic leaves `stop`,
    /// and the handler is gone.
    pub fn stop(&self) -> bool {
        take_back(self.number.get())
    }
}

impl fmt::Debug for Registration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Registration").field(&self.number).finish()
    }
}

/// [`Registration::stop`], by the number.
pub(crate) fn take_back(number: u64) -> bool {
    let Some(handler) = lookup::lookup_verified().and_then(|record| record.take_back(number)) else { return false };
    // Cancellation would unwind from the destructor through frames of exeunt.
    let _uncancelled = Uncancelled::new();
    drop(handler);
    true
}

/// The `face` of [`arm::record_or_new_for`] for `at_exit` and `at_exit_stoppable`. These are on the
/// way of most stacks that are armed, and a frame of their own would be one more to walk through.
/// So they are always inlined, except without optimisation: there that would enlarge the frames of
/// their callers.
#[inline(always)]
fn own_frame() -> usize {
    if cfg!(debug_assertions) { stack_pointer() } else { arm::INLINED }
}

/// As [`at_exit`], but an error returns the handler. Returns the registration's number. `face` is
/// as in [`arm::record_or_new_for`].
#[inline(always)]
pub(crate) fn register(handler: Handler, face: usize) -> Result<u64, (Error, Handler)> {
    match arm::record_or_new_for(stack_pointer(), face) {
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
/// # Errors
/// [`Error::Busy`] from inside a key's `Eq`. Then nothing has changed.
///
/// # Examples
/// ```
/// # std::thread::spawn(|| {
/// exeunt::set("k", 1)?;
/// exeunt::reset()?;
/// assert_eq!(exeunt::get::<i32>(&"k"), None);
/// # Ok::<(), exeunt::Error>(())
/// # }).join().unwrap().unwrap();
/// ```
pub fn reset() -> Result<(), Error> {
    lookup::lookup_verified().map_or(Ok(()), unload::clear)
}

/// Drops all values of this stack, drops its handlers without running them, and puts its exit back.
/// Then the stack is as it was before it was armed. Does nothing on a stack that is not armed.
///
/// In a handler or a destructor, while the stack drains, the exit stays redirected: then the values
/// and the handlers that have not run yet are gone, and what is added later is drained as usual. A
/// stack local that an outer `with` has borrowed, or that is being initialized, keeps the stack
/// armed for that value alone. In any case [`id`] returns another number afterwards.
///
/// # Errors
/// [`Error::Busy`] from inside a key's `Eq`. Then nothing has changed.
///
/// # Examples
/// ```
/// # std::thread::spawn(|| {
/// let before = exeunt::id()?;
/// exeunt::at_exit(|| unreachable!("forgotten"))?;
/// exeunt::unload()?;
/// assert!(!exeunt::Stack::current().is_armed());
/// assert_ne!(exeunt::id()?, before);
/// # Ok::<(), exeunt::Error>(())
/// # }).join().unwrap().unwrap();
/// ```
pub fn unload() -> Result<(), Error> {
    lookup::lookup_verified().map_or(Ok(()), unload::unload)
}
