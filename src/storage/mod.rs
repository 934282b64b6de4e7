//! Storage: the values of one stack, without the stack.

pub(crate) mod borrow;
pub(crate) mod handlers;
pub(crate) mod inline_cache;
pub(crate) mod key;
pub(crate) mod slot_table;
pub(crate) mod values;
