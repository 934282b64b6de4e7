//! The C face: retarget a call, take that back. Declared in `include/exeunt_patch.h`.

use crate::engine::{Patch, Site};
use std::collections::BTreeMap;
use std::ffi::{c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, PoisonError};

/// What has been redirected through here, by site.
static REDIRECTED: Mutex<BTreeMap<usize, Patch>> = Mutex::new(BTreeMap::new());

/// A bug in this crate, which must not unwind into C.
const PANICKED: c_int = 255;

fn guarded(body: impl FnOnce() -> Result<(), i32>) -> c_int {
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => 0,
        Ok(Err(code)) => code,
        Err(_) => PANICKED,
    }
}

/// Makes the direct call or branch at `site` lead to `new_target` instead of `expected_target`. 0, or the reason why nothing
/// changed: its number in the low 8 bits, the kernel's error number above them.
///
/// # Safety
///
/// `site` is any address, or the first byte of an instruction that stays mapped; until it is undone, `new_target` may be entered
/// wherever `expected_target` may be; nobody else re-protects the site's page at the same time.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn exeunt_redirect_call(
    site: *mut c_void,
    expected_target: *const c_void,
    new_target: *const c_void,
) -> c_int {
    guarded(|| {
        let mut redirected = REDIRECTED.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: this function's contract.
        let place = unsafe { Site::new(site.cast_const().cast()) };
        let mut patch = place.retarget(expected_target.cast(), new_target.cast()).map_err(|error| error.code())?;
        // SAFETY: this function's contract.
        unsafe { patch.apply() }.map_err(|error| error.code())?;
        redirected.insert(site.addr(), patch);
        Ok(())
    })
}

/// Takes back what [`exeunt_redirect_call`] did at `site`. 0, or the reason why nothing changed.
#[unsafe(no_mangle)]
pub extern "C" fn exeunt_undo_redirect_call(site: *mut c_void) -> c_int {
    guarded(|| {
        let mut redirected = REDIRECTED.lock().unwrap_or_else(PoisonError::into_inner);
        let at = site.addr();
        let not_applied = crate::Error::NotApplied { at }.code();
        redirected.get_mut(&at).ok_or(not_applied)?.undo().map_err(|error| error.code())?;
        redirected.remove(&at);
        Ok(())
    })
}
