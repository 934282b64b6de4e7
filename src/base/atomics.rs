//! The atomics of the stack map and the records, in one place: the model checker's tests
//! (`tests/model`) compile the same files with its own atomics.

pub(crate) use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, Ordering};
