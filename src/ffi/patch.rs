//! The patch engine for C: `exeunt_redirect_call` retargets one direct call or branch in running
//! code, and `exeunt_undo_redirect_call` undoes that.

use super::code::{Failure, shielded};
use std::ffi::{c_int, c_void};

/// Makes the direct call or branch at `site` lead to `new_target` instead of `expected_target`,
/// while other threads may be running there: each of them executes the old instruction or the new
/// one. If that is not possible, it is refused. Return addresses stay as they are. Code redirect
/// does the same to exit trampolines. This does it to code of your own choice.
///
/// Returns 0, `EXEUNT_EINVALID`, `EXEUNT_ENO_CODE_SITE`, `EXEUNT_ECALL_FAILED`, or `EXEUNT_EBUSY`
/// inside of another call that patches code (from an allocator). After an error nothing has
/// changed, and `exeunt_last_error` says why: what is at `site`, with bytes and disassembly, or
/// what the system refused.
///
/// Thread-safe. Not for signal handlers.
///
/// # Safety
/// `site` must be the first byte of an instruction in code that stays loaded, or no code at all.
/// Until you undo it, `new_target` must be good to enter wherever `expected_target` is. No other
/// code may change the protection of the page of `site` at the same time.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn exeunt_redirect_call(
    site: *mut c_void,
    expected_target: *const c_void,
    new_target: *const c_void,
) -> c_int {
    shielded(|| {
        if site.is_null() || new_target.is_null() {
            return Err(Failure::Invalid("exeunt_redirect_call: the site or the new target is null"));
        }
        // SAFETY: the caller's promises.
        unsafe { engine::redirect(site, expected_target, new_target) }
    })
}

/// Undoes `exeunt_redirect_call` at `site`: every byte is as before.
///
/// Returns 0, `EXEUNT_EINVALID`, or `EXEUNT_ENO_CODE_SITE` if nothing is redirected at `site`, or
/// if the system refuses now.
///
/// Thread-safe. Not for signal handlers.
#[unsafe(no_mangle)]
#[must_use]
pub extern "C" fn exeunt_undo_redirect_call(site: *mut c_void) -> c_int {
    shielded(|| {
        if site.is_null() {
            return Err(Failure::Invalid("exeunt_undo_redirect_call: the site is null"));
        }
        engine::undo(site)
    })
}

#[cfg(code_redirect)]
mod engine {
    use super::Failure;
    use exeunt_patch::{Patch, Site};
    use std::collections::BTreeMap;
    use std::ffi::c_void;
    use std::sync::{Mutex, PoisonError};

    /// The applied patches, by site.
    static REDIRECTED: Mutex<BTreeMap<usize, Patch>> = Mutex::new(BTreeMap::new());

    /// # Safety
    /// As for `exeunt_redirect_call`.
    pub(super) unsafe fn redirect(
        site: *mut c_void,
        expected: *const c_void,
        new: *const c_void,
    ) -> Result<(), Failure> {
        // SAFETY: the caller's promise.
        let place = unsafe { Site::new(site.cast_const().cast()) };
        under_process_lock(|redirected| {
            let mut patch = place.retarget(expected.cast(), new.cast())?;
            // SAFETY: the caller's promise.
            unsafe { patch.apply() }?;
            redirected.insert(site.addr(), patch);
            Ok(())
        })
    }

    pub(super) fn undo(site: *mut c_void) -> Result<(), Failure> {
        let found = under_process_lock(|redirected| {
            let Some(patch) = redirected.get_mut(&site.addr()) else { return Ok(false) };
            patch.undo()?;
            redirected.remove(&site.addr());
            Ok(true)
        })?;
        found.then_some(()).ok_or_else(|| Failure::NoPatch(format!("nothing was redirected at {site:p}")))
    }

    /// Changes the list under the process lock, for which a `fork` waits: a child that found the
    /// list's lock or the patch engine's held could never patch again. The process lock is the
    /// outer one. A thread that takes it a second time, from an allocator, gets an error and never
    /// waits for itself.
    fn under_process_lock<R>(
        change: impl FnOnce(&mut BTreeMap<usize, Patch>) -> Result<R, exeunt_patch::Error>,
    ) -> Result<R, Failure> {
        crate::life::fork::prepare_forks()?;
        let changed = crate::exit::recognition::locked(|_| {
            Ok(change(&mut REDIRECTED.lock().unwrap_or_else(PoisonError::into_inner)))
        })?;
        changed.map_err(|error| Failure::NoPatch(error.to_string()))
    }
}

#[cfg(not(code_redirect))]
mod engine {
    use super::Failure;
    use std::ffi::c_void;

    const REASON: &str = if cfg!(all(target_os = "macos", target_arch = "aarch64")) {
        "Apple Silicon runs no page of signed code that was changed"
    } else {
        "this build of exeunt has no patch engine"
    };

    /// # Safety
    /// None: nothing is done.
    pub(super) unsafe fn redirect(_: *mut c_void, _: *const c_void, _: *const c_void) -> Result<(), Failure> {
        Err(Failure::NoPatch(REASON.to_owned()))
    }

    pub(super) fn undo(_: *mut c_void) -> Result<(), Failure> {
        Err(Failure::NoPatch(REASON.to_owned()))
    }
}
