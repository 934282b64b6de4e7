//! The two redirects of a stack's exit.
//!
//! - Slot redirect ([`slot`]) writes the stack's foot. The entry function returns to a trampoline
//!   of exeunt's, which goes on to the exit trampoline.
//! - Code redirect ([`code`]) patches a call in the exit trampoline, once per process. The entry
//!   function returns to the exit trampoline, which calls a hook of exeunt's.
//!
//! The other files:
//!
//! - `choice`: which of the two this process uses.
//! - `plan`: what arming a stack writes, for both.
//! - `mark`: the word by which code redirect recognises a fiber's stack.
//! - `sites`, `site_search`, `site_refusal`: patching exit trampolines; finding the instructions;
//!   errors. `no_sites` has the names of `sites` where code redirect does not exist.
//! - `code_site`: the public description of one such instruction.
//! - `return_points`: where hooks return to.

pub(crate) mod choice;
pub(crate) mod code;
pub(crate) mod code_site;
pub(crate) mod mark;
pub(crate) mod plan;
pub(crate) mod return_points;
#[cfg(code_redirect)]
mod site_refusal;
#[cfg(code_redirect)]
mod site_search;
#[cfg(code_redirect)]
pub(crate) mod sites;
#[cfg(not(code_redirect))]
#[path = "no_sites.rs"]
pub(crate) mod sites;
pub(crate) mod slot;
