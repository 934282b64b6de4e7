//! The stack map: from a stack pointer to the record of the stack that it is on.

pub(crate) mod cached;
pub(crate) mod claims;
pub(crate) mod entry;
pub(crate) mod extras;
pub(crate) mod owner;
pub(crate) mod pages;
pub(crate) mod pins;
pub(crate) mod slab;
pub(crate) mod stack_map;
pub(crate) mod supply;
