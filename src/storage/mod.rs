//! Storage: the values of one stack, without the stack.

pub(crate) mod inline_cache;
pub(crate) mod values;
