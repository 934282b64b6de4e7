//! One word of code, as it is and as it is to be.

/// What one aligned store replaces.
#[cfg(target_arch = "x86_64")]
pub type Word = u64;
/// What one aligned store replaces.
#[cfg(target_arch = "aarch64")]
pub type Word = u32;

/// One aligned word of code, as it is and as it shall be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Store {
    /// Its address, aligned to the word.
    pub at: usize,
    /// What must be there.
    pub before: Word,
    /// What will be there.
    pub after: Word,
}
