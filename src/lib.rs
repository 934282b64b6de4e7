//! Storage and exit handlers for any stack - thread, main thread or fiber - without having started it.

pub mod context;
pub mod slots;
pub mod tag;

mod arch;
mod arm;
mod drain;
mod enter;
mod error;
mod exits;
mod foot;
mod inherit;
mod keyed;
mod local;
mod net;
mod os;
mod record;
mod redirect;
mod registry;
mod stack;
mod sync;
mod trampoline;
mod unwind;
mod values;

pub use enter::{discard, enter, enter_on, register_trampoline};
pub use error::{Error, Unrecognised};
pub use inherit::{set_inheritable, set_inheritable_by};
pub use keyed::{del, get, set, with};
pub use local::LocalKey;
pub use slots::Slot;
pub use stack::{FootInfo, Kind, Stack, StackId, Survey, at_exit, id, reset, survey, unload};
