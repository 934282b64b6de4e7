//! The process lock: code that adds trampolines or patches exit trampolines holds it.
//! [`Experiment`] marks a thread that learns something about the process.
//!
//! Adding a trampoline takes a few stores and two calls of `mprotect`, and no foreign code runs
//! meanwhile. Code that allocates or that may be replaced (`malloc`, `dlopen`, `pthread_create`) is
//! called before the lock is taken or after it is released. Patching is the exception, since the
//! patch engine allocates. So a thread that takes the lock a second time, from an allocator that
//! uses storage for example, gets an error.
//!
//! The lock is a futex, as nothing can take over a `std::sync::Mutex`: a child of `fork` may find
//! the lock held by a thread that the child does not have. The word holds the holder's process id.
//! By it the child recognises this case and takes the lock.

use crate::base::error::Error;
use crate::machine::os;
use std::cell::Cell;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Zero, or the process id of the holder, with [`WAITED`] if a thread may be asleep.
static HOLDER: AtomicU32 = AtomicU32::new(0);
/// Process ids are below 2^22.
const WAITED: u32 = 1 << 31;

thread_local! {
    /// Whether this thread holds the lock. Signals are blocked and nothing switches meanwhile, so
    /// no fiber moves to another thread.
    static LOCKED: Cell<bool> = const { Cell::new(false) };
    /// Whether this thread runs an experiment.
    static EXPERIMENTING: Cell<bool> = const { Cell::new(false) };
}

/// The lock, held. Signals are blocked as long: a handler must not find that its own thread holds
/// the lock.
pub(crate) struct ProcessLock {
    signals: libc::sigset_t,
}

/// Why the lock was not taken.
#[derive(Debug, PartialEq, Eq)]
enum NotTaken {
    /// This thread holds it.
    Reentered,
    /// Another thread held it for too long.
    TimedOut,
}

impl ProcessLock {
    /// Takes the lock. Sleeps while another thread holds it.
    ///
    /// # Errors
    /// [`Error::Reentered`] if this thread holds it.
    pub(crate) fn take() -> Result<Self, Error> {
        Self::take_until(None).map_err(|_| Error::Reentered)
    }

    fn take_until(deadline: Option<Instant>) -> Result<Self, NotTaken> {
        if LOCKED.get() {
            return Err(NotTaken::Reentered);
        }
        let me = std::process::id();
        // A thread that has slept has no count of the others that still do, so it passes the flag
        // on.
        let mut waited = 0;
        loop {
            let signals = block_signals();
            let holder = HOLDER.load(Ordering::Relaxed);
            // Another process's id is that of a parent, whose thread does not exist in this
            // process.
            let is_free = holder & !WAITED != me;
            if is_free && HOLDER.compare_exchange(holder, me | waited, Ordering::Acquire, Ordering::Relaxed).is_ok() {
                LOCKED.set(true);
                return Ok(Self { signals });
            }
            // Signals may arrive while this thread sleeps.
            restore_signals(&signals);
            if is_free {
                continue;
            }
            let asleep = holder | WAITED;
            let is_told = holder == asleep
                || HOLDER.compare_exchange(holder, asleep, Ordering::Relaxed, Ordering::Relaxed).is_ok();
            if !is_told {
                continue;
            }
            waited = WAITED;
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO) {
                return Err(NotTaken::TimedOut);
            }
            os::wait_while(&HOLDER, asleep, left);
        }
    }
}

impl Drop for ProcessLock {
    fn drop(&mut self) {
        LOCKED.set(false);
        if HOLDER.swap(0, Ordering::Release) & WAITED != 0 {
            os::wake_one(&HOLDER);
        }
        restore_signals(&self.signals);
    }
}

fn block_signals() -> libc::sigset_t {
    // SAFETY: both sets are filled in before they are read; the mask is this thread's own.
    unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        let mut before: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut before);
        before
    }
}

fn restore_signals(signals: &libc::sigset_t) {
    // SAFETY: puts back a mask that `block_signals` found on this thread.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, signals, std::ptr::null_mut()) };
}

/// Marks the thread as one that learns something about the process with calls of foreign code, such
/// as `pthread_create` and `malloc`. That code may use storage and so call this again, without end
/// if nothing stopped it.
///
/// Signals are blocked as long, also on the threads that the experiment starts, which inherit the
/// mask. A handler must not run on the stacks and threads of the experiment: they are small, and
/// other code does not expect them.
pub(crate) struct Experiment {
    signals: libc::sigset_t,
}

impl Experiment {
    /// # Errors
    /// [`Error::Reentered`] if this thread runs an experiment already.
    pub(crate) fn begin() -> Result<Self, Error> {
        if EXPERIMENTING.replace(true) {
            return Err(Error::Reentered);
        }
        Ok(Self { signals: block_signals() })
    }
}

impl Drop for Experiment {
    fn drop(&mut self) {
        restore_signals(&self.signals);
        EXPERIMENTING.set(false);
    }
}

#[cfg(code_redirect)]
pub(crate) use over_fork::{lock_for_fork, unlock_after_fork};

/// The lock, held by a thread across a `fork`.
#[cfg(code_redirect)]
mod over_fork {
    use super::{Cell, Duration, Instant, ProcessLock};

    thread_local! {
        /// The lock that [`lock_for_fork`] has taken on this thread. The child's only thread has a
        /// copy.
        static HELD: Cell<Option<libc::sigset_t>> = const { Cell::new(None) };
    }

    /// Takes the lock for this thread until [`unlock_after_fork`]. Does not take it if it is not
    /// free within `patience`, or if this thread holds it already.
    pub(crate) fn lock_for_fork(patience: Duration) {
        if let Ok(lock) = ProcessLock::take_until(Some(Instant::now() + patience)) {
            HELD.set(Some(lock.signals));
            std::mem::forget(lock);
        }
    }

    /// Releases the lock that [`lock_for_fork`] has taken, if it has: on the same thread, or on its
    /// copy in a child of `fork`.
    pub(crate) fn unlock_after_fork() {
        if let Some(signals) = HELD.take() {
            drop(ProcessLock { signals });
        }
    }

    #[cfg(test)]
    pub(super) fn is_held() -> bool {
        let held = HELD.take();
        HELD.set(held);
        held.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_os = "linux")]
    use std::sync::atomic::AtomicBool;

    /// The tests of one process share the lock. Each of them holds it for a moment, and none
    /// requires that it is free.
    #[test]
    fn a_thread_that_comes_back_into_the_lock_gets_an_error_and_still_holds_it() {
        let lock = ProcessLock::take().expect("this thread does not have it");
        assert_eq!(ProcessLock::take().err(), Some(Error::Reentered));
        assert!(LOCKED.get());
        drop(lock);
        assert!(!LOCKED.get());
        drop(ProcessLock::take().expect("it was given back"));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn threads_that_wait_for_the_lock_sleep_and_each_gets_it_alone() {
        static INSIDE: AtomicBool = AtomicBool::new(false);
        let lock = ProcessLock::take().expect("this thread does not have it");
        std::thread::scope(|scope| {
            let (sender, receiver) = std::sync::mpsc::channel();
            let wait = || {
                let sender = sender.clone();
                move || {
                    // SAFETY: only asks.
                    sender.send(unsafe { libc::gettid() }).expect("the test waits for it");
                    for _ in 0..100 {
                        let _lock = ProcessLock::take().expect("this thread does not have it");
                        assert!(!INSIDE.swap(true, Ordering::Relaxed));
                        INSIDE.store(false, Ordering::Relaxed);
                    }
                }
            };
            let waiting = [scope.spawn(wait()), scope.spawn(wait()), scope.spawn(wait())];
            for thread in receiver.iter().take(waiting.len()) {
                await_sleep(thread);
            }
            drop(lock);
            for thread in waiting {
                thread.join().expect("each has had it");
            }
        });
    }

    /// Waits until a thread of this process sleeps. A thread that spins or yields never does.
    #[cfg(target_os = "linux")]
    fn await_sleep(thread: libc::pid_t) {
        let file = format!("/proc/self/task/{thread}/stat");
        for _ in 0..60_000 {
            let told = std::fs::read_to_string(&file).expect("the thread lives");
            // The state is behind the name, which is in brackets: proc(5).
            if told.rsplit(')').next().is_some_and(|rest| rest.starts_with(" S")) {
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        panic!("thread {thread} did not go to sleep");
    }

    #[cfg(code_redirect)]
    #[test]
    fn a_fork_that_cannot_have_the_lock_in_time_goes_on_without_it_and_gives_nothing_back() {
        lock_for_fork(Duration::from_secs(60));
        assert!(over_fork::is_held());
        let impatient = || {
            lock_for_fork(Duration::from_millis(20));
            assert!(!over_fork::is_held());
            unlock_after_fork();
        };
        std::thread::scope(|scope| scope.spawn(impatient).join()).expect("no panic");
        assert!(LOCKED.get());
        // A second handler of the same fork finds the lock held, and takes nothing.
        lock_for_fork(Duration::from_secs(60));
        unlock_after_fork();
        unlock_after_fork();
        assert!(!LOCKED.get() && !over_fork::is_held());
        lock_for_fork(Duration::from_secs(60));
        assert!(over_fork::is_held());
        unlock_after_fork();
    }

    #[test]
    fn a_thread_that_runs_an_experiment_cannot_begin_another() {
        let experiment = Experiment::begin().expect("this thread is not experiment");
        assert_eq!(Experiment::begin().err(), Some(Error::Reentered));
        drop(experiment);
        assert!(Experiment::begin().is_ok());
    }
}
