//! A planned change of one word of code.

/// The word that one aligned store replaces.
#[cfg(target_arch = "x86_64")]
pub type Word = u64;
/// The word that one aligned store replaces.
#[cfg(target_arch = "aarch64")]
pub type Word = u32;

/// One aligned word of code, before and after the change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Store {
    /// Its address, aligned to the word.
    pub at: usize,
    /// The word that must be there.
    pub before: Word,
    /// The word that replaces it.
    pub after: Word,
}
