//! Why code was not changed.

/// Why nothing was changed (or, for [`Reason::NotRestored`], what could not be restored).
///
/// The numbers are part of the C and Go interfaces and never change.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// There is no direct call or branch at the site (x86_64: `e8`/`e9`; aarch64: `B`/`BL`, aligned
    /// to 4).
    NotABranch = 1,
    /// The call or branch does not lead to the expected target.
    OtherTarget = 2,
    /// The new target is further away than the instruction can express.
    OutOfReach = 3,
    /// x86_64: the bytes that would change cross an aligned 8-byte boundary, so no single store can
    /// change them.
    Straddles = 4,
    /// The site is not in memory that is mapped readable and executable.
    NotExecutable = 5,
    /// The kernel's list of mappings could not be read, so the page's protection is unknown.
    NoMaps = 6,
    /// Writing was refused: by `mprotect`, and by `/proc/self/mem` where that was allowed.
    Protect = 7,
    /// `membarrier` was refused, so other processors could not be made to fetch the new code.
    Membarrier = 8,
    /// The bytes changed between the check and the store: other code patches here too.
    Changed = 9,
    /// The kernel refused the former protection. The bytes are as before, but still writable.
    NotRestored = 10,
    /// x86_64: the instruction is shorter than the branch that would replace it.
    TooShort = 11,
    /// aarch64: the architecture does not allow this instruction to be replaced while a thread may
    /// be executing it.
    NotWhileRunning = 12,
}

/// A [`Reason`], and the kernel's error number where a system call gave one (else 0).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What was found.
    pub reason: Reason,
    /// The error number of the system call that was refused, or 0.
    pub errno: u16,
}

impl Refusal {
    /// A refusal that no system call caused.
    pub const fn new(reason: Reason) -> Self {
        Self { reason, errno: 0 }
    }

    /// A refusal with the error number that caused it.
    pub const fn with(reason: Reason, errno: u16) -> Self {
        Self { reason, errno }
    }

    /// As one positive integer: the reason in the low 8 bits, the error number above them.
    pub const fn code(self) -> i32 {
        self.reason as i32 | (self.errno as i32) << 8
    }
}
