//! How the running stack ends: [`ending`], [`returned_value`].

use crate::base::ending::Ending;
use crate::life::ending as life;

/// How the running stack ends, for its handlers and for destructors of its values. `None` where the
/// calling code belongs to no drain: before the stack ends, in destructors that
/// [`reset`](crate::reset) or [`unload`](crate::unload) runs, and on a stack that is not armed.
///
/// In a handler of a stack that was abandoned or discarded it is the ending of *that* stack,
/// although the handler runs on another one.
///
/// | the stack | [`Ending`] |
/// |---|---|
/// | thread, `main`: the function returns | [`Returned`](Ending::Returned) |
/// | thread, `main`: `pthread_exit` | [`Exited`](Ending::Exited) |
/// | thread, `main`: cancelled | [`Cancelled`](Ending::Cancelled) |
/// | `main` calls `exit` | [`ProcessExit`](Ending::ProcessExit); in the handlers that are left, if one of them calls it after `main` has returned |
/// | `makecontext` fiber, registered wrapper, [`enter`](crate::enter()): the function returns | [`Returned`](Ending::Returned) |
/// | [`enter`](crate::enter()): unwinding leaves the function | [`Unwound`](Ending::Unwound) |
/// | its memory serves another stack, which is armed | [`Abandoned`](Ending::Abandoned) |
/// | [`discard`](crate::discard) | [`Discarded`](Ending::Discarded) |
/// | C's `exeunt_scope_end` | [`Scope`](Ending::Scope) |
///
/// The ending follows from words that the drain has left on the stack, and from what libc keeps of
/// a thread that ends. libc keeps that in private fields. A thread that ends with a known value
/// shows where they are. exeunt starts it once, when this is first called on a thread that may have
/// ended by `pthread_exit` or by cancellation. Arming, reading and draining cost the same whether
/// this is called or not.
///
/// # Examples
/// ```
/// use exeunt::Ending;
/// let (sender, receiver) = std::sync::mpsc::channel();
/// std::thread::spawn(move || exeunt::at_exit(move || sender.send(exeunt::ending()).unwrap()).unwrap());
/// assert_eq!(receiver.recv(), Ok(Some(Ending::Returned)));
/// assert_eq!(exeunt::ending(), None);
/// ```
pub fn ending() -> Option<Ending> {
    life::ending()
}

/// The value that the running stack ends with, where [`ending`] is [`Ending::Returned`] or
/// [`Ending::Exited`]: the result of its entry function, or the argument of `pthread_exit`. `None`
/// with other endings, and where there is no such value.
///
/// A result is the word in the processor's first register for results, whatever the entry
/// function's type. It means something if that is an integer or a pointer. Of `main` and of C11's
/// threads it is the `int`, with its sign extended. Of a thread of Rust's it is nothing that the
/// closure returned: std's start routine returns null.
///
/// The functions of `makecontext` fibers and of [`enter`](crate::enter()) return nothing that
/// exeunt could see. Nor can it see what the function of a registered wrapper returns under code
/// redirect, nor a thread's on macOS.
///
/// # Examples
/// ```
/// extern "C" fn start(_: *mut std::ffi::c_void) -> *mut std::ffi::c_void {
///     exeunt::at_exit(|| assert_eq!(exeunt::returned_value(), Some(7))).unwrap();
///     std::ptr::without_provenance_mut(7)
/// }
/// let mut thread = unsafe { std::mem::zeroed() };
/// unsafe {
///     assert_eq!(libc::pthread_create(&mut thread, std::ptr::null(), start, std::ptr::null_mut()), 0);
///     assert_eq!(libc::pthread_join(thread, std::ptr::null_mut()), 0);
/// }
/// ```
pub fn returned_value() -> Option<usize> {
    life::returned_value()
}
