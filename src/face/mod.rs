//! The faces: what users call.

pub(crate) mod at_exit;
pub(crate) mod builder;
pub(crate) mod code_sites;
pub mod context;
pub(crate) mod discard;
pub(crate) mod enter;
pub(crate) mod inherit;
pub(crate) mod keyed;
pub(crate) mod local;
mod local_cells;
pub mod slots;
pub(crate) mod stack;
pub(crate) mod survey;
pub mod tag;
