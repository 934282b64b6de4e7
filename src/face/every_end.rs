//! A function that is called at every end of a thread and of `main`: [`on_every_end`], or of a thread
//! alone: [`on_every_thread_end`].

use crate::base::ending::StackEnd;
use crate::base::error::Error;
#[cfg(code_redirect)]
use crate::life::every_end::{self, Registered, Whose};
use std::fmt;

/// Has `function` called at the end of every thread and of `main`, whether their stacks are armed or
/// not, and whether they are there already or begin later. It is for tools that watch a whole
/// program. [`at_exit`](crate::at_exit) is for one stack.
///
/// This needs code redirect, and chooses it for the process if nothing is chosen yet, as
/// [`Builder`](crate::Builder) does. It patches the exit trampolines of threads (of
/// `pthread_create` and of C11) and of `main` at once, on any thread. So it needs no stack of these
/// kinds that was armed. If the process has learnt none of them yet, it starts up to three threads,
/// which end at once.
///
/// | the end | is reported |
/// |---|---|
/// | a thread returns, or ends by `pthread_exit` or cancellation | always |
/// | `main` returns, or its thread ends by `pthread_exit` or cancellation | once; before glibc 2.34 the latter two are not |
/// | `exit`, `_exit`, `abort`, a fatal signal | no: the process ends, and its stacks with it |
/// | fibers | no, only threads and `main` |
///
/// # What holds in the function
///
/// - It runs on the stack that ends, when the entry function's frames are gone, before the
///   thread's destructors of thread-locals and of keys. If the stack is armed, its handlers run and
///   its values are dropped after it.
/// - exeunt allocates nothing for the call, takes no lock and makes no system call. The function is
///   no signal handler: it may do what any code of a thread may do. A signal may arrive in it. On the
///   smallest stacks (16 KiB) there is as much room as the entry function had.
/// - It runs on several threads at once.
/// - It must not arm the stack, nor use storage of exeunt's: this stack's end has begun.
///   [`ending`](crate::ending) gives `None`. `end` has what there is to know.
/// - It must return. It must not end the thread (`pthread_exit`), and its cancellation is deferred
///   meanwhile. The panic hook reports a panic of it, and the stack goes on to its end.
/// - It must not call [`restore_code_sites`](crate::restore_code_sites), which waits for no thread.
/// - A child of `fork` calls it as well, for its own threads.
///
/// One function can be registered in a process. It is never dropped, also if it is taken back, as a
/// thread may be calling it.
///
/// # Errors
/// [`Error::RedirectChosen`] if the process uses slot redirect; [`Error::EveryEndTaken`] if another
/// function is registered; [`Error::NoCodeSite`] where not all of the exit trampolines can be found
/// and patched, with musl, on macOS, and without the feature `code`; and what arming can fail with.
/// After an error no code has changed. What was learnt about exit trampolines stays.
///
/// # Examples
/// ```standalone_crate
/// # #[cfg(all(target_os = "linux", target_env = "gnu"))] {
/// use std::sync::atomic::{AtomicUsize, Ordering};
/// static ENDS: AtomicUsize = AtomicUsize::new(0);
/// let every_end = exeunt::on_every_end(|end| {
///     assert_eq!(end.kind, exeunt::Kind::Thread);
///     ENDS.fetch_add(1, Ordering::Relaxed);
/// })?;
/// std::thread::spawn(|| println!("nothing is armed here")).join().unwrap();
/// assert_eq!(ENDS.load(Ordering::Relaxed), 1);
///
/// every_end.stop();
/// exeunt::restore_code_sites()?;
/// std::thread::spawn(|| ()).join().unwrap();
/// assert_eq!(ENDS.load(Ordering::Relaxed), 1);
/// # }
/// # Ok::<(), exeunt::Error>(())
/// ```
pub fn on_every_end(function: impl Fn(&StackEnd) + Send + Sync + 'static) -> Result<EveryEnd, Error> {
    #[cfg(code_redirect)]
    return every_end::call(function, Whose::All).map(|registered| EveryEnd { registered });
    #[cfg(not(code_redirect))]
    {
        drop(function);
        Err(crate::exit::redirect::sites::unavailable())
    }
}

/// Has `function` called at the end of every thread, as [`on_every_end`] does, and leaves `main`
/// alone. The code that `main` returns into is not patched.
///
/// This does not choose a redirect: the process may use slot redirect, or choose either one later.
/// What [`on_every_end`]'s page says of threads and of the function holds here as well, with one
/// difference. A stack that slot redirect has armed has run its handlers before the function is
/// called, and `end.is_armed` is false.
///
/// One function can be registered in a process, by this or by [`on_every_end`].
///
/// # Errors
/// As [`on_every_end`], but for [`Error::RedirectChosen`].
///
/// # Examples
/// ```standalone_crate
/// # #[cfg(all(target_os = "linux", target_env = "gnu"))] {
/// use std::sync::atomic::{AtomicUsize, Ordering};
/// static ENDS: AtomicUsize = AtomicUsize::new(0);
/// exeunt::Builder::new().redirect(exeunt::Redirect::Slot).install()?;
/// let every_end = exeunt::on_every_thread_end(|_| _ = ENDS.fetch_add(1, Ordering::Relaxed))?;
/// std::thread::spawn(|| println!("nothing is armed here")).join().unwrap();
/// assert_eq!(ENDS.load(Ordering::Relaxed), 1);
/// every_end.stop();
/// # }
/// # Ok::<(), exeunt::Error>(())
/// ```
pub fn on_every_thread_end(function: impl Fn(&StackEnd) + Send + Sync + 'static) -> Result<EveryEnd, Error> {
    #[cfg(code_redirect)]
    return every_end::call(function, Whose::Threads).map(|registered| EveryEnd { registered });
    #[cfg(not(code_redirect))]
    {
        drop(function);
        Err(crate::exit::redirect::sites::unavailable())
    }
}

/// A function that [`on_every_end`] or [`on_every_thread_end`] has registered. If you drop this, the
/// function stays.
#[must_use = "dropping it leaves the function registered"]
pub struct EveryEnd {
    #[cfg(code_redirect)]
    registered: &'static Registered,
}

impl EveryEnd {
    /// Takes the function back: no call of it begins from now on. Calls that have begun on other
    /// threads go on, so its code must stay loaded. The code of exit trampolines stays patched until
    /// [`restore_code_sites`](crate::restore_code_sites).
    pub fn stop(self) {
        #[cfg(code_redirect)]
        every_end::take_back(self.registered);
    }
}

impl fmt::Debug for EveryEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EveryEnd").finish_non_exhaustive()
    }
}
