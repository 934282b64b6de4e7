//! The parts of `exeunt watch --pid` that need no ptrace, in this process: so they are tested on aarch64
//! as well, whose emulator has none.
#![cfg(all(test, target_os = "linux", target_env = "gnu"))]

#[path = "../../../watch/src/description.rs"]
mod description;
#[path = "../../../cli/src/watch/attach/frame/mod.rs"]
mod frame;
mod injected_frame;
#[path = "../../../watch/src/routine.rs"]
#[allow(dead_code, reason = "the rest is for the library")]
mod routine;
mod thread_description;
#[path = "../../../watch/src/touched.rs"]
#[allow(dead_code, reason = "the rest is for the library")]
mod touched;
