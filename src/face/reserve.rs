//! Arming by the address of a foot: [`reserve`].

use crate::base::alloc::{refused, try_box};
use crate::base::error::Error;
use crate::base::stack_id::StackId;
#[cfg(target_env = "gnu")]
use crate::life::reserve::Reserved;
use crate::storage::handlers::Handler;
use std::fmt;

/// Reserves what it takes to arm a stack whose foot you know: a record with `handler`, and room in
/// the stack map. [`Reservation::arm`] then arms that stack with a few stores, without a walk and
/// without code that runs on it. It is for tools that arm threads which are stopped, in any code:
/// in the allocator, in the kernel, in a constructor. It serves stacks of threads and of `main`,
/// with glibc.
///
/// `foot` is the address of the foot and `base` the stack's base: the stack pointer once the entry
/// function has returned. On x86_64 `base` is `foot + 8`. (On aarch64 the entry function has stored
/// its return address somewhere below its base.) A thread's base lies at a constant distance below
/// its descriptor (`pthread_self`), the same for all threads of a process that one function has
/// created, as far as their stacks are made alike. [`stacks`](crate::stacks) shows the base of an
/// armed one. Main's foot lies below the address that `/proc/PID/stat` has as `startstack`. In
/// either case the word has to lead to a known exit trampoline.
///
/// This call takes locks, allocates, and at a process's first use it may start a few threads, which
/// end at once, and patch code (code redirect). So call it while all threads run. It reads the
/// stack, and changes nothing there.
///
/// # Safety
/// If there is memory at `foot` and `base`, it must stay mapped until this returns, with 512 bytes
/// above the base.
///
/// # Errors
/// [`Error::NoFoot`] if the word at `foot` leads to no known exit trampoline of a thread's or of
/// `main`; [`Error::AlreadyArmed`]; and the errors of arming. Then `handler` is dropped, and no
/// stack has changed. As after a success, what concerns the whole process stays: the exit
/// trampolines that were recognised, its choice of redirect, the code that was patched, and
/// exeunt's functions for `exit` and `fork`.
///
/// # Examples
/// ```
/// # #[cfg(all(target_os = "linux", target_env = "gnu"))] {
/// use std::sync::mpsc::channel;
/// let ((ready, place), (go, goes), (over, ended)) = (channel(), channel::<()>(), channel());
/// let thread = std::thread::spawn(move || {
///     // Learn the place of this stack's foot and base.
///     let id = exeunt::id().unwrap();
///     let this = exeunt::stacks().find(|stack| stack.id == id).unwrap();
///     exeunt::unload().unwrap();
///     ready.send((this.foot, this.base)).unwrap();
///     goes.recv()
/// });
/// let (foot, base) = place.recv().unwrap();
/// // SAFETY: the thread goes on after the message alone.
/// let reserved = unsafe { exeunt::reserve(foot, base, move || over.send("ended").unwrap()) }?;
/// // SAFETY: as above.
/// let id = unsafe { reserved.arm() }.map_err(|(error, _)| error)?;
/// assert!(exeunt::stacks().any(|stack| stack.id == id));
/// go.send(()).unwrap();
/// assert_eq!(ended.recv(), Ok("ended"));
/// # thread.join().unwrap().unwrap();
/// # }
/// # Ok::<(), exeunt::Error>(())
/// ```
pub unsafe fn reserve(foot: usize, base: usize, handler: impl FnOnce() + Send + 'static) -> Result<Reservation, Error> {
    let handler = try_box(handler).map_err(|_| refused())?;
    // SAFETY: the caller's promise.
    unsafe { reserve_boxed(foot, base, handler) }.map_err(|(error, _)| error)
}

/// [`reserve`], which returns the handler with an error.
///
/// # Safety
/// As [`reserve`].
#[cfg(target_env = "gnu")]
pub(crate) unsafe fn reserve_boxed(
    foot: usize,
    base: usize,
    handler: Handler,
) -> Result<Reservation, (Error, Handler)> {
    // SAFETY: the caller's promise.
    unsafe { Reserved::new(foot, base, handler) }.map(|reserved| Reservation { reserved })
}

/// There is no such thing here.
///
/// # Safety
/// None: nothing is read.
#[cfg(not(target_env = "gnu"))]
pub(crate) unsafe fn reserve_boxed(foot: usize, _: usize, handler: Handler) -> Result<Reservation, (Error, Handler)> {
    let reason = "exeunt arms stacks by the address of a foot with glibc alone";
    Err((Error::NoFoot { address: foot, found: 0, reason }, handler))
}

/// What [`reserve`] has reserved for one stack. If you drop this, the handler is dropped without
/// running.
#[must_use = "dropping it drops the handler"]
pub struct Reservation {
    #[cfg(target_env = "gnu")]
    pub(crate) reserved: Reserved,
}

// SAFETY: the handler is `Send`, and no stack has the record yet.
unsafe impl Send for Reservation {}

impl Reservation {
    /// Arms the stack that this was reserved for, whichever thread runs this: from now on its end
    /// runs the handler. It may use the stack then as any armed one.
    ///
    /// This allocates nothing, takes no lock, makes no system call but those of a failed check, and
    /// runs no code of yours. So the stack's thread may be stopped anywhere, with any lock held.
    ///
    /// Its handler runs at all the ends that [`at_exit`](crate::at_exit) names. On `main` by `exit`
    /// it runs as an `atexit` function, after the destructors of main's thread-locals.
    ///
    /// # Safety
    /// - The stack is the running one; or its thread is stopped, and stays so until this returns.
    /// - Its end has not begun: its entry function has not returned, and the thread is not in
    ///   `pthread_exit` and does not act on a cancellation. Under slot redirect an end is missed
    ///   that has read already where it goes on, and is in its last instructions (glibc's
    ///   `__longjmp`): the handler does not run, and the record is left behind on memory that may
    ///   be unmapped.
    /// - The thread is in its entry function or in what that has called: its stack pointer is on
    ///   this very stack, at or below the foot. Or it runs on another stack meanwhile (a signal
    ///   stack, a fiber's), and its own stack is suspended there. If a signal handler runs on this
    ///   very stack, the stack pointer of the interrupted code counts: a signal may arrive when the
    ///   entry function has just returned, and leave the foot as it was above the handler's frames.
    ///   On x86_64 the word in the foot then shows that the function has not returned.
    /// - On aarch64 the word does not show that. The function may not have stored its return
    ///   address yet, may have loaded it already, or may be about to jump to another function (a
    ///   tail call); and the word may be left from an earlier call. So under slot redirect an
    ///   unwind of the stopped thread's registers, by unwind tables, has led to this very word, as
    ///   the one by which the entry function returns.
    /// - It is not in a call into this copy of exeunt, which may be about to arm the same stack.
    /// - Its memory is mapped, as for [`reserve`].
    ///
    /// # Errors
    /// [`Error::NoFoot`] if the word is no known exit any more, or the memory belongs to a stack
    /// that was not drained, or it is main's and `exit` has run exeunt's `atexit` function already;
    /// [`Error::AlreadyArmed`]; and [`Error::OutOfMemory`] where stacks share a page of memory, and
    /// others have taken the room in the stack map since the reservation. Then nothing has changed,
    /// and the reservation comes back. Drop it while all threads run: that frees memory.
    pub unsafe fn arm(self) -> Result<StackId, (Error, Self)> {
        // SAFETY: the caller's promise.
        #[cfg(target_env = "gnu")]
        return unsafe { self.reserved.arm() }.map_err(|(error, reserved)| (error, Self { reserved }));
        #[cfg(not(target_env = "gnu"))]
        Err((Error::StackHasEnded, self))
    }
}

impl fmt::Debug for Reservation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reservation").finish_non_exhaustive()
    }
}
