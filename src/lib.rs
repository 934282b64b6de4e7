//! Storage and exit handlers for any stack - thread, main thread or fiber - without having started it.

mod arch;
mod arm;
mod drain;
mod error;
mod exits;
mod foot;
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

pub use error::{Error, Unrecognised};
pub use keyed::{del, get, set, with};
pub use local::LocalKey;
pub use stack::{FootInfo, Kind, Stack, StackId, Survey, at_exit, id, reset, survey, unload};
