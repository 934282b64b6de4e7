//! The vocabulary. Every other layer may use this one; this one uses no other layer.
//!
//! | file | what it defines |
//! |---|---|
//! | `error`, `unrecognised` | the public error and its report of an unknown stack |
//! | `kind`, `stack_id`, `redirect` | the kinds of stacks, their identity, the two redirects |
//! | `ending` | how a stack ends |
//! | `foot` | what a walk finds out about a foot |
//! | `limits` | fixed capacities |
//! | `alloc`, `counted` | allocation and reference counting that can fail |
//! | `guard`, `cancellation` | guards: run at the end, catch panics, disable cancellation |
//! | `cold` | the hint that a branch is rarely taken |
//! | `symbols` | names for addresses |
//! | `atomics` | the atomics that the model checker replaces |
//! | `testing` | a unit test in a process of its own |

pub(crate) mod alloc;
pub(crate) mod atomics;
pub(crate) mod cancellation;
pub(crate) mod cold;
pub(crate) mod counted;
pub(crate) mod ending;
pub(crate) mod error;
pub(crate) mod foot;
pub(crate) mod guard;
pub(crate) mod kind;
pub(crate) mod limits;
pub(crate) mod redirect;
pub(crate) mod stack_id;
pub(crate) mod symbols;
#[cfg(test)]
pub(crate) mod testing;
pub(crate) mod unrecognised;
