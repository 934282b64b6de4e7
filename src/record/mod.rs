//! The record: what is kept for one armed stack.

pub(crate) mod access;
mod canary;
mod changes;
mod contents;
pub(crate) mod drain;
pub(crate) mod header;
mod initializing;
pub(crate) mod stacks;
