//! Stacks whose function never returns to a known exit trampoline: [`enter`], [`enter_on`],
//! [`register_trampoline`].
//!
//! Many fiber libraries end a fiber with a last switch. [`enter`] runs the fiber's function and
//! calls it through a frame of exeunt's: the function's return address lies in an exit trampoline
//! that is always known. From there on the stack is as any other: it is armed at the first use. A
//! fiber that uses nothing pays nothing.

use crate::base::ending::Cause;
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
    /// `asm/`: stores in `base` the stack pointer at which `call` will return, and calls
    /// `call(data)`.
    fn exeunt_call_entry(call: unsafe extern "C-unwind" fn(*mut c_void), data: *mut c_void, base: *mut usize);
    /// The same for code redirect: the assembly drains when `call` has returned.
    fn exeunt_call_entry_hooked(call: unsafe extern "C-unwind" fn(*mut c_void), data: *mut c_void, base: *mut usize);
}

/// Runs `entry` as this stack's entry function, on any stack at all.
///
/// Call it first on a fiber whose library never returns from the fiber's function (corosensei,
/// generator and may, Boost.Context). What `entry` stores and registers is drained when it returns,
/// and also when unwinding leaves it: by a panic, by an exception, or by the forced unwinding with
/// which such libraries drop a suspended fiber.
///
/// It is not for code in the middle of an armed stack, which has its end already. On a stack that
/// is not armed it makes a scope: an `enter` within an `enter` that has stored nothing yet is a
/// scope of its own. If the process ends in `entry`, by `exit` for example, nothing is drained,
/// also on the main thread.
///
/// # Errors
/// [`Error::AlreadyArmed`], or an error if the trampoline cannot be set up. Then `entry` has not
/// run.
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

/// As [`enter`], on a stack whose memory is `range`. It does not search for an armed stack here, so
/// it costs little more than the call.
///
/// # Errors
/// [`Error::NotOnThatStack`] if the stack pointer is outside `range`. [`Error::AlreadyArmed`] if
/// the stack map gives this place to an armed stack. Then `entry` has not run.
///
/// # Safety
/// `range` must be the memory of the running stack, and no outer function on it may have armed it.
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
        return Err(Error::NotOnThatStack { stack_pointer: sp, range });
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

/// Holds the closure before the call, and its result afterwards.
union Work<F, R> {
    entry: ManuallyDrop<F>,
    result: ManuallyDrop<R>,
}

/// Drains the scope when unwinding leaves `entry`. After a return the trampoline has drained it.
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
        drain::without_return(record, Cause::Unwound);
    }
}

#[inline]
fn call<F: FnOnce() -> R, R>(entry: F) -> R {
    unsafe extern "C-unwind" fn run<F: FnOnce() -> R, R>(work: *mut c_void) {
        let work = work.cast::<Work<F, R>>();
        // SAFETY: `call` filled in `entry`, and only this function takes it, once.
        let entry = unsafe { ManuallyDrop::take(&mut (*work).entry) };
        let result = entry();
        // SAFETY: the closure was taken, so its place is free for the result.
        unsafe { (*work).result = ManuallyDrop::new(result) };
    }

    let mut work: Work<F, R> = Work { entry: ManuallyDrop::new(entry) };
    let mut scope = Scope { base: 0, returned: false };
    // SAFETY: `run` takes a `Work<F, R>`, and the assembly calls it once. It may unwind: the
    // assembly's frame has unwind tables.
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

/// Registers a runtime's wrapper as an exit trampoline: the code in `code`, which calls a fiber's
/// function and ends the fiber when that returns (minicoro's `_mco_main`, libtask's `taskstart`).
/// Then the stacks of such fibers can be armed from inside, and the runtime stays as it is.
///
/// [`Stack`](crate::Stack) shows `name`.
///
/// The wrapper gets its function's result if that is an integer, a pointer, `float`, `double`,
/// `long double`, a vector of up to 128 bits, or a structure of these that the ABI returns in
/// registers or in memory. Of wider vectors (AVX on x86_64, SVE on aarch64) it gets the lower 128
/// bits, if a handler changes the rest. SVE's predicates are lost likewise. Functions of a vector
/// calling convention keep more registers for their callers than the ABI asks of others. These are
/// lost as well. Let such functions store their result in memory.
///
/// # Errors
/// [`Error::TooManyWrappers`] if 32 are registered. Registering the same code again changes
/// nothing.
///
/// # Safety
/// Every function that returns into `code` must be a stack's entry function. `code` must stay
/// loaded. It must make the calls with ordinary frames that the unwind tables describe.
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
