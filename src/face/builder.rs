//! The choice of a redirect, by the program.

use crate::base::error::Error;
use crate::base::redirect::Redirect;
use crate::exit::redirect::choice;

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
        choice::make(self.redirect)
    }
}
