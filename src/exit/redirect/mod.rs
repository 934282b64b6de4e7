//! The ways to make a stack's exit ours.
//!
//! | way | what is written | what an entry function returns to |
//! |---|---|---|
//! | [`slot`] | the stack's foot | a trampoline of ours, which goes on to the exit trampoline |
//! | [`code`] | once per process, a call in the exit trampoline | the exit trampoline, which calls a hook of ours |
//!
//! [`choice`] says which of them this process uses.

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
