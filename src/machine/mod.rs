//! The machine: everything that differs between processors, systems and C libraries. The head of
//! each module lists what a new one has to provide.
//!
//! | module | a file for each | today |
//! |---|---|---|
//! | [`arch`] | processor | `x86_64`, `aarch64` |
//! | [`os`] | system | `linux`, `macos`; `unix` for what both share |
//! | [`clib`] | C library | `glibc`, `apple` |
//!
//! A new processor also needs a file in `asm/` and its registers in `unwind/registers.rs`. For code
//! redirect it needs a folder in `patch/src/engine/`, and its cases in `exit/redirect/`. A new C
//! library also needs a file in `exit/landing/`.

pub(crate) mod arch;
pub(crate) mod clib;
pub(crate) mod os;
