//! The machine: what differs between processors, systems and C libraries.

pub(crate) mod arch;
pub(crate) mod clib;
pub(crate) mod os;
