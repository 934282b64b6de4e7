//! The vocabulary: what every other layer may use, and which itself uses nothing of the crate.

pub(crate) mod alloc;
pub(crate) mod atomics;
pub(crate) mod cancellation;
pub(crate) mod counted;
pub(crate) mod error;
pub(crate) mod foot;
pub(crate) mod guard;
pub(crate) mod kind;
pub(crate) mod limits;
pub(crate) mod redirect;
pub(crate) mod stack_id;
pub(crate) mod symbols;
#[cfg(test)]
pub(crate) mod testing;
pub(crate) mod unrecognised;
