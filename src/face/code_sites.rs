//! The instructions that code redirect patches: for diagnosis, and to put them back.

use crate::base::error::Error;
use crate::exit::recognition;
use crate::exit::redirect;
use crate::exit::redirect::code_site::CodeSite;
use crate::exit::trampoline;

/// The instructions at which code redirect enters this process's exit trampolines, or would. This
/// patches nothing.
///
/// # Errors
/// If the trampolines of this system cannot be set up.
///
/// # Examples
/// ```
/// for site in exeunt::code_sites()? {
///     match &site.problem {
///         None => println!("{}: {} -> {}", site.trampoline, site.before, site.after),
///         Some(problem) => println!("{}: {problem}", site.trampoline),
///     }
/// }
/// # Ok::<(), exeunt::Error>(())
/// ```
pub fn code_sites() -> Result<Vec<CodeSite>, Error> {
    recognition::probe()?;
    Ok((0..trampoline::known())
        .filter(|&number| !trampoline::is_landing(number))
        .flat_map(redirect::sites::survey)
        .collect())
}

/// Puts the code of all exit trampolines back that code redirect has patched: every byte is as it
/// was. It is for tools that leave a program which goes on, after they have taken back
/// [`on_every_end`](crate::on_every_end)'s function and have unloaded their stacks.
///
/// The process still uses code redirect: the next stack that is armed patches its exit trampoline
/// again. A thread that is in a hook at this moment goes on from there, so exeunt stays loaded.
/// (It does in any case: it has pinned itself when it patched the code.) The small pages through
/// which the patched calls reached exeunt stay mapped.
///
/// # Errors
/// [`Error::CodeSitesInUse`] if stacks are armed whose ends need the patched code, or a function is
/// registered by `on_every_end`. A fiber that was suspended for ever counts as armed until it is
/// discarded. [`Error::NoCodeSite`] if the system refuses to write the code, or if other code has
/// changed it meanwhile. After an error nothing has changed; if the system refuses to undo a part and
/// then to patch the rest again, the next stack that is armed does that.
///
/// # Examples
/// ```standalone_crate
/// # #[cfg(all(target_os = "linux", target_env = "gnu"))] {
/// use exeunt::{Builder, Error, Redirect};
/// Builder::new().redirect(Redirect::Code).install()?;
/// std::thread::spawn(|| {
///     exeunt::at_exit(|| println!("over"))?;
///     assert!(matches!(exeunt::restore_code_sites(), Err(Error::CodeSitesInUse { armed: 1, .. })));
///     exeunt::unload()?;
///     exeunt::restore_code_sites()
/// }).join().unwrap()?;
/// assert!(exeunt::code_sites()?.iter().all(|site| !site.applied));
/// # }
/// # Ok::<(), exeunt::Error>(())
/// ```
pub fn restore_code_sites() -> Result<(), Error> {
    #[cfg(code_redirect)]
    return crate::life::every_end::restore_code();
    #[cfg(not(code_redirect))]
    redirect::sites::restore(|| None)
}
