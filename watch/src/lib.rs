//! The library that `exeunt watch` loads into the program that it watches (`LD_PRELOAD`).
//!
//! It stands in for `pthread_create`, `thrd_create` and `__libc_start_main`, is called at each
//! thread's end ([`exeunt::on_every_thread_end`], or where libc's code may not be changed
//! [`exeunt::at_exit`]), and writes a row for each into memory that it shares with the command
//! (`table.rs`). Fibers have a way of their own (`fibers.rs`). It uses the public face of exeunt
//! alone.
//!
//! - It keeps no descriptor open, so programs that close all descriptors go on as without it.
//! - exeunt starts some threads before `main`, which end at once: by them exeunt finds out where the
//!   entry functions of threads return to. No thread runs for long, so programs that fork go on as
//!   without it.
//! - After `fork` the child is not watched unless the command was asked to follow. Each row is
//!   written by the process that it belongs to.
//!
//! `attach.rs` is for a process that ran already (`exeunt watch --pid`), into which the command
//! gets this library by other means.
#![cfg(all(target_os = "linux", target_env = "gnu"))]

#[cfg(target_arch = "x86_64")]
mod attach;
mod backtrace;
mod begin;
mod create;
#[cfg(target_arch = "x86_64")]
mod description;
mod fibers;
mod files;
mod finish;
mod life;
#[cfg(target_arch = "x86_64")]
mod main_end;
mod room;
mod routine;
mod shared;
mod table;
mod touched;
mod waits;
