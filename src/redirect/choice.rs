//! Which way this process uses: chosen once, by the program or by its user.

use crate::error::Error;
use crate::lock::Learning;
use std::ffi::CStr;
use std::fmt;
use std::sync::atomic::{AtomicU8, Ordering};

/// How stacks' exits are made to go through exeunt. One of the two for the whole process, see [`Builder`].
///
/// | | [`Slot`](Redirect::Slot) | [`Code`](Redirect::Code) |
/// |---|---|---|
/// | is written | one word of each armed stack: its foot | once per process and exit trampoline: the target of a call in libc's code |
/// | return addresses | the armed stack's outermost one is a trampoline's | all as they were |
/// | stacks that are not armed | untouched | go through a few instructions of a hook when they end |
/// | memory of an abandoned fiber, used again | noticed when the next one there is armed; on aarch64 its reads before that may find a value of the old one | the same for `makecontext` and [`enter`](crate::enter()); on aarch64 only if the entry function saves its frame pointer. Else, and behind a registered wrapper, [`discard`](crate::discard) it first |
/// | a function of a registered wrapper | returns to a trampoline | the first direct call behind it leads to a hook, which keeps arguments but for the upper halves of vectors wider than 128 bits; without such a call it is refused |
/// | shadow stacks (CET, GCS) | refused: the return would fault | work |
/// | needs | nothing | `mprotect` or `/proc/self/mem` on libc's code, and `membarrier`; on macOS an Intel processor, no Rosetta, and no hardened runtime |
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Redirect {
    /// The word at the stack's bottom that holds the entry function's return address is rewritten. The default.
    Slot,
    /// The exit trampoline's code is patched.
    Code,
    /// [`Slot`](Redirect::Slot), or [`Code`](Redirect::Code) where the thread that arms the first stack has a shadow stack.
    Auto,
}

impl fmt::Display for Redirect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Slot => "slot",
            Self::Code => "code",
            Self::Auto => "auto",
        })
    }
}

/// A way, as it is used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Way {
    Slot = 1,
    Code = 2,
}

impl Way {
    pub(crate) fn from_raw(raw: u8) -> Self {
        if raw == Self::Code as u8 { Self::Code } else { Self::Slot }
    }

    pub(crate) fn redirect(self) -> Redirect {
        match self {
            Self::Slot => Redirect::Slot,
            Self::Code => Redirect::Code,
        }
    }
}

/// What a program chooses for its whole process, before it arms the first stack.
///
/// Where nothing is chosen, the environment variable `EXEUNT_REDIRECT` says it (`slot`, `code`, `auto`), and where that is
/// not set, it is [`Redirect::Slot`].
///
/// # Examples
/// ```standalone_crate
/// use exeunt::{Builder, Error, Redirect};
/// Builder::new().redirect(Redirect::Slot).install()?;
/// exeunt::at_exit(|| println!("this thread is over"))?;
/// // From now on it is settled.
/// let late = Builder::new().redirect(Redirect::Code).install();
/// assert!(matches!(late, Err(Error::RedirectChosen { .. })));
/// # Ok::<(), Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
#[must_use = "nothing is chosen before `install`"]
pub struct Builder {
    redirect: Redirect,
}

impl Default for Builder {
    fn default() -> Self {
        Self::new()
    }
}

impl Builder {
    /// The defaults.
    pub const fn new() -> Self {
        Self { redirect: Redirect::Slot }
    }

    /// How exits are made to go through exeunt.
    pub const fn redirect(self, redirect: Redirect) -> Self {
        Self { redirect }
    }

    /// Makes this the choice of the process, whatever the environment says.
    ///
    /// # Errors
    /// [`Error::RedirectChosen`] if another choice was made before, by a builder or by the first stack that was armed.
    pub fn install(self) -> Result<(), Error> {
        let wanted = wish(self.redirect);
        match CHOICE.compare_exchange(0, wanted as u8, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => Ok(()),
            Err(made) if made == wanted as u8 => Ok(()),
            Err(made) => {
                Err(Error::RedirectChosen { chosen: Way::from_raw(made).redirect(), wanted: wanted.redirect() })
            }
        }
    }
}

/// The way of this process; 0 while nothing is chosen.
static CHOICE: AtomicU8 = AtomicU8::new(0);

/// The variable that chooses where the program does not.
const VARIABLE: &CStr = c"EXEUNT_REDIRECT";

fn wish(redirect: Redirect) -> Way {
    match redirect {
        Redirect::Slot => Way::Slot,
        Redirect::Code => Way::Code,
        Redirect::Auto if super::shadow_stack_active() => Way::Code,
        Redirect::Auto => Way::Slot,
    }
}

fn from_environment() -> Result<Way, Error> {
    // Not by std's function, which copies the value: there may be no memory.
    // SAFETY: the name ends in a zero. Nobody changes the environment meanwhile: the promise of who
    // calls `set_var`.
    let value = unsafe { libc::getenv(VARIABLE.as_ptr()) };
    if value.is_null() {
        return Ok(Way::Slot);
    }
    // SAFETY: not null, so a string, and as above.
    let value = unsafe { CStr::from_ptr(value) };
    match value.to_bytes() {
        b"slot" | b"" => Ok(wish(Redirect::Slot)),
        b"code" => Ok(wish(Redirect::Code)),
        b"auto" => Ok(wish(Redirect::Auto)),
        _ => Err(Error::UnknownRedirect(value.to_string_lossy().into_owned())),
    }
}

/// The way of this process, which is settled by this.
#[inline]
pub(crate) fn made() -> Result<Way, Error> {
    let made = CHOICE.load(Ordering::Acquire);
    if made == 0 { settle() } else { Ok(Way::from_raw(made)) }
}

#[cold]
fn settle() -> Result<Way, Error> {
    let wanted = {
        // Reading the environment allocates.
        let _learning = Learning::begin()?;
        from_environment()?
    };
    match CHOICE.compare_exchange(0, wanted as u8, Ordering::AcqRel, Ordering::Acquire) {
        Ok(_) => Ok(wanted),
        Err(made) => Ok(Way::from_raw(made)),
    }
}

/// The way that this process would use if a stack were armed now; settles nothing.
pub(crate) fn likely() -> Result<Way, Error> {
    match CHOICE.load(Ordering::Acquire) {
        0 => from_environment(),
        made => Ok(Way::from_raw(made)),
    }
}

/// Whether stacks are armed by code redirect here.
#[inline(always)]
pub(crate) fn is_code() -> bool {
    CHOICE.load(Ordering::Acquire) == Way::Code as u8
}
