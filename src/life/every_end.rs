//! The function that is called at the end of every thread, and under code redirect of `main`, armed
//! or not: `call` registers it, `take_back` takes it back, `report` calls it from a hook.
//! `restore_code` puts the exit trampolines back.

use super::ending;
use crate::base::alloc::{refused, try_box};
use crate::base::ending::{Ending, StackEnd};
use crate::base::error::Error;
use crate::base::guard::isolated;
use crate::base::kind::Kind;
use crate::exit::redirect::{return_points, sites};
use crate::machine::arch;
use crate::record::stacks::STACKS;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};

/// A function that is called with each end.
pub(crate) type Function = dyn Fn(&StackEnd) + Send + Sync;

/// Which ends a function is called at.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Whose {
    /// Those of threads and of `main`: the process uses code redirect.
    All,
    /// Those of threads: the process uses either redirect.
    Threads,
}

/// A registered function. It is never freed: a thread may be calling it.
pub(crate) struct Registered {
    function: Box<Function>,
    whose: Whose,
    /// Whether exeunt can tell how a thread ends, without an experiment.
    knows_ends: bool,
}

/// The registered function; null if there is none.
static REGISTERED: AtomicPtr<Registered> = AtomicPtr::new(ptr::null_mut());

/// Whether `main` has ended. It may meet two hooks: if it ends by `pthread_exit`, as the last thread,
/// libc calls `exit` next.
static MAIN_HAS_ENDED: AtomicBool = AtomicBool::new(false);

/// Calls the function that is registered, if the running stack is a thread's or main's.
///
/// # Safety
/// Only for the hook, with what it gets. `slot` holds the address that the hook returns to.
#[inline]
pub(super) unsafe fn report(slot: *const usize, base: usize, is_armed: bool) {
    let registered = REGISTERED.load(Ordering::Acquire);
    // SAFETY: null, or leaked by `call`.
    if let Some(registered) = unsafe { registered.as_ref() } {
        // SAFETY: the caller's promise.
        report_to(registered, arch::strip(unsafe { slot.read() }), base, is_armed);
    }
}

#[cold]
fn report_to(registered: &'static Registered, address: usize, base: usize, is_armed: bool) {
    let Some(kind @ (Kind::Thread | Kind::Main)) = return_points::kind(address) else { return };
    // Another part of the program may have armed main's stack by code redirect.
    if kind == Kind::Main && registered.whose == Whose::Threads {
        return;
    }
    if kind == Kind::Main && MAIN_HAS_ENDED.swap(true, Ordering::Relaxed) {
        return;
    }
    let (ending, value) = if registered.knows_ends { ending::at_hook(kind, base) } else { (Ending::Unknown, None) };
    isolated(|| (registered.function)(&StackEnd { kind, ending, value, is_armed }));
}

/// Has `function` called at each of these ends from now on. Patches the exit trampolines of all
/// threads, and of `main` if its end is one of them.
#[cfg(target_env = "gnu")]
pub(crate) fn call(
    function: impl Fn(&StackEnd) + Send + Sync + 'static,
    whose: Whose,
) -> Result<&'static Registered, Error> {
    use super::arm::before_patching;
    use crate::base::redirect::Redirect;
    use crate::exit::redirect::choice;
    use crate::exit::{known_kinds, trampoline};

    // The hook drains the stacks alone that code redirect has armed (`drains_at_hook`). At the end of
    // one that slot redirect has armed, its trampoline has run before.
    if let Some(chosen) = choice::chosen().filter(|&chosen| whose == Whose::All && chosen != Redirect::Code) {
        return Err(Error::RedirectChosen { chosen, wanted: Redirect::Code });
    }
    if !REGISTERED.load(Ordering::Relaxed).is_null() {
        return Err(Error::EveryEndTaken);
    }
    let function: Box<Function> = try_box(function).map_err(|_| refused())?;
    let knows_ends = ending::knows_ends();
    let registered = Box::into_raw(try_box(Registered { function, whose, knows_ends }).map_err(|_| refused())?);
    let register = || {
        if whose == Whose::All {
            choice::make(Redirect::Code)?;
        }
        let done = REGISTERED.compare_exchange(ptr::null_mut(), registered, Ordering::AcqRel, Ordering::Relaxed);
        done.map(drop).map_err(|_| Error::EveryEndTaken)
    };
    let recognised = match whose {
        Whose::All => known_kinds::recognise(),
        Whose::Threads => known_kinds::recognise_threads(),
    };
    let called = recognised.and_then(|()| {
        let of_threads = |number: &usize| match trampoline::kind(*number) {
            Kind::Thread => !trampoline::is_landing(*number),
            Kind::Main => whose == Whose::All && !trampoline::is_landing(*number),
            _ => false,
        };
        let mut numbers = [0; trampoline::COUNT];
        let count = numbers
            .iter_mut()
            .zip((0..trampoline::known()).filter(of_threads))
            .map(|(to, number)| *to = number)
            .count();
        sites::ensure_all(&numbers[..count], before_patching, register)
    });
    match called {
        // SAFETY: leaked.
        Ok(()) => Ok(unsafe { &*registered }),
        Err(error) => {
            // SAFETY: not registered, so no other code has it.
            drop(unsafe { Box::from_raw(registered) });
            Err(error)
        }
    }
}

/// As above. Not every end meets a hook here.
#[cfg(not(target_env = "gnu"))]
pub(crate) fn call(_: impl Fn(&StackEnd) + Send + Sync + 'static, _: Whose) -> Result<&'static Registered, Error> {
    let found = "with this C library a thread that ends by pthread_exit or by cancellation reaches no call that could \
                 be patched, so not every end would be reported";
    Err(Error::NoCodeSite(found.into()))
}

/// Takes the function back: no call of it begins from now on. Returns whether it was registered.
pub(crate) fn take_back(registered: &'static Registered) -> bool {
    let registered = ptr::from_ref(registered).cast_mut();
    REGISTERED.compare_exchange(registered, ptr::null_mut(), Ordering::AcqRel, Ordering::Relaxed).is_ok()
}

/// Takes back whatever function is registered. Returns whether there was one.
#[cfg(feature = "capi")]
pub(crate) fn take_back_any() -> bool {
    !REGISTERED.swap(ptr::null_mut(), Ordering::AcqRel).is_null()
}

/// Puts the code of all exit trampolines back, if neither an armed stack nor the registered function
/// needs it.
pub(crate) fn restore_code() -> Result<(), Error> {
    sites::restore(|| {
        // The stacks of `enter` end in code of exeunt's own. No hook meets the records of threads
        // that only the parent of this process has (`fork.rs`).
        let needs_code = |record: &&crate::record::header::Record| {
            record.is_armed() && record.drains_at_hook() && record.kind() != Kind::Entered
        };
        let armed = STACKS.all().filter(needs_code).count();
        let every_end = !REGISTERED.load(Ordering::Relaxed).is_null();
        (armed > 0 || every_end).then_some(Error::CodeSitesInUse { armed, every_end })
    })
}
