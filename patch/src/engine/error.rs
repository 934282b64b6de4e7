//! Why a patch was refused: what was found, where, and what to do.

use super::arch;
use super::wording::WORDING;
use crate::raw::{Reason, Refusal, arch as raw};
use std::fmt;

/// Bytes of code at an address. Displayed with their disassembly.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bytes {
    /// The address of the first.
    pub at: usize,
    /// The bytes themselves.
    pub bytes: Vec<u8>,
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}:", self.at)?;
        for byte in &self.bytes {
            write!(f, " {byte:02x}")?;
        }
        write!(f, " ({})", arch::disassemble(&self.bytes, self.at))
    }
}

/// Why nothing was changed. [`Error::NotRestored`] alone leaves a trace, and says which.
///
/// The numbers called `errno` are error numbers on Linux, and values of `kern_return_t` on macOS. Its `Debug` is its
/// `Display`: bytes and disassembly are also shown where an `unwrap` fails.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// The site is not mapped readable and executable.
    NotExecutable {
        /// The site.
        at: usize,
    },
    /// The list of mappings cannot be read (`/proc/self/maps`; macOS: `mach_vm_region_recurse`).
    NoMaps {
        /// The kernel's error number.
        errno: i32,
    },
    /// No direct call or branch is there.
    NotABranch {
        /// What is.
        found: Bytes,
    },
    /// The call or branch leads somewhere else.
    OtherTarget {
        /// The instruction.
        found: Bytes,
        /// Where it leads.
        target: usize,
        /// Where it should.
        expected: usize,
    },
    /// No direct call is on the way from here.
    NoCall {
        /// The instruction at which the way ends.
        found: Bytes,
        /// Why it does.
        why: &'static str,
    },
    /// The instruction cannot be displaced.
    NotDisplaceable {
        /// What is there.
        found: Bytes,
        /// The reason.
        why: &'static str,
    },
    /// The instruction is shorter than the branch that would replace it.
    TooShort {
        /// What is there.
        found: Bytes,
        /// The length of a branch.
        needed: usize,
    },
    /// This instruction may not become a branch while another thread may be executing it (aarch64).
    NotWhileRunning {
        /// What is there.
        found: Bytes,
    },
    /// A stub is needed, and no free page is in reach, or none from which one aligned store suffices.
    NoRoom {
        /// What is at the site.
        found: Bytes,
        /// Why the last place that was tried would not do, if one was.
        why: Option<&'static str>,
    },
    /// The page that was free when the patch was planned is not any more. Plan again.
    StubTaken {
        /// The stub's address.
        at: usize,
    },
    /// The stub could not be made.
    Stub {
        /// The system call that was refused.
        step: &'static str,
        /// The kernel's error number.
        errno: i32,
    },
    /// This patch is applied already.
    AlreadyApplied {
        /// The site.
        at: usize,
    },
    /// This patch is not applied.
    NotApplied {
        /// The site.
        at: usize,
    },
    /// Another applied patch shares bytes with this one.
    Overlaps {
        /// This patch's site.
        at: usize,
        /// The other's.
        other: usize,
    },
    /// Somebody else has changed the bytes.
    Changed {
        /// What should be there.
        expected: Bytes,
        /// What is.
        found: Bytes,
    },
    /// The code page cannot be written.
    Protect {
        /// The site.
        at: usize,
        /// The kernel's error number.
        errno: i32,
    },
    /// `membarrier` is refused (macOS: a page of our own cannot be given and taken rights), so other processors might execute stale
    /// code.
    Membarrier {
        /// The kernel's error number.
        errno: i32,
    },
    /// These bytes are not what the processor executes: the process is translated by Rosetta 2 (macOS).
    Translated {
        /// The site.
        at: usize,
    },
    /// The bytes are as before, but the page's protection could not be restored: it is still writable.
    NotRestored {
        /// The site.
        at: usize,
        /// The kernel's error number.
        errno: i32,
    },
    /// This thread is planning or applying another patch further up on its stack, from where foreign code (an allocator) came back.
    Reentered,
}

/// Why the system changed nothing (or, for [`Reason::NotRestored`], what it could not put back).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    pub reason: Reason,
    /// The system's own number: an error number, or a `kern_return_t`.
    pub number: i32,
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        Self { reason: refusal.reason, number: refusal.errno.into() }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::NotExecutable { at } => {
                write!(f, "{at:#x} is not in memory that is mapped readable and executable; check the address")
            }
            Error::NoMaps { errno } => write!(
                f,
                "{} ({} {errno}), so no page's protection is known; {}",
                WORDING.look_up,
                WORDING.number,
                if cfg!(target_os = "linux") && [libc::EMFILE, libc::ENFILE].contains(errno) {
                    "too many files are open: close some, or raise the limit (ulimit -n), and try again"
                } else {
                    WORDING.look_up_advice
                }
            ),
            Error::NotABranch { found } => write!(
                f,
                "no direct call or branch at {found}; give the address of its first byte, or divert an instruction"
            ),
            Error::OtherTarget { found, target, expected } => write!(
                f,
                "{found} leads to {target:#x}, not to {expected:#x}; another patch, or another build of this library?"
            ),
            Error::NoCall { found, why } => {
                write!(
                    f,
                    "no direct call is on the one way that leads to {found}: {why}; another build of this library?"
                )
            }
            Error::NotDisplaceable { found, why } => {
                write!(f, "{found} cannot run elsewhere: {why}; choose another instruction")
            }
            Error::TooShort { found, needed } => write!(
                f,
                "{found} has {} bytes and a branch needs {needed}; displacing a second instruction is not safe, since a thread may be \
                 suspended between the two: choose a longer one, or retarget a direct call nearby",
                found.bytes.len()
            ),
            Error::NotWhileRunning { found } => write!(
                f,
                "{found} may not become a branch while another thread may execute it (Arm ARM B2.2.5: only B, BL, NOP and ISB \
                 may); retarget a B or BL, or promise with `Site::quiet` that no thread runs there"
            ),
            Error::NoRoom { found, why } => write!(
                f,
                "no free page for a stub in reach of {found} from which one aligned store would do ({})",
                why.unwrap_or("every page there is mapped")
            ),
            Error::StubTaken { at } => {
                write!(f, "the page of {at:#x} was free when the patch was planned, but is mapped by now; plan again")
            }
            Error::Stub { step, errno } => {
                write!(f, "{step} of a page for the stub was refused ({} {errno})", WORDING.number)
            }
            Error::AlreadyApplied { at } => write!(f, "the patch at {at:#x} is applied already"),
            Error::NotApplied { at } => write!(f, "the patch at {at:#x} is not applied"),
            Error::Overlaps { at, other } => {
                write!(f, "the patch at {at:#x} shares bytes with the one applied at {other:#x}; undo that first")
            }
            Error::Changed { expected, found } => {
                write!(f, "somebody else changed the code: expected {expected}, found {found}; nothing was written")
            }
            Error::Protect { at, errno } => write!(
                f,
                "the code page of {at:#x} cannot be made writable ({} {errno}): {}",
                WORDING.number, WORDING.protect_advice
            ),
            Error::Membarrier { errno } => write!(
                f,
                "{} ({} {errno}), so other processors might run stale code; {}",
                WORDING.synchronise, WORDING.number, WORDING.synchronise_advice
            ),
            Error::Translated { at } => write!(
                f,
                "this process is translated by Rosetta 2, so the processor does not execute the bytes at {at:#x}, and what it does \
                 execute cannot be changed by one store; run a build for Apple Silicon, where code is not patched either, or do without"
            ),
            Error::NotRestored { at, errno } => write!(
                f,
                "the code at {at:#x} is as before, but its page could not be made read-only again ({} {errno})",
                WORDING.number
            ),
            Error::Reentered => f.write_str(
                "this thread is planning or applying another patch further up on its stack; patch from code that it does not call, \
                 such as an allocator",
            ),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for Error {}

impl Error {
    pub(super) fn refused(refused: Refused, at: usize, bytes: &[u8]) -> Self {
        let errno = refused.number;
        let found = Bytes { at, bytes: bytes.to_vec() };
        match refused.reason {
            Reason::NotABranch => Error::NotABranch { found },
            Reason::NotExecutable => Error::NotExecutable { at },
            Reason::NoMaps => Error::NoMaps { errno },
            Reason::Protect => Error::Protect { at, errno },
            Reason::Membarrier => Error::Membarrier { errno },
            Reason::NotRestored => Error::NotRestored { at, errno },
            Reason::TooShort => Error::TooShort { found, needed: raw::BRANCH_LEN },
            Reason::NotWhileRunning => Error::NotWhileRunning { found },
            // The bytes are not what they were a moment ago: target and reach were checked then.
            Reason::Changed | Reason::OtherTarget | Reason::OutOfReach | Reason::Straddles => {
                Error::Changed { expected: found.clone(), found }
            }
        }
    }
}
