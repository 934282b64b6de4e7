//! Stacks whose function never returns to an exit trampoline that is known: `enter`, `discard`, `register_trampoline`.
//!
//! Many fiber libraries end a fiber with a last switch. There the fiber's function is run inside [`enter`], which calls
//! it through a frame of ours: its return address lies in an exit trampoline that is always known. From there on all is
//! as on any other stack: armed at the first use, by slot redirect; nothing is paid by a fiber that uses nothing.

use crate::base::error::Error;
use crate::base::redirect::Way;
use crate::exit::recognition;
use crate::exit::redirect;
use crate::life::arm;
use crate::life::drain;
use crate::machine::arch::{stack_pointer, untagged};
use crate::map::stack_map;
use crate::storage::inline_cache;
use std::ffi::c_void;
use std::mem::ManuallyDrop;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

unsafe extern "C-unwind" {
    /// `asm/`: calls `call(data)`, having stored in `top` the stack pointer at which that will return.
    fn exeunt_call_entry(call: unsafe extern "C-unwind" fn(*mut c_void), data: *mut c_void, top: *mut usize);
    /// The same for code redirect: it drains by itself when `call` has returned.
    fn exeunt_call_entry_hooked(call: unsafe extern "C-unwind" fn(*mut c_void), data: *mut c_void, top: *mut usize);
}

unsafe extern "C" {
    safe fn exeunt_enter_return();
    safe fn exeunt_hooked_return();
}

/// Where functions return to that `exeunt_call_entry` has called. The word at their stack's top holds this address.
pub(crate) fn enter_return() -> usize {
    exeunt_enter_return as *const () as usize
}

/// Where functions return to that `exeunt_call_entry_hooked` has called.
pub(crate) fn hooked_return() -> usize {
    exeunt_hooked_return as *const () as usize
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
    if let Some(record) = arm::lookup_certain() {
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
    if let Some(record) = stack_map::find(sp).filter(|record| arm::is_certain(record, sp)) {
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
            Way::Slot => enter_return(),
            Way::Code => hooked_return(),
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
    top: usize,
    returned: bool,
}

impl Drop for Scope {
    #[inline]
    fn drop(&mut self) {
        if !self.returned {
            drain_unwound(self.top);
        }
    }
}

#[cold]
fn drain_unwound(top: usize) {
    if let Some(record) = stack_map::by_top(top) {
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
    let mut scope = Scope { top: 0, returned: false };
    // SAFETY: `run` fits `work`, and the assembly calls it once. It may unwind: the assembly's frame has unwind tables.
    unsafe {
        if redirect::choice::is_code() {
            exeunt_call_entry_hooked(run::<F, R>, (&raw mut work).cast(), &raw mut scope.top);
        } else {
            exeunt_call_entry(run::<F, R>, (&raw mut work).cast(), &raw mut scope.top);
        }
    }
    scope.returned = true;
    // SAFETY: `run` has returned, so it has stored the result.
    unsafe { ManuallyDrop::into_inner(work.result) }
}

/// Says that the stacks in `range` will never run again, although their functions have not returned, and that other
/// stacks may use this memory from now on. For runtimes that free the memory of a suspended fiber, or that cut stacks out
/// of memory which was part of a stack before. Returns how many armed stacks there were.
///
/// Each of them is drained here and now: its handlers run and its values are dropped, on the stack that calls. So what
/// they do with storage they do with the caller's. Call it before the memory is unmapped or given to somebody else. A handler
/// in which the caller's stack is itself left for ever (a fiber that is never resumed, `exit`) takes those after it along: they
/// do not run.
///
/// On aarch64 also call it before the next fiber begins there, if that reads before it has stored something, or uses a stack local.
/// Functions store their return address where they please there, so the next fiber may leave the word as it is by which the old one is
/// known. What registers, stores under a key, deletes, resets or unloads makes a walk to see whose stack it is; a read does not, and
/// may find a value of the old one.
///
/// A fiber whose stack is a local array of a function needs it too, before it starts: the function's own stack may have
/// been deeper before, have used storage there, and would still be taken for the owner of those places. So does one on
/// any other part of an armed stack's memory.
///
/// # Safety
/// The stacks in `range` must be suspended for ever: neither resumed nor unwound, as some libraries do with a fiber that they
/// drop. Nobody must be running in `range`, and no other thread may go on using what those stacks
/// have borrowed or lent: their local variables, and the values that a [`with`](crate::with) there
/// has lent to a scoped thread. These are dropped here.
///
/// # Examples
/// ```
/// let memory = vec![0_u8; 64 * 1024];
/// // ... a fiber ran there, was suspended, and will not be resumed ...
/// let range = memory.as_ptr_range();
/// // SAFETY: nobody runs on this memory.
/// let armed = unsafe { exeunt::discard(range.start as usize..range.end as usize) };
/// assert_eq!(armed, 0);
/// ```
pub unsafe fn discard(range: Range<usize>) -> usize {
    let mut count = 0;
    for record in stack_map::all_in(range.clone()) {
        record.detach();
        record.end_abandoned();
        count += 1;
    }
    stack_map::disprove(&range);
    inline_cache::forget_all(&range);
    count
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
