//! What exeunt has found and keeps in this process, for diagnosis.

use crate::base::error::Error;
use crate::base::kind::Kind;
use crate::base::redirect::Redirect;
use crate::exit::{recognition, redirect, shadow_stack, trampoline};
use crate::machine::arch;
use crate::record::header::Record;
use crate::record::stacks::STACKS;
use std::fmt;

/// An exit trampoline that exeunt has recognised in this process: see [`Survey`].
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ExitTrampoline {
    /// Its name, as `start_thread`.
    pub name: String,
    /// The address in it that entry functions return to.
    pub return_address: usize,
    /// The kind of stack that ends there.
    pub kind: Kind,
    /// Whether this is where stacks end that are unwound (`pthread_exit`, cancellation), and not
    /// where their entry functions return to.
    pub unwound: bool,
}

impl fmt::Debug for ExitTrampoline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExitTrampoline")
            .field("name", &self.name)
            .field("return_address", &format_args!("{:#x}", self.return_address))
            .field("kind", &self.kind)
            .field("unwound", &self.unwound)
            .finish()
    }
}

/// What exeunt has found and keeps in this process, for diagnosis: see [`survey`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Survey {
    /// The recognised exit trampolines.
    pub trampolines: Vec<ExitTrampoline>,
    /// Stacks that are armed now.
    pub armed: usize,
    /// Bytes of one record, without its values.
    pub record_size: usize,
    /// Bytes of address space that the stack map has reserved. Only the pages of it that were
    /// touched cost memory.
    pub map_reserved: u64,
    /// Whether the processor checks this thread's returns against a shadow stack.
    pub shadow_stack: bool,
    /// How this process redirects exits, or will from the first stack on that is armed.
    pub redirect: Redirect,
}

/// Reports what exeunt has found and keeps in this process. It recognises the exit trampolines of
/// this system if that was not done yet. In a child of `fork` the stacks of the parent's other
/// threads count as armed until a new stack uses their memory.
///
/// # Errors
/// If the trampolines of this system cannot be set up, or `EXEUNT_REDIRECT` has an unknown value.
///
/// # Examples
/// ```
/// let survey = exeunt::survey()?;
/// println!("{survey:#?}");
/// assert!(survey.trampolines.iter().any(|trampoline| trampoline.name == "start_thread"));
/// # Ok::<(), exeunt::Error>(())
/// ```
pub fn survey() -> Result<Survey, Error> {
    recognition::probe()?;
    let trampolines = (0..trampoline::known())
        .map(|number| ExitTrampoline {
            name: trampoline::name(number).to_string_lossy().into_owned(),
            return_address: trampoline::original(number),
            kind: trampoline::kind(number),
            unwound: trampoline::is_landing(number),
        })
        .collect();
    Ok(Survey {
        trampolines,
        armed: STACKS.all().filter(|record| record.id().is_some()).count(),
        record_size: size_of::<Record>(),
        map_reserved: STACKS.reserved(),
        shadow_stack: shadow_stack::is_active(),
        redirect: redirect::choice::likely()?.redirect(),
    })
}

/// Whether a word of a stack is an address of one of exeunt's trampolines, which a redirected foot
/// holds: then this copy of exeunt has armed that stack, by slot redirect. Under code redirect feet
/// stay as they are.
///
/// A tool that reads another thread's stack asks this before it arms that stack. The signature of a
/// word that is signed (pointer authentication) is ignored. Other copies of exeunt in the process
/// have other trampolines.
///
/// This takes no lock and allocates nothing. It is async-signal-safe.
///
/// # Examples
/// ```
/// # std::thread::spawn(|| {
/// exeunt::id()?;
/// let foot = exeunt::Stack::current().foot().unwrap().clone();
/// assert_eq!(exeunt::is_own_trampoline(foot.word), foot.word != foot.original);
/// assert!(!exeunt::is_own_trampoline(foot.original));
/// # Ok::<(), exeunt::Error>(())
/// # }).join().unwrap().unwrap();
/// ```
pub fn is_own_trampoline(word: usize) -> bool {
    trampoline::is_label(arch::strip(word))
}
