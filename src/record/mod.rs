//! The record: what is kept for one armed stack.

pub(crate) mod header;
