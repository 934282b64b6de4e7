//! The choice of a redirect, by the program.

use crate::base::error::Error;
use crate::base::redirect::Redirect;
use crate::exit::redirect::choice;

/// What a program chooses for its whole process, before it arms the first stack.
///
/// If the program chooses nothing, the environment variable `EXEUNT_REDIRECT` does (`slot`, `code`,
/// `auto`). If that is not set, it is [`Redirect::Slot`].
///
/// # Examples
/// ```standalone_crate
/// use exeunt::{Builder, Error, Redirect};
/// Builder::new().redirect(Redirect::Slot).install()?;
/// exeunt::at_exit(|| println!("this thread is over"))?;
/// // From now on the choice is final.
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

    /// How exeunt redirects exits.
    pub const fn redirect(self, redirect: Redirect) -> Self {
        Self { redirect }
    }

    /// Makes this the choice of the process. The environment variable has no effect then.
    ///
    /// Install code redirect while the process has one thread: then the first stack that is armed
    /// need not wait 10 ms until Linux has registered the process for `membarrier`.
    ///
    /// # Errors
    /// [`Error::RedirectChosen`] if a builder, or the first stack that was armed, has made another
    /// choice.
    pub fn install(self) -> Result<(), Error> {
        choice::make(self.redirect)
    }
}
