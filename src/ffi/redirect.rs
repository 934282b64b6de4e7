//! The redirect of the process, and what it has written: `exeunt_install_redirect`,
//! `exeunt_restore_code_sites`, `exeunt_is_own_trampoline`.

use super::code::{Failure, shielded};
use crate::{Builder, Redirect};
use std::ffi::{c_int, c_void};

/// Slot redirect: exeunt rewrites one word of each armed stack. The default.
pub const EXEUNT_REDIRECT_SLOT: c_int = 1;
/// Code redirect: exeunt patches a call in libc, once for each kind of stack.
pub const EXEUNT_REDIRECT_CODE: c_int = 2;
/// Slot redirect; code redirect where the thread that arms the first stack has a shadow stack.
pub const EXEUNT_REDIRECT_AUTO: c_int = 3;

/// Chooses the redirect of the whole process, one of the `EXEUNT_REDIRECT_` numbers, before the
/// first stack is armed. The environment variable `EXEUNT_REDIRECT` has no effect then.
///
/// Returns 0, also if this redirect was chosen before; `EXEUNT_EREDIRECT` if the process has chosen
/// another one, or has armed a stack with another one; or `EXEUNT_EINVALID` for another number.
/// After an error nothing has changed.
///
/// Thread-safe. Not for signal handlers.
#[unsafe(no_mangle)]
#[must_use]
pub extern "C" fn exeunt_install_redirect(redirect: c_int) -> c_int {
    shielded(|| {
        let redirect = match redirect {
            EXEUNT_REDIRECT_SLOT => Redirect::Slot,
            EXEUNT_REDIRECT_CODE => Redirect::Code,
            EXEUNT_REDIRECT_AUTO => Redirect::Auto,
            _ => return Err(Failure::Invalid("exeunt_install_redirect: this number is no redirect")),
        };
        Ok(Builder::new().redirect(redirect).install()?)
    })
}

/// Puts all code of libc back that code redirect has patched: every byte is as it was. It is for
/// tools that leave a program which goes on. The process still uses code redirect: the next stack
/// that is armed patches it again. A thread that is in exeunt's hook goes on from there, so exeunt
/// stays loaded.
///
/// Returns 0, also if nothing was patched; `EXEUNT_EIN_USE` if stacks are armed whose ends need the
/// patched code, or if a function is registered by `exeunt_on_every_end` or
/// `exeunt_on_every_thread_end`; or `EXEUNT_ENO_CODE_SITE` if the system refuses to write, or other
/// code has changed it meanwhile. After an error nothing has changed.
///
/// Thread-safe. Not for signal handlers.
#[unsafe(no_mangle)]
#[must_use]
pub extern "C" fn exeunt_restore_code_sites() -> c_int {
    shielded(|| Ok(crate::restore_code_sites()?))
}

/// Whether a word of a stack is an address of one of exeunt's trampolines, which the foot of a
/// stack holds that slot redirect has armed: 1 or 0. Other copies of exeunt in the process have
/// other trampolines. A signature of the word (pointer authentication) is ignored.
///
/// Thread-safe and async-signal-safe.
#[unsafe(no_mangle)]
pub extern "C" fn exeunt_is_own_trampoline(word: *const c_void) -> c_int {
    c_int::from(crate::is_own_trampoline(word.addr()))
}
