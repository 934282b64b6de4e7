//! Why an exit trampoline cannot be patched.

use crate::base::error::Error;
use crate::exit::trampoline;
use exeunt_patch::Bytes;
use std::borrow::Cow;
use std::sync::OnceLock;
use std::{ptr, slice};

/// What was found where an exit trampoline has no place for the hook. It is the same each time as long as the code is, and to
/// look at code means to read the list of mappings for each instruction.
struct Refusal {
    /// From where entry functions return to up to the instruction that is in the way.
    code: &'static [u8],
    text: &'static str,
}

impl Refusal {
    /// The code between is no longer than this, or nothing is kept.
    const LONGEST: usize = 256;

    /// The code of the exit trampoline `number`.
    ///
    /// # Safety
    /// Its first `length` bytes must be mapped.
    unsafe fn code(number: usize, length: usize) -> &'static [u8] {
        // SAFETY: the caller's promise; code that stacks return to stays.
        unsafe { slice::from_raw_parts(ptr::with_exposed_provenance(trampoline::original(number)), length) }
    }

    fn note(number: usize, found: &Bytes, text: &str) {
        let length = (found.at + found.bytes.len()).checked_sub(trampoline::original(number));
        if let Some(length) = length.filter(|length| *length <= Self::LONGEST) {
            // SAFETY: both ends were read as instructions, and no page is between them that holds neither.
            let code = unsafe { Self::code(number, length) };
            let leak = || Self { code: code.to_vec().leak(), text: text.to_owned().leak() };
            REFUSED[number].get_or_init(leak);
        }
    }
}

/// The refusal of trampoline N; leaked, once.
static REFUSED: [OnceLock<Refusal>; trampoline::COUNT] = [const { OnceLock::new() }; trampoline::COUNT];

/// The error of the exit trampoline `number`, if it was refused before and the code is as it was.
pub(super) fn refused_before(number: usize) -> Option<Error> {
    let refusal = REFUSED[number].get()?;
    // SAFETY: it was read before.
    let code = unsafe { Refusal::code(number, refusal.code.len()) };
    (code == refusal.code).then_some(Error::NoCodeSite(Cow::Borrowed(refusal.text)))
}

/// An error of the patch engine, in the words of this library.
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

/// Whether an error number says that something has run out, which may be there again at the next use.
fn is_passing(errno: i32) -> bool {
    let out = [libc::EAGAIN, libc::ENOMEM, libc::EMFILE, libc::ENFILE, libc::EINTR];
    cfg!(target_os = "linux") && out.contains(&errno)
}
