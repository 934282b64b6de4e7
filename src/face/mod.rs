//! The public face: what users call. `lib.rs` re-exports all of it.
//!
//! - `at_exit`: handlers, identity, `reset`, `unload`.
//! - `ending`: how the stack ends.
//! - `keyed`, `inherit`: values under keys.
//! - `local`, `local_cells`: `stack_local!`.
//! - `context`: scoped values.
//! - `slots`: dynamic slots.
//! - `enter`, `discard`: fibers.
//! - `tag`: stack tags.
//! - `every_end`: a function that is called at every end.
//! - `reserve`: arming by the address of a foot.
//! - `stack`, `stacks`, `survey`, `code_sites`, `builder`: diagnosis and the choice of a redirect.

pub(crate) mod at_exit;
pub(crate) mod builder;
pub(crate) mod code_sites;
pub mod context;
pub(crate) mod discard;
pub(crate) mod ending;
pub(crate) mod enter;
pub(crate) mod every_end;
pub(crate) mod inherit;
pub(crate) mod keyed;
pub(crate) mod local;
mod local_cells;
pub(crate) mod reserve;
pub mod slots;
pub(crate) mod stack;
pub(crate) mod stacks;
pub(crate) mod survey;
pub mod tag;
