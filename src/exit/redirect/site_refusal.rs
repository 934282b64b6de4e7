//! Errors of patching: translates those of the patch engine (`refused`), and keeps those that stay
//! the same (`refused_before`).

use crate::base::error::Error;
use crate::exit::trampoline;
use exeunt_patch::Bytes;
use std::borrow::Cow;
use std::sync::OnceLock;
use std::{ptr, slice};

/// The code of an exit trampoline that has no site for the hook, and the error's text. The error
/// stays the same as long as the code does, and the search reads the list of mappings for each
/// instruction.
struct Refusal {
    /// The code from the return address of entry functions up to the instruction that does not fit.
    code: &'static [u8],
    text: &'static str,
}

impl Refusal {
    /// Longer code is not kept.
    const LONGEST: usize = 256;

    /// The code of the exit trampoline `number`.
    ///
    /// # Safety
    /// Its first `length` bytes must be mapped.
    unsafe fn code(number: usize, length: usize) -> &'static [u8] {
        // SAFETY: the caller's promise. Code that stacks return to stays loaded.
        unsafe { slice::from_raw_parts(ptr::with_exposed_provenance(trampoline::original(number)), length) }
    }

    fn note(number: usize, found: &Bytes, text: &str) {
        let length = (found.at + found.bytes.len()).checked_sub(trampoline::original(number));
        if let Some(length) = length.filter(|length| *length <= Self::LONGEST) {
            // SAFETY: both ends were read as instructions, and every page between them holds one of
            // the two.
            let code = unsafe { Self::code(number, length) };
            let leak = || Self { code: code.to_vec().leak(), text: text.to_owned().leak() };
            REFUSED[number].get_or_init(leak);
        }
    }
}

/// The refusal of trampoline N. Leaked, once.
static REFUSED: [OnceLock<Refusal>; trampoline::COUNT] = [const { OnceLock::new() }; trampoline::COUNT];

/// The former error of the exit trampoline `number`, if there is one and the code has not changed.
pub(super) fn refused_before(number: usize) -> Option<Error> {
    let refusal = REFUSED[number].get()?;
    // SAFETY: `note` has read this code before.
    let code = unsafe { Refusal::code(number, refusal.code.len()) };
    (code == refusal.code).then_some(Error::NoCodeSite(Cow::Borrowed(refusal.text)))
}

/// Translates an error of the patch engine into one of this library.
pub(super) fn refused(number: usize) -> impl Fn(exeunt_patch::Error) -> Error {
    use exeunt_patch::Error::{Changed, Membarrier, NoCall, NoMaps, NotABranch, Protect, Reentered, Stub};
    move |error| {
        let failed = match error {
            NoMaps { errno } => Some(("open(\"/proc/self/maps\")", errno)),
            Protect { errno, .. } => Some(("mprotect", errno)),
            Membarrier { errno } => Some(("membarrier", errno)),
            Stub { step, errno } => Some((step, errno)),
            Reentered => return Error::Reentered,
            _ => None,
        };
        if let Some((call, errno)) = failed.filter(|&(_, errno)| is_passing(errno)) {
            return Error::CallFailed { call, errno };
        }
        let text = format!("{}: {error}", trampoline::name(number).to_string_lossy());
        if let NoCall { found, .. } | NotABranch { found } | Changed { found, .. } = &error {
            Refusal::note(number, found, &text);
        }
        Error::NoCodeSite(text.into())
    }
}

/// Whether an error number says that a resource has run out, which may be there again at the next
/// use.
fn is_passing(errno: i32) -> bool {
    let out = [libc::EAGAIN, libc::ENOMEM, libc::EMFILE, libc::ENFILE, libc::EINTR];
    cfg!(target_os = "linux") && out.contains(&errno)
}
