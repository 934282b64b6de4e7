//! Stacks whose function never returns to an exit trampoline that is known: `enter`, `discard`, `register_trampoline`.
//!
//! Many fiber libraries end a fiber with a last switch. There the fiber's function is run inside [`enter`], which calls
//! it through a frame of ours: its return address lies in an exit trampoline that is always known. From there on all is
//! as on any other stack: armed at the first use, by slot redirect; nothing is paid by a fiber that uses nothing.

use crate::base::error::Error;
use crate::base::redirect::Method;
use crate::exit::recognition;
use crate::exit::redirect;
use crate::exit::trampoline;
use crate::life::drain;
use crate::life::lookup;
use crate::machine::arch::{stack_pointer, untagged};
use crate::record::stacks::STACKS;
use std::ffi::c_void;
use std::mem::ManuallyDrop;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

unsafe extern "C-unwind" {
    /// `asm/`: calls `call(data)`, having stored in `base` the stack pointer at which that will return.
    fn exeunt_call_entry(call: unsafe extern "C-unwind" fn(*mut c_void), data: *mut c_void, base: *mut usize);
    /// The same for code redirect: it drains by itself when `call` has returned.
    fn exeunt_call_entry_hooked(call: unsafe extern "C-unwind" fn(*mut c_void), data: *mut c_void, base: *mut usize);
}

/// Runs `entry` as this stack's entry function, on any stack at all.
///
/// Use it as the first thing on a fiber whose library never returns from it (corosensei, generator and may,
/// Boost.Context). What `entry` stores and registers is drained when it returns, and also when it is left by unwinding:
/// by a panic, by an exception, or by the forced unwinding with which such libraries drop a suspended fiber.
///
/// It is not for code in the middle of an armed stack, which has its end already. On a stack that is not armed it makes
/// a scope: an `enter` within an `enter` that has stored nothing yet is a scope of its own. Where the process ends in
/// `entry`, by `exit` for example, nothing is drained, also on the main thread.
///
/// # Errors
/// [`Error::AlreadyArmed`]; then `entry` has not run. And where the trampoline cannot be set up.
///
/// # Examples
/// ```
/// # std::thread::spawn(|| {
/// let sum = exeunt::enter(|| {
///     exeunt::at_exit(|| println!("the fiber is over")).unwrap();
///     1 + 1
/// })?;
/// assert_eq!(sum, 2);
/// assert!(!exeunt::Stack::current().is_armed());
/// # Ok::<(), exeunt::Error>(())
/// # }).join().unwrap().unwrap();
/// ```
#[inline]
pub fn enter<R>(entry: impl FnOnce() -> R) -> Result<R, Error> {
    ready()?;
    if let Some(record) = lookup::lookup_verified() {
        return Err(record.id().map_or(Error::Busy, Error::AlreadyArmed));
    }
    Ok(call(entry))
}

/// As [`enter`], on a stack whose memory is known to be `range`: it need not look who else is here, so it costs little
/// more than the call.
///
/// # Errors
/// [`Error::NotOnThatStack`] if the stack pointer is outside `range`, and [`Error::AlreadyArmed`] if this place is known
/// to belong to an armed stack. Then `entry` has not run.
///
/// # Safety
/// `range` must be the memory of the running stack, and no function further out on it may have armed it.
///
/// # Examples
/// ```
/// # std::thread::spawn(|| {
/// let all = 0..usize::MAX;
/// // SAFETY: the first function of this thread's stack, which is not armed.
/// assert_eq!(unsafe { exeunt::enter_on(all, || 7) }, Ok(7));
/// # }).join().unwrap();
/// ```
#[inline]
pub unsafe fn enter_on<R>(range: Range<usize>, entry: impl FnOnce() -> R) -> Result<R, Error> {
    ready()?;
    let sp = stack_pointer();
    if !(untagged(range.start)..untagged(range.end)).contains(&untagged(sp)) {
        return Err(Error::NotOnThatStack { stack_pointer: sp, range: (range.start, range.end) });
    }
    if let Some(record) = STACKS.find(sp).filter(|record| lookup::is_verified(record, sp)) {
        return Err(record.id().map_or(Error::Busy, Error::AlreadyArmed));
    }
    Ok(call(entry))
}

#[inline(always)]
fn ready() -> Result<(), Error> {
    static READY: AtomicBool = AtomicBool::new(false);

    #[cold]
    fn get_ready() -> Result<(), Error> {
        let address = match redirect::choice::made()? {
            Method::Slot => trampoline::enter_return(),
            Method::Code => trampoline::hooked_return(),
        };
        recognition::add_enter(address)?;
        READY.store(true, Ordering::Release);
        Ok(())
    }

    if READY.load(Ordering::Acquire) { Ok(()) } else { get_ready() }
}

/// A closure before the call, and its result after it.
union Work<F, R> {
    entry: ManuallyDrop<F>,
    result: ManuallyDrop<R>,
}

/// Drains the scope when `entry` is left by unwinding; a return has gone through the trampoline.
struct Scope {
    base: usize,
    returned: bool,
}

impl Drop for Scope {
    #[inline]
    fn drop(&mut self) {
        if !self.returned {
            drain_unwound(self.base);
        }
    }
}

#[cold]
fn drain_unwound(base: usize) {
    if let Some(record) = STACKS.by_base(base) {
        drain::without_return(record);
    }
}

#[inline]
fn call<F: FnOnce() -> R, R>(entry: F) -> R {
    unsafe extern "C-unwind" fn run<F: FnOnce() -> R, R>(work: *mut c_void) {
        let work = work.cast::<Work<F, R>>();
        // SAFETY: `call` filled in `entry`, and this is the only one who takes it.
        let entry = unsafe { ManuallyDrop::take(&mut (*work).entry) };
        let result = entry();
        // SAFETY: the closure is gone, so its place is free for the result.
        unsafe { (*work).result = ManuallyDrop::new(result) };
    }

    let mut work: Work<F, R> = Work { entry: ManuallyDrop::new(entry) };
    let mut scope = Scope { base: 0, returned: false };
    // SAFETY: `run` fits `work`, and the assembly calls it once. It may unwind: the assembly's frame has unwind tables.
    unsafe {
        if redirect::choice::is_code() {
            exeunt_call_entry_hooked(run::<F, R>, (&raw mut work).cast(), &raw mut scope.base);
        } else {
            exeunt_call_entry(run::<F, R>, (&raw mut work).cast(), &raw mut scope.base);
        }
    }
    scope.returned = true;
    // SAFETY: `run` has returned, so it has stored the result.
    unsafe { ManuallyDrop::into_inner(work.result) }
}

/// Makes a runtime's wrapper known as an exit trampoline: the code in `code`, which calls a fiber's function and, when
/// that returns, goes on to end the fiber (minicoro's `_mco_main`, libtask's `taskstart`). The stacks of such fibers can
/// then be armed from inside, and nobody has to change the runtime.
///
/// `name` is what [`Stack`](crate::Stack) shows.
///
/// The wrapper gets its function's result if that is an integer, a pointer, `float`, `double`, `long double`, a vector of up to 128
/// bits, or a structure of these that the ABI returns in registers or in memory. Of wider vectors (AVX on x86_64, SVE on aarch64) it
/// gets the lower 128 bits, where a handler changes the rest; SVE's predicates are lost likewise. Nor is anything kept that functions
/// of a vector calling convention keep for their callers beyond what the ABI says of others. Let such functions store their result in
/// memory.
///
/// # Errors
/// [`Error::TooManyWrappers`] when 32 are registered. To register the same code again changes nothing.
///
/// # Safety
/// Every function that returns into `code` must be a stack's entry function, `code` must stay loaded, and it must make
/// the calls with ordinary frames that the unwind tables describe.
///
/// # Examples
/// ```
/// extern "C" fn wrapper() { /* calls the fiber's function, then switches away for ever */ }
/// let start = wrapper as *const () as usize;
/// // SAFETY: only fibers' functions are called from there.
/// unsafe { exeunt::register_trampoline("wrapper", start..start + 1) }?;
/// # Ok::<(), exeunt::Error>(())
/// ```
pub unsafe fn register_trampoline(name: &str, code: Range<usize>) -> Result<(), Error> {
    recognition::register(name, code)
}
