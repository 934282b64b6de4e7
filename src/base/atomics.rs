//! The atomics that the registry is written with, in one place: the model checker's tests (`tests/model`) compile
//! the same files with its own.

pub(crate) use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, Ordering};
