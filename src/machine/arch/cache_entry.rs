//! Where an inline cache's entry keeps what `hits` reads, in bytes. `storage/inline_cache.rs` checks
//! that its layout is this one.

/// The canary's address. The canary's word is right behind it.
pub(crate) const CANARY_AT: usize = 8;
/// The number of the block.
pub(crate) const BLOCK: usize = 24;
