//! Errors: what was found, where, and what to do.

#[cfg(feature = "disassembly")]
use super::arch;
use super::wording::WORDING;
use crate::raw::{Reason, Refusal, arch as raw};
use std::fmt;

/// Bytes of code at an address. Displayed with their disassembly (feature `disassembly`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bytes {
    /// The address of the first byte.
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
        #[cfg(feature = "disassembly")]
        write!(f, " ({})", arch::disassemble(&self.bytes, self.at))?;
        Ok(())
    }
}

/// Why nothing was changed. Only [`Error::NotRestored`] leaves a change behind: a page that is
/// still writable.
///
/// Values named `errno` are error numbers on Linux, and values of `kern_return_t` on macOS. `Debug`
/// prints the same as `Display`, so a failed `unwrap` also shows bytes and disassembly.
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
    /// There is no direct call or branch at the site.
    NotABranch {
        /// The instruction that is there.
        found: Bytes,
    },
    /// The call or branch does not lead to the expected target.
    OtherTarget {
        /// The instruction.
        found: Bytes,
        /// Its target.
        target: usize,
        /// The target that it should have.
        expected: usize,
    },
    /// The path that starts at the site has no direct call.
    NoCall {
        /// The instruction at which the path ends.
        found: Bytes,
        /// The reason why it ends.
        why: &'static str,
    },
    /// The instruction cannot be displaced.
    NotDisplaceable {
        /// The instruction that is there.
        found: Bytes,
        /// The reason.
        why: &'static str,
    },
    /// The instruction is shorter than the branch that would replace it.
    TooShort {
        /// The instruction that is there.
        found: Bytes,
        /// The length of a branch.
        needed: usize,
    },
    /// The instruction may not be replaced while another thread may be executing it (aarch64).
    NotWhileRunning {
        /// The instruction that is there.
        found: Bytes,
    },
    /// A stub is needed, and no free page is in reach, or none for which one aligned store
    /// suffices.
    NoRoom {
        /// The instruction at the site.
        found: Bytes,
        /// Why the last address that was tried does not work, if one was tried.
        why: Option<&'static str>,
    },
    /// The page for the stub was free when the patch was planned, and is mapped now. Plan again.
    StubTaken {
        /// The stub's address.
        at: usize,
    },
    /// The stub could not be mapped.
    Stub {
        /// The system call that was refused.
        step: &'static str,
        /// The kernel's error number.
        errno: i32,
    },
    /// This patch is already applied.
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
        /// The site of the other patch.
        other: usize,
    },
    /// Other code has changed the bytes.
    Changed {
        /// The bytes that should be there.
        expected: Bytes,
        /// The bytes that are there.
        found: Bytes,
    },
    /// The code page cannot be written.
    Protect {
        /// The site.
        at: usize,
        /// The kernel's error number.
        errno: i32,
    },
    /// `membarrier` is refused (macOS: the rights of a scratch page cannot be changed), so other
    /// processors might execute stale code.
    Membarrier {
        /// The kernel's error number.
        errno: i32,
    },
    /// The processor does not execute these bytes: Rosetta 2 translates the process (macOS).
    Translated {
        /// The site.
        at: usize,
    },
    /// The bytes are as before, but the page's protection could not be restored: the page is still
    /// writable.
    NotRestored {
        /// The site.
        at: usize,
        /// The kernel's error number.
        errno: i32,
    },
    /// An outer frame of this thread is planning or applying a patch, and has called code (an
    /// allocator) that patches too.
    Reentered,
}

/// Why the system changed nothing (or, for [`Reason::NotRestored`], what it could not restore).
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
                "no direct call or branch at {found}; pass the address of its first byte, or divert the instruction"
            ),
            Error::OtherTarget { found, target, expected } => write!(
                f,
                "{found} leads to {target:#x}, not to {expected:#x}; is another patch applied, or is this another build of the library?"
            ),
            Error::NoCall { found, why } => {
                write!(
                    f,
                    "there is no direct call on the path to {found}, where it ends: {why}; is this another build of the library?"
                )
            }
            Error::NotDisplaceable { found, why } => {
                write!(f, "{found} cannot be displaced: {why}; choose another instruction")
            }
            Error::TooShort { found, needed } => write!(
                f,
                "{found} has {} bytes and a branch needs {needed}; displacing a second instruction is not safe, because a thread may be \
                 suspended between the two: choose a longer instruction, or retarget a direct call",
                found.bytes.len()
            ),
            Error::NotWhileRunning { found } => write!(
                f,
                "{found} may not be replaced while another thread may execute it (Arm ARM B2.2.5: only B, BL, NOP and ISB \
                 may); retarget a B or BL, or promise with `Site::quiet` that no thread runs there"
            ),
            Error::NoRoom { found, why } => write!(
                f,
                "no free page for a stub in reach of {found} for which one aligned store suffices ({})",
                why.unwrap_or("every page there is mapped")
            ),
            Error::StubTaken { at } => {
                write!(f, "the page of {at:#x} was free when the patch was planned, and is mapped now; plan again")
            }
            Error::Stub { step, errno } => {
                write!(f, "{step} of a page for the stub was refused ({} {errno})", WORDING.number)
            }
            Error::AlreadyApplied { at } => write!(f, "the patch at {at:#x} is already applied"),
            Error::NotApplied { at } => write!(f, "the patch at {at:#x} is not applied"),
            Error::Overlaps { at, other } => {
                write!(f, "the patch at {at:#x} shares bytes with the patch applied at {other:#x}; undo that one first")
            }
            Error::Changed { expected, found } => {
                write!(f, "other code changed these bytes: expected {expected}, found {found}; nothing was written")
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
                "Rosetta 2 translates this process, so the processor does not execute the bytes at {at:#x}, and one store cannot \
                 change the code that it does execute; patching is not possible here, nor in a build for Apple Silicon"
            ),
            Error::NotRestored { at, errno } => write!(
                f,
                "the code at {at:#x} is as before, but its page could not be made read-only again ({} {errno})",
                WORDING.number
            ),
            Error::Reentered => f.write_str(
                "an outer frame of this thread is planning or applying a patch; do not patch from code that it calls, such as an \
                 allocator",
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
            // The bytes have changed since target and reach were checked.
            Reason::Changed | Reason::OtherTarget | Reason::OutOfReach | Reason::Straddles => {
                Error::Changed { expected: found.clone(), found }
            }
        }
    }
}
