//! The library that `exeunt watch` loads into the program that it watches (`LD_PRELOAD`).
//!
//! It stands in for `pthread_create`, `thrd_create` and `__libc_start_main`, puts a handler of
//! [`exeunt::at_exit`] on each stack, and writes a row for each into memory that it shares with the
//! command (`table.rs`). It uses the public face of exeunt alone.
//!
//! - It keeps no descriptor open and starts no thread of its own, so programs that close all
//!   descriptors or fork go on as without it.
//! - It prints nothing.
//! - After `fork` the child is not watched unless the command was asked to follow. Each row is written
//!   by the process that it belongs to.
#![cfg(all(target_os = "linux", target_env = "gnu"))]

mod backtrace;
mod begin;
mod create;
mod files;
mod finish;
mod life;
mod room;
mod shared;
mod table;
mod touched;
