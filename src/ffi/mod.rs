//! The C face. `cargo run --package exeunt-header -- --write` makes `include/exeunt.h` from this
//! folder, doc comments and all: C programmers read them. `# Safety` becomes "Requires:" there.
//!
//! - `types`: the function types.
//! - `handlers`: `exeunt_at_exit`, `exeunt_at_exit_owned`, `exeunt_at_exit_stoppable`,
//!   `exeunt_stop`, `exeunt_unload`, `exeunt_id`.
//! - `ending`: `exeunt_ending`, `exeunt_returned_value`, `exeunt_stacks`.
//! - `every_end`: `exeunt_on_every_end`, `exeunt_on_every_thread_end`, `exeunt_stop_every_end`.
//! - `values`, `cache`: keyed values.
//! - `slots`: dynamic slots.
//! - `fibers`: `exeunt_enter`, `exeunt_enter_on`, `exeunt_discard`, `exeunt_register_trampoline`.
//! - `scope`: `exeunt_scope_begin`, `exeunt_scope_end`.
//! - `patch`: `exeunt_redirect_call`, `exeunt_undo_redirect_call`.
//! - `redirect`: `exeunt_install_redirect`, `exeunt_restore_code_sites`,
//!   `exeunt_is_own_trampoline`.
//! - `reserve`: `exeunt_reserve`, `exeunt_arm_reserved`, `exeunt_drop_reservation`.
//! - `version`: `exeunt_version`.
//! - `code`: the codes, `exeunt_strerror`, `exeunt_last_code`, `exeunt_last_error`.
//!
//! The feature `capi`, which `install-c` sets, compiles it. The public items here are for C. Rust
//! has better names for them.
//!
//! No panic of exeunt's crosses into C. A function that returns a code catches the panic and
//! returns `EXEUNT_EPANIC`. A function that cannot (`exeunt_get`, `exeunt_id`) is `extern "C"`,
//! where the language ends the process with the panic's message. The two functions that call an
//! entry function of yours are `extern "C-unwind"`: exceptions and forced unwinding pass through
//! them. A panic of exeunt's before that call ends the process.
#![allow(non_camel_case_types)]

mod cache;
mod code;
mod ending;
mod every_end;
mod fibers;
mod handlers;
mod patch;
mod redirect;
mod reserve;
mod scope;
mod slots;
mod types;
mod values;
mod version;
