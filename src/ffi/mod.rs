//! The C face: `exeunt.h` is generated from this file, doc comments and all (`cbindgen.toml`).
//!
//! It is compiled with the feature `capi`, which cargo-c sets. It is a module of this package and not one apart, because
//! cargo-c, called at the root, takes what has such a feature and gives the library that package's name and version. What
//! is public here is for C; Rust has better names for it.
//!
//! No panic of ours crosses into C. A function that returns a code catches it and returns `EXEUNT_EPANIC`; one that cannot
//! (`exeunt_get`, `exeunt_id`) is `extern "C"`, where the language ends the process with the panic's message. The two
//! that call a function of the user's as an entry function are `extern "C-unwind"`: exceptions and forced unwinding pass
//! through them, and a panic of ours before that call ends the process.
#![allow(non_camel_case_types)]

mod cache;
mod code;
mod fibers;
mod handlers;
mod patch;
mod scope;
mod slots;
mod types;
mod values;
