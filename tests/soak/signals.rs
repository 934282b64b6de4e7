//! Signals at random moments, whose handler reads; and signals that end the process, whose handler
//! prints the part that it was in.

use crate::life;
use std::cell::Cell;
use std::ffi::c_int;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::time::Duration;

/// Threads that signals are sent to; zero where there is none.
static TARGETS: [AtomicI32; 64] = [const { AtomicI32::new(0) }; 64];

static SENT: AtomicU64 = AtomicU64::new(0);
/// Reads in handlers that found the value of the life whose stack was running, and those that found
/// none.
static FOUND: AtomicU64 = AtomicU64::new(0);
static NOTHING: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static PART: Cell<&'static str> = const { Cell::new("none") };
}

/// Makes the running thread a target, until this is dropped.
pub struct Target(&'static AtomicI32);

impl Target {
    pub fn new(part: &'static str) -> Self {
        PART.set(part);
        // SAFETY: only asks.
        let thread = unsafe { libc::gettid() };
        let free = |place: &&AtomicI32| place.compare_exchange(0, thread, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        Self(TARGETS.iter().find(free).expect("far fewer threads at a time"))
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        self.0.store(0, Ordering::Relaxed);
    }
}

extern "C" fn read(_: c_int) {
    // SAFETY: the running thread's own.
    let error = unsafe { *libc::__errno_location() };
    let expected = life::expected();
    for found in life::look() {
        match found {
            None => _ = NOTHING.fetch_add(u64::from(expected != 0), Ordering::Relaxed),
            Some(found) if expected == 0 || found == expected => _ = FOUND.fetch_add(1, Ordering::Relaxed),
            Some(found) => panic!("a signal handler on the stack of life {expected} read the value of life {found}"),
        }
    }
    // SAFETY: as above.
    unsafe { *libc::__errno_location() = error };
}

extern "C" fn fault(signal: c_int) {
    let part = PART.get();
    let parts = ["soak: signal ", if signal == libc::SIGSEGV { "SIGSEGV" } else { "SIGBUS" }, " in ", part, "\n"];
    for text in parts {
        // SAFETY: the kernel reads the text's bytes.
        unsafe { libc::write(libc::STDERR_FILENO, text.as_ptr().cast(), text.len()) };
    }
    // SAFETY: restores the system's action, because the faulting instruction runs again.
    unsafe { libc::signal(signal, libc::SIG_DFL) };
}

fn handle(signal: c_int, handler: extern "C" fn(c_int), flags: c_int) {
    // SAFETY: both handlers are safe at any moment: they read, count, and make system calls.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as *const () as usize;
        action.sa_flags = flags;
        assert_eq!(libc::sigaction(signal, &raw const action, std::ptr::null_mut()), 0);
    }
}

pub fn install() {
    life::prepare();
    handle(libc::SIGUSR1, read, libc::SA_RESTART);
    handle(libc::SIGSEGV, fault, libc::SA_ONSTACK);
    handle(libc::SIGBUS, fault, libc::SA_ONSTACK);
}

/// Blocks signals while `code` runs, which has no room for a handler.
pub fn without<R>(code: impl FnOnce() -> R) -> R {
    mask(libc::SIG_BLOCK);
    let result = code();
    mask(libc::SIG_UNBLOCK);
    result
}

/// Unblocks signals while `code` runs in the middle of `without`.
pub fn with<R>(code: impl FnOnce() -> R) -> R {
    mask(libc::SIG_UNBLOCK);
    let result = code();
    mask(libc::SIG_BLOCK);
    result
}

fn mask(how: c_int) {
    // SAFETY: a set of one signal, for the running thread.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGUSR1);
        libc::pthread_sigmask(how, &raw const set, std::ptr::null_mut());
    }
}

/// Sends signals until the run is over: in bursts, with pauses from none to some microseconds.
pub fn send(over: impl Fn() -> bool) {
    let mut random = fastrand::Rng::new();
    while !over() {
        for _ in 0..random.u32(1..200) {
            // From any place on, the next one that is taken.
            let (before, after) = TARGETS.split_at(random.usize(..TARGETS.len()));
            let mut threads = after.iter().chain(before).map(|target| target.load(Ordering::Relaxed));
            let Some(thread) = threads.find(|&thread| thread != 0) else { continue };
            // SAFETY: the system refuses a number that is no thread any more. Any other one has the
            // handler.
            unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), thread, libc::SIGUSR1) };
            SENT.fetch_add(1, Ordering::Relaxed);
            for _ in 0..random.u32(..3000) {
                std::hint::spin_loop();
            }
        }
        std::thread::sleep(Duration::from_micros(random.u64(..300)));
    }
}

/// Signals sent, and the reads of their handlers: those that found the value, and those that found
/// none.
pub fn counts() -> [u64; 3] {
    [&SENT, &FOUND, &NOTHING].map(|count| count.load(Ordering::Relaxed))
}
