//! The hint that a branch is rarely taken.

/// Marks the place that calls it as one that is rarely reached, as `std::hint::cold_path` does from
/// Rust 1.95 on. The compiler weighs every branch that leads to a call of a cold function as
/// unlikely. The call itself leaves no code.
#[cold]
#[inline]
pub(crate) const fn cold_path() {}
