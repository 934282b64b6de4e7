//! The instructions that code redirect patches, for diagnosis.

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
