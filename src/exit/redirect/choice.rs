//! Which redirect this process uses. The program or the environment chooses it, once.

use crate::base::error::Error;
use crate::base::redirect::{Method, Redirect};
use crate::exit::process_lock::Experiment;
use crate::exit::shadow_stack;
#[cfg(code_redirect)]
use crate::machine::os;
use std::ffi::CStr;
use std::sync::atomic::{AtomicU8, Ordering};

/// The redirect of this process; 0 while nothing is chosen.
static CHOICE: AtomicU8 = AtomicU8::new(0);

/// The environment variable that chooses if the program does not.
const VARIABLE: &CStr = c"EXEUNT_REDIRECT";

fn method_of(redirect: Redirect) -> Method {
    match redirect {
        Redirect::Slot => Method::Slot,
        Redirect::Code => Method::Code,
        Redirect::Auto if shadow_stack::is_active() => Method::Code,
        Redirect::Auto => Method::Slot,
    }
}

/// Makes this the choice of the process.
///
/// # Errors
/// [`Error::RedirectChosen`] if another choice was made before.
pub(crate) fn make(redirect: Redirect) -> Result<(), Error> {
    let wanted = method_of(redirect);
    #[cfg(code_redirect)]
    if wanted == Method::Code && CHOICE.load(Ordering::Relaxed) == 0 {
        // Programs choose before they start threads.
        os::prepare_for_new_code();
    }
    match CHOICE.compare_exchange(0, wanted as u8, Ordering::AcqRel, Ordering::Acquire) {
        Ok(_) => Ok(()),
        Err(made) if made == wanted as u8 => Ok(()),
        Err(made) => {
            Err(Error::RedirectChosen { chosen: Method::from_raw(made).redirect(), wanted: wanted.redirect() })
        }
    }
}

/// The value of [`VARIABLE`].
fn from_environment_as_it_is() -> Option<&'static [u8]> {
    // Not by std's function, which copies the value, as there may be no memory.
    // SAFETY: the name ends in a zero. No code changes the environment meanwhile: the promise of a
    // caller of `set_var`.
    let value = unsafe { libc::getenv(VARIABLE.as_ptr()) };
    // SAFETY: not null, so a string, and as above.
    (!value.is_null()).then(|| unsafe { CStr::from_ptr(value) }.to_bytes())
}

fn from_environment() -> Result<Method, Error> {
    match from_environment_as_it_is() {
        None | Some(b"slot" | b"") => Ok(method_of(Redirect::Slot)),
        Some(b"code") => Ok(method_of(Redirect::Code)),
        Some(b"auto") => Ok(method_of(Redirect::Auto)),
        Some(other) => Err(Error::UnknownRedirect(String::from_utf8_lossy(other).into_owned())),
    }
}

/// At the start of a program that the environment makes use code redirect, there is one thread. (A
/// linker that leaves this out only makes the first patch take longer.)
#[cfg(all(code_redirect, target_os = "linux"))]
extern "C" fn at_start() {
    let is_code = match from_environment_as_it_is() {
        Some(b"code") => true,
        Some(b"auto") => method_of(Redirect::Auto) == Method::Code,
        _ => false,
    };
    if is_code {
        os::prepare_for_new_code();
    }
}

#[cfg(all(code_redirect, target_os = "linux"))]
#[used]
// SAFETY: the section is that of pointers to functions which the loader calls once, with arguments
// that a function of the C ABI may leave unread. The function needs no other initialisation.
#[unsafe(link_section = ".init_array")]
static AT_START: extern "C" fn() = at_start;

/// The redirect of this process. After this call it is final.
#[inline]
pub(crate) fn made() -> Result<Method, Error> {
    let made = CHOICE.load(Ordering::Acquire);
    if made == 0 { settle() } else { Ok(Method::from_raw(made)) }
}

#[cold]
fn settle() -> Result<Method, Error> {
    let wanted = {
        // The text of the error allocates.
        let _experiment = Experiment::begin()?;
        from_environment()?
    };
    match CHOICE.compare_exchange(0, wanted as u8, Ordering::AcqRel, Ordering::Acquire) {
        Ok(_) => Ok(wanted),
        Err(made) => Ok(Method::from_raw(made)),
    }
}

/// The redirect that this process would use if a stack were armed now. The choice stays open.
pub(crate) fn likely() -> Result<Method, Error> {
    match CHOICE.load(Ordering::Acquire) {
        0 => from_environment(),
        made => Ok(Method::from_raw(made)),
    }
}

/// The redirect that was chosen, if one was.
#[cfg(all(code_redirect, target_env = "gnu"))]
pub(crate) fn chosen() -> Option<Redirect> {
    match CHOICE.load(Ordering::Acquire) {
        0 => None,
        made => Some(Method::from_raw(made).redirect()),
    }
}

/// Whether this process is known to use slot redirect.
#[inline(always)]
pub(super) fn is_slot() -> bool {
    CHOICE.load(Ordering::Acquire) == Method::Slot as u8
}

/// Whether this process uses code redirect.
#[inline(always)]
pub(crate) fn is_code() -> bool {
    CHOICE.load(Ordering::Acquire) == Method::Code as u8
}
