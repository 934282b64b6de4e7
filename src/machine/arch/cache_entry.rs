//! The layout of an inline cache's entry, in bytes, as far as `hits` reads it. A test at compile
//! time in `storage/inline_cache.rs` compares it with the entry's real layout.

/// The canary's address. The word that the canary must hold follows it.
pub(crate) const CANARY_AT: usize = 8;
/// The number of the block.
pub(crate) const BLOCK: usize = 24;
