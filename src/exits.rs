//! Recognising exit trampolines: once by experiment, and then, on a stack whose bottom is still unknown, by structure.

use crate::alloc::{leaked_name, try_box, try_vec};
use crate::error::{Error, Unrecognised};
use crate::os;
use crate::stack::Kind;
use crate::trampoline;
use std::ffi::CStr;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Held while trampolines are added: the process id of the holder, or zero.
///
/// A child of `fork` may find it held by a thread that it does not have. The id tells: then the child takes it over.
static HOLDER: AtomicI32 = AtomicI32::new(0);
static PROBED: AtomicBool = AtomicBool::new(false);

struct Lock {
    signals: libc::sigset_t,
}

impl Lock {
    fn take() -> Self {
        loop {
            if let Some(lock) = Self::take_within(Duration::MAX) {
                return lock;
            }
        }
    }

    fn take_within(patience: Duration) -> Option<Self> {
        // SAFETY: getpid only asks; the mask is filled in by pthread_sigmask. No handler may run here and want the lock.
        let (me, signals) = unsafe {
            let mut all: libc::sigset_t = std::mem::zeroed();
            let mut signals: libc::sigset_t = std::mem::zeroed();
            libc::sigfillset(&raw mut all);
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut signals);
            (libc::getpid(), signals)
        };
        let begin = Instant::now();
        loop {
            let holder = HOLDER.load(Ordering::Relaxed);
            let free = holder == 0 || holder != me;
            if free && HOLDER.compare_exchange(holder, me, Ordering::Acquire, Ordering::Relaxed).is_ok() {
                return Some(Self { signals });
            }
            if begin.elapsed() > patience {
                // SAFETY: puts back the mask that was found.
                unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const signals, std::ptr::null_mut()) };
                return None;
            }
            std::thread::yield_now();
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        HOLDER.store(0, Ordering::Release);
        // SAFETY: puts back the mask that `take` found.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.signals, std::ptr::null_mut()) };
    }
}

/// The lock, while a thread holds it over a fork.
#[cfg(code_redirect)]
struct Held {
    /// `pthread_self` of that thread, or zero. It is the same in the child.
    by: AtomicUsize,
    lock: std::cell::UnsafeCell<Option<Lock>>,
}

// SAFETY: only whoever holds the lock touches what is in the cell.
#[cfg(code_redirect)]
unsafe impl Sync for Held {}

#[cfg(code_redirect)]
static HELD: Held = Held { by: AtomicUsize::new(0), lock: std::cell::UnsafeCell::new(None) };

#[cfg(code_redirect)]
fn this_thread() -> usize {
    // SAFETY: only asks.
    unsafe { libc::pthread_self() as usize }
}

/// Takes the recognition lock for this thread until [`let_go`]; or not, if it is not free within `patience`.
#[cfg(code_redirect)]
pub(crate) fn hold(patience: Duration) {
    if let Some(lock) = Lock::take_within(patience) {
        // SAFETY: the lock is held.
        unsafe { *HELD.lock.get() = Some(lock) };
        HELD.by.store(this_thread(), Ordering::Relaxed);
    }
}

/// Gives back what [`hold`] has taken, if it has: on the same thread, or as its copy in a child of `fork`.
#[cfg(code_redirect)]
pub(crate) fn let_go() {
    // Another thread's number, or none, stays so: no other stores this one's.
    if HELD.by.load(Ordering::Relaxed) == this_thread() {
        HELD.by.store(0, Ordering::Relaxed);
        // SAFETY: this thread holds the lock.
        drop(unsafe { (*HELD.lock.get()).take() });
    }
}

/// Runs `code` with the recognition lock: nobody else adds trampolines or changes exit trampolines meanwhile.
#[cfg(code_redirect)]
pub(crate) fn locked<R>(code: impl FnOnce() -> R) -> R {
    let _uncancelled = os::Uncancelled::new();
    let _lock = Lock::take();
    os::pin();
    code()
}

/// Whether what a probe of this system finds is in the pool.
pub(crate) fn is_probed() -> bool {
    PROBED.load(Ordering::Acquire)
}

/// Adds what a probe of this system finds to the pool, if that was not done yet.
pub(crate) fn probe() -> Result<(), Error> {
    if is_probed() {
        return Ok(());
    }
    let _uncancelled = os::Uncancelled::new();
    let _lock = Lock::take();
    if is_probed() {
        return Ok(());
    }
    os::pin();
    let mut failed = None;
    os::probe(&mut |address, kind, name| {
        if let Err(error) = trampoline::add(address, kind, name) {
            failed.get_or_insert(error);
        }
    });
    if let Some(error) = failed {
        return Err(error);
    }
    PROBED.store(true, Ordering::Release);
    Ok(())
}

/// Looks for the exit trampoline of `main` among the return addresses of a stack, innermost first, and adds it. Returns
/// whether it is there.
pub(crate) fn recognise_main(addresses: &[usize]) -> Result<bool, Error> {
    let _uncancelled = os::Uncancelled::new();
    for (index, &address) in addresses.iter().enumerate().rev() {
        if os::main_exit(address, &addresses[index + 1..]) {
            let _lock = Lock::take();
            trampoline::add(address, Kind::Main, os::MAIN_EXIT)?;
            return Ok(true);
        }
    }
    Ok(false)
}

/// What a runtime has registered: where its wrapper's code is, and its name.
struct Registered {
    start: AtomicUsize,
    end: AtomicUsize,
    name: AtomicPtr<Name>,
}

/// A leaked name; a thin pointer to a fat one.
struct Name(&'static CStr);

pub(crate) const REGISTERED: usize = 32;
static REGISTRY: [Registered; REGISTERED] = [const {
    Registered { start: AtomicUsize::new(0), end: AtomicUsize::new(0), name: AtomicPtr::new(std::ptr::null_mut()) }
}; REGISTERED];
static REGISTERED_COUNT: AtomicUsize = AtomicUsize::new(0);

fn registered(address: usize) -> Option<&'static Registered> {
    let count = REGISTERED_COUNT.load(Ordering::Acquire);
    REGISTRY[..count].iter().find(|registered| {
        // A return address may be the first one behind the code that called.
        registered.start.load(Ordering::Relaxed) < address && address <= registered.end.load(Ordering::Relaxed)
    })
}

/// Whether the return address lies in a wrapper that a runtime has registered.
pub(crate) fn is_registered(address: usize) -> bool {
    registered(address).is_some()
}

/// Adds the return address, which lies in a registered wrapper, to the pool.
pub(crate) fn add_registered(address: usize) -> Result<(), Error> {
    let _uncancelled = os::Uncancelled::new();
    // SAFETY: leaked by `register`, and never changed.
    let name = registered(address).and_then(|found| unsafe { found.name.load(Ordering::Acquire).as_ref() });
    let _lock = Lock::take();
    os::pin();
    trampoline::add(address, Kind::Registered, name.map_or(c"?", |name| name.0)).map(drop)
}

/// Registers a wrapper's code, once.
pub(crate) fn register(name: &str, code: Range<usize>) -> Result<(), Error> {
    let _uncancelled = os::Uncancelled::new();
    let _lock = Lock::take();
    let count = REGISTERED_COUNT.load(Ordering::Relaxed);
    let is_this = |known: &Registered| {
        (known.start.load(Ordering::Relaxed), known.end.load(Ordering::Relaxed)) == (code.start, code.end)
    };
    if REGISTRY[..count].iter().any(is_this) {
        return Ok(());
    }
    let place = REGISTRY.get(count).ok_or(Error::TooManyWrappers)?;
    let name = Name(leaked_name(name.bytes())?);
    let name = Box::leak(try_box(name).map_err(|_| Error::OutOfMemory)?);
    place.start.store(code.start, Ordering::Relaxed);
    place.end.store(code.end, Ordering::Relaxed);
    place.name.store(name, Ordering::Release);
    REGISTERED_COUNT.store(count + 1, Ordering::Release);
    Ok(())
}

/// Makes the exit trampoline of [`enter`](crate::enter()) known.
pub(crate) fn add_enter(address: usize) -> Result<(), Error> {
    let _uncancelled = os::Uncancelled::new();
    let _lock = Lock::take();
    os::pin();
    trampoline::add(address, Kind::Entered, c"exeunt::enter").map(drop)
}

/// The trampoline that stands for `target`, where threads of the exit trampoline `number` land without a return.
pub(crate) fn landing_at(target: usize, number: usize) -> Result<usize, Error> {
    if let Some(known) = trampoline::standing_for(target) {
        return Ok(known);
    }
    let name = trampoline::name(number).to_bytes().iter().chain(b", unwound");
    let mut copy = try_vec(name.clone().count() + 1)?;
    copy.extend(name.chain(b"\0"));
    let name = CStr::from_bytes_with_nul(&copy).unwrap_or_default();
    let _uncancelled = os::Uncancelled::new();
    let _lock = Lock::take();
    let landing = trampoline::add(target, trampoline::kind(number), name)?;
    trampoline::set_landing(landing);
    Ok(landing)
}

/// The error for a stack with these return addresses, innermost first.
pub(crate) fn unrecognised(addresses: &[usize], reason: &'static str, advice: &'static str) -> Error {
    let _uncancelled = os::Uncancelled::new();
    let name = |address: usize| {
        let mut name = None;
        // A return address may be the first of the next function; the call is before it.
        backtrace::resolve((address - 1) as *mut _, |symbol| {
            if name.is_none() {
                // Without the hash that the compiler appends.
                name = symbol.name().map(|symbol| format!("{symbol:#}"));
            }
        });
        name
    };
    let address = addresses.last().copied().unwrap_or(0);
    Error::UnknownTrampoline(Box::new(Unrecognised {
        address,
        symbol: if address == 0 { None } else { name(address) },
        library: if address == 0 { None } else { os::object_file(address) },
        frames: addresses.iter().map(|&address| (address, name(address))).collect(),
        reason,
        advice,
    }))
}

#[cfg(all(test, code_redirect))]
mod tests {
    use super::*;

    #[test]
    fn a_fork_that_cannot_have_the_lock_in_time_goes_on_without_it_and_gives_nothing_back() {
        hold(Duration::MAX);
        let impatient = || {
            hold(Duration::from_millis(20));
            assert_ne!(HELD.by.load(Ordering::Relaxed), this_thread());
            let_go();
        };
        std::thread::scope(|scope| scope.spawn(impatient).join()).expect("no panic");
        assert_eq!(HELD.by.load(Ordering::Relaxed), this_thread());
        let_go();
        assert_eq!(HELD.by.load(Ordering::Relaxed), 0);
        // Signals are let in again, and the next one has it.
        hold(Duration::from_secs(60));
        assert_eq!(HELD.by.load(Ordering::Relaxed), this_thread());
        let_go();
    }
}
