//! Patches exit trampolines, each once per process. `ensure` and `ensure_all` patch, `restore` undoes
//! that, `problem` and `survey` say what they would do.

use super::code_site::CodeSite;
use super::return_points;
use super::site_refusal::{refused, refused_before};
use super::site_search::{APPLIED, Applied, Found, HookEntry, Sites, find};
use crate::base::error::Error;
use crate::base::kind::Kind;
use crate::exit::process_lock::{Experiment, ProcessLock};
use crate::exit::recognition;
use crate::exit::trampoline;
use exeunt_patch::Patch;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, Ordering, fence};

/// Whether all sites of trampoline N are patched.
static DONE: [AtomicBool; trampoline::COUNT] = [const { AtomicBool::new(false) }; trampoline::COUNT];

/// Whether stacks of trampoline N have an end that meets no hook, so that their landings have to be
/// redirected.
static LANDING_BYPASSES_HOOK: [AtomicBool; trampoline::COUNT] = [const { AtomicBool::new(false) }; trampoline::COUNT];

/// More bytes than patching one exit trampoline allocates.
const PATCHING: usize = 256 * 1024;

/// Patches the exit trampoline `number`, if that was not done yet. After an error none of it is
/// patched. `before_patching` runs first.
pub(super) fn ensure(number: usize, before_patching: fn() -> Result<(), Error>) -> Result<(), Error> {
    if DONE[number].load(Ordering::Acquire) {
        return Ok(());
    }
    get_ready(number, before_patching)?;
    recognition::locked(|lock| {
        let before = APPLIED.lock().unwrap_or_else(PoisonError::into_inner).len();
        patch_sites(lock, number).inspect_err(|_| undo_from(before))?;
        DONE[number].store(true, Ordering::Release);
        Ok(())
    })
}

/// Patches the exit trampolines of these numbers, and then runs `last`. After an error of either,
/// what this call has patched is as it was.
#[cfg(target_env = "gnu")]
pub(crate) fn ensure_all(
    numbers: &[usize],
    before_patching: fn() -> Result<(), Error>,
    last: impl FnOnce() -> Result<(), Error>,
) -> Result<(), Error> {
    for &number in numbers {
        get_ready(number, before_patching)?;
    }
    recognition::locked(|lock| {
        let before = APPLIED.lock().unwrap_or_else(PoisonError::into_inner).len();
        let is_new = |number: &&usize| !DONE[**number].load(Ordering::Acquire);
        let mut patched = numbers.iter().filter(is_new).try_for_each(|&number| patch_sites(lock, number));
        if patched.is_ok() {
            patched = last();
        }
        // No stack relies on the new patches before they are marked as done.
        patched.inspect_err(|_| undo_from(before))?;
        numbers.iter().for_each(|&number| DONE[number].store(true, Ordering::Release));
        Ok(())
    })
}

/// What patching needs before it takes the process lock. `before_patching` runs last.
fn get_ready(number: usize, before_patching: fn() -> Result<(), Error>) -> Result<(), Error> {
    if let Some(error) = refused_before(number).filter(|_| !is_left_to_net(number)) {
        return Err(error);
    }
    // The search and the patch use std's collections, which end the process without memory.
    if !crate::machine::os::has_memory(PATCHING) {
        return Err(Error::OutOfMemory);
    }
    {
        let _experiment = Experiment::begin()?;
        // First: a `fork` that begins while code is written must run the handlers that this
        // registers.
        before_patching()?;
    }
    learn(number)
}

/// Patches the sites of the exit trampoline `number`. After an error some may be patched.
fn patch_sites(lock: &ProcessLock, number: usize) -> Result<(), Error> {
    // Under the lock: what another thread has half patched has no known shape.
    let sites = match find(number) {
        Err(_) if is_left_to_net(number) => Sites { found: Vec::new(), landing_bypasses_hook: false },
        sites => sites?,
    };
    let mut applied = APPLIED.lock().unwrap_or_else(PoisonError::into_inner);
    for found in sites.found {
        patch(lock, found, &mut applied, number)?;
    }
    LANDING_BYPASSES_HOOK[number].store(sites.landing_bypasses_hook, Ordering::Relaxed);
    Ok(())
}

/// Undoes the patches behind the first `before`, under the process lock. Writing has worked a moment
/// ago. If it fails now, the hook stays, and does nothing on stacks without a record.
fn undo_from(before: usize) {
    let mut applied = APPLIED.lock().unwrap_or_else(PoisonError::into_inner);
    let undone = applied.split_off(before);
    applied.extend(undone.into_iter().filter_map(|mut kept| kept.patch.undo().is_err().then_some(kept)));
}

/// Whether the exit trampoline `number` is patched. [`restore`] may have changed that.
pub(super) fn is_patched(number: usize) -> bool {
    // In the order of all such accesses, after the record was armed and before `restore` looks for
    // armed records, or the other way around: one of the two sees the other.
    fence(Ordering::SeqCst);
    DONE[number].load(Ordering::SeqCst)
}

/// Undoes all patches, if `refuse` gives no error. It runs when [`is_patched`] is false already, so
/// a stack that is armed afterwards patches its exit trampoline again. After an error all is as it
/// was; or, where a patch that was undone cannot be applied again, as if no trampoline were marked
/// as patched: then the next stack that is armed patches what is missing.
pub(crate) fn restore(refuse: impl FnOnce() -> Option<Error>) -> Result<(), Error> {
    recognition::locked(|_| {
        let was_done: [bool; trampoline::COUNT] =
            std::array::from_fn(|number| DONE[number].swap(false, Ordering::SeqCst));
        let keep = |error| {
            DONE.iter().zip(was_done).for_each(|(done, was_done)| done.store(was_done, Ordering::Release));
            Err(error)
        };
        fence(Ordering::SeqCst);
        if let Some(error) = refuse() {
            return keep(error);
        }
        let mut applied = APPLIED.lock().unwrap_or_else(PoisonError::into_inner);
        for at in (0..applied.len()).rev() {
            if let Err(error) = applied[at].patch.undo() {
                for undone in &mut applied[at + 1..] {
                    // SAFETY: as when it was applied first.
                    let _ = unsafe { undone.patch.apply() };
                }
                let before = applied.len();
                applied.retain(|kept| kept.patch.is_applied());
                let is_whole = applied.len() == before;
                let error = Error::NoCodeSite(format!("{error}").into());
                return if is_whole { keep(error) } else { Err(error) };
            }
        }
        applied.clear();
        Ok(())
    })
}

/// Prepares the search for sites of the exit trampoline `number`. At the other end of `main` there
/// is a call that threads make as well, so the threads' exit trampoline has to be known.
fn learn(number: usize) -> Result<(), Error> {
    if trampoline::kind(number) == Kind::Main { recognition::probe() } else { Ok(()) }
}

/// Whether stacks of the patched exit trampoline `number` have an end that meets no hook, so that
/// their landing has to be redirected as well.
pub(super) fn landing_bypasses_hook(number: usize) -> bool {
    LANDING_BYPASSES_HOOK[number].load(Ordering::Relaxed)
}

/// Why the exit trampoline `number` cannot be patched, if it cannot.
pub(super) fn problem(number: usize) -> Option<Error> {
    if DONE[number].load(Ordering::Acquire) {
        return None;
    }
    let search = |_: &ProcessLock| match find(number) {
        Ok(sites) => Ok(sites.found.into_iter().find_map(|found| plan(found, number, &|_| Ok(0)).err())),
        Err(_) if is_left_to_net(number) => Ok(None),
        Err(error) => Err(error),
    };
    learn(number).and_then(|()| recognition::locked(search)).unwrap_or_else(Some)
}

/// Describes the sites of the exit trampoline `number`.
pub(crate) fn survey(number: usize) -> Vec<CodeSite> {
    let looked = learn(number).and_then(|()| recognition::locked(|_| Ok(look(number))));
    looked.unwrap_or_else(|error| vec![CodeSite { problem: Some(error), ..CodeSite::blank(number) }])
}

fn look(number: usize) -> Vec<CodeSite> {
    let blank = CodeSite::blank(number);
    let found = match find(number) {
        Ok(sites) => sites.found,
        Err(Error::NoCodeSite(found)) if is_left_to_net(number) => {
            let found = format!("{found}; so the safety net drains main's stack, when exit runs");
            return vec![CodeSite { problem: Some(Error::NoCodeSite(found.into())), ..blank }];
        }
        Err(error) => return vec![CodeSite { problem: Some(error), ..blank }],
    };
    let applied = APPLIED.lock().unwrap_or_else(PoisonError::into_inner);
    let of = |found: Found| {
        let address = found.site.address().addr();
        let behind = found.site.next().map_or(0, |next| next.address().addr());
        let shown = |patch: &Patch| CodeSite {
            address,
            behind,
            before: patch.before().to_string(),
            after: patch.after().to_string(),
            stub: patch.stub().map(<*const u8>::addr),
            applied: patch.is_applied(),
            ..blank.clone()
        };
        match applied.iter().find(|applied| applied.address == address) {
            Some(known) => shown(&known.patch),
            None => match plan(found, number, &|_| Ok(0)) {
                Ok((patch, _)) => shown(&patch),
                Err(error) => CodeSite { address, behind, problem: Some(error), ..blank.clone() },
            },
        }
    };
    found.into_iter().map(of).collect()
}

/// Plans the patch. Returns it with the target that the hook goes on to. `hook` gives the number of
/// a hook that goes on to a target.
fn plan(found: Found, number: usize, hook: &dyn Fn(usize) -> Result<usize, Error>) -> Result<(Patch, usize), Error> {
    let address = |address: usize| std::ptr::with_exposed_provenance::<u8>(address);
    let refused = refused(number);
    match found.entered {
        HookEntry::ByCall => {
            let target = found.site.target().map_err(&refused)?;
            let hook = trampoline::hook(hook(target.addr())?);
            Ok((found.site.retarget(target, address(hook)).map_err(&refused)?, target.addr()))
        }
        #[cfg(target_arch = "x86_64")]
        HookEntry::ByContextCall => {
            let target = found.site.target().map_err(&refused)?;
            let hook = address(trampoline::context_hook());
            Ok((found.site.retarget(target, hook).map_err(&refused)?, target.addr()))
        }
        #[cfg(target_arch = "aarch64")]
        HookEntry::ByContextBranch => {
            // SAFETY: x16 is free where a function returns to (AAPCS64, 6.1.1), and __start_context
            // does not set it.
            let site = unsafe { found.site.x16_is_free() };
            let patch = site.divert(address(trampoline::context_hook())).map_err(&refused)?;
            let resume = patch.resume().map_or(0, <*const u8>::addr);
            Ok((patch, resume))
        }
    }
}

/// How often a patch is planned anew if another thread takes the page for its stub.
const MOST_TRIES: usize = 1000;

/// Patches one place, if it is not patched yet: two exit trampolines can share one.
fn patch(lock: &ProcessLock, found: Found, applied: &mut Vec<Applied>, number: usize) -> Result<(), Error> {
    let address = found.site.address().addr();
    if applied.iter().any(|known| known.address == address) {
        return Ok(());
    }
    if applied.len() == trampoline::HOOKS {
        return Err(Error::TooManyTrampolines);
    }
    // Room for the push below: an applied patch that is not stored could not be undone.
    applied.try_reserve(1).map_err(|_| Error::OutOfMemory)?;
    return_points::add(found.site.next().map_err(refused(number))?.address().addr(), trampoline::kind(number));
    let mut tries = 0;
    let (patch, target) = loop {
        // The hook is complete before any thread can reach it.
        let (mut patch, target) = plan(found, number, &|target| trampoline::hook_to(lock, target))?;
        match found.entered {
            HookEntry::ByCall => {}
            #[cfg(target_arch = "x86_64")]
            HookEntry::ByContextCall => trampoline::set_context_hook(lock, target, 0)?,
            #[cfg(target_arch = "aarch64")]
            HookEntry::ByContextBranch => trampoline::set_context_hook(lock, target, address + 4)?,
        }
        // SAFETY: the hooks keep the registers that a call keeps and go on to the target, so they
        // may be entered wherever that may. This library is pinned, and libc stays loaded. That
        // other code changes protections of libc's code at this moment cannot be excluded.
        match unsafe { patch.apply() } {
            Ok(()) => break (patch, target),
            // Another thread has mapped the page that was free for the stub.
            Err(exeunt_patch::Error::StubTaken { .. }) if tries < MOST_TRIES => tries += 1,
            Err(error) => return Err(refused(number)(error)),
        }
    };
    applied.push(Applied { patch, address, target });
    Ok(())
}

/// Whether a stack of the exit trampoline `number` is armed even if no site is found. dyld's
/// `start` calls `exit` through a table since macOS 12. `main` has no end but `exit` and
/// `pthread_exit` there, and both run the safety net, which main's stack has in any case.
fn is_left_to_net(number: usize) -> bool {
    cfg!(target_os = "macos") && trampoline::kind(number) == Kind::Main
}
