//! The faces: what users call.

pub(crate) mod builder;
pub mod context;
pub(crate) mod enter;
pub(crate) mod inherit;
pub(crate) mod keyed;
pub(crate) mod local;
pub mod slots;
pub(crate) mod stack;
pub mod tag;
