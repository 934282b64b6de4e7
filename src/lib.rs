//! Storage and exit handlers for any stack - thread, main thread or fiber - that some other code
//! started.
//!
//! Your code runs on some stack. `exeunt` finds the word on that stack that decides where the stack
//! goes when its entry function returns, and redirects it. From then on the stack has values of its
//! own, and handlers that run when it ends. The code that made the stack takes no part in this.
//!
//! ```
//! # fn main() -> Result<(), exeunt::Error> {
//! // An ordinary thread: no hook, no wrapper, no cooperation.
//! std::thread::spawn(|| -> Result<(), exeunt::Error> {
//!     exeunt::set("connection", String::from("db-1"))?;
//!     exeunt::at_exit(|| {
//!         let connection: Option<String> = exeunt::get(&"connection");
//!         println!("closing {connection:?}");
//!     })
//! })
//! .join()
//! .unwrap()
//! # }
//! ```
//!
//! # What there is
//!
//! - [`at_exit`]: code that runs when this stack ends; [`at_exit_stoppable`]: the same, to be taken
//!   back.
//! - [`ending`], [`returned_value`]: how the stack ends, and with what.
//! - [`stack_local!`], [`LocalKey`]: a static with a value for each stack.
//! - [`set`], [`get`], [`with`], [`del`], [`reset`], [`unload`], [`id`]: values under keys of any
//!   type, and the stack's identity.
//! - [`context`]: values that are visible to everything below a call, and that a future carries.
//! - [`Slot`], [`slots`]: storage that you create and free at run time.
//! - [`set_inheritable`], [`set_inheritable_by`]: values that new stacks inherit.
//! - [`tag`]: an identity without any storage.
//! - [`enter()`], [`enter_on`], [`register_trampoline`], [`discard`]: all this on fibers whose
//!   function never returns.
//! - [`Stack::current`], [`stacks`], [`survey`], [`code_sites`], [`is_own_trampoline`]: diagnosis.
//! - [`on_every_end`], [`on_every_thread_end`], [`restore_code_sites`], [`reserve`], [`at_exit_at_foot`]: for tools
//!   that watch a whole program.
//!
//! # Errors and panics
//!
//! A function that can fail returns a [`Result`], and after an error nothing has changed. Two faces
//! have the manners of their models: [`LocalKey`] is used as std's, and [`context`] as
//! goroutine-context packages. Their functions panic with the error's text and the caller's line,
//! and each has a form beside it that does not ([`LocalKey::try_with`], [`context::try_with`],
//! [`context::try_get`], [`context::Captured::try_enter`]). Calls that only read ([`get`], [`with`],
//! [`Slot::get`]) never fail: what is not there is `None`.
//!
//! What makes a call fail is the stack, which cannot be armed, or a lack of memory; and
//! [`Error::Busy`] if a key's `Eq` changes values while exeunt compares keys.
//!
//! # How it works
//!
//! A stack's *entry function* returns into its *exit trampoline*, code of the system: glibc's
//! `start_thread`, `__libc_start_call_main`, `__start_context`. The stack word that holds this
//! return address is the stack's *foot*. To *arm* a stack means to write the address of a
//! trampoline of exeunt's into the foot. When the entry function returns, the trampoline saves the
//! result and *drains* the stack: handlers run last in first out, then values are dropped, last set
//! first. Then it goes on to the exit trampoline. While the stack drains, the foot holds a canary.
//! By the canary exeunt recognises a stack that was abandoned in a handler.
//!
//! ```text
//!     an unarmed stack                an armed one                     while it drains
//!
//!  |  start_thread's     |         |  start_thread's     |         |  start_thread's     |
//!  |  own frame          |         |  own frame          |         |  own frame          |
//!  +---------------------+         +---------------------+         +---------------------+
//!  |  start_thread+0x2d5 |  foot   |  trampoline         |  foot   |  canary             |  foot
//!  +---------------------+         +---------------------+         +---------------------+
//!  |  entry function     |         |  entry function     |         |  trampoline, with   |
//!  |  ...                |         |  ...                |         |  start_thread+0x2d5 |
//!  |  your code          |         |  your code          |         |  drain              |
//!                                                                  |  your handler       |
//! ```
//!
//! The trampoline has an unwind table that leads from each of its instructions to the exit
//! trampoline. So backtraces, debuggers, panics and exceptions work as before, with one more frame
//! named `exeunt_trampoline`.
//!
//! The stack pointer alone says which stack this is. A table of pages (16 bytes each) leads from it
//! to the stack's record. Unwinding fills the table when code reads on a page for the first time.
//! No thread-local register is involved. So the answer is right on a fiber that has moved to
//! another thread, where `thread_local!` gives another thread's value.
//!
//! # What you must do, and what exeunt does
//!
//! - **Threads, `main`, and `makecontext` fibers that stay on their thread.** You do nothing, and
//!   need no `unsafe`. Exeunt recognises the exit trampoline before it writes one word. Otherwise
//!   it changes nothing and returns an [`Error`] that says what it found.
//! - **Fibers that move between threads.** Store on them only what may move as well. Exeunt does
//!   not ask for `T: Send`, as most stacks stay where they are. If you move a stack, you make this
//!   promise for everything on it, as you do for its local variables. The storage moves with the
//!   stack.
//! - **Fibers that never return to a known exit trampoline.** Run their function in [`enter()`], or
//!   register the wrapper that calls it. Exeunt drains on return and on unwinding.
//! - **Memory of suspended fibers.** [`discard`] it before you unmap it, cut it up anew, or make a
//!   fiber's stack of a local array. On aarch64 also discard it before another fiber begins there
//!   that reads before it has stored something. Without `discard`, exeunt notices memory that is
//!   used for another stack with the same base when it arms that stack: the new stack starts empty,
//!   and the old one's handlers run then. On aarch64 a read before that may still find a value of
//!   the old stack. There each function stores its return address at a place of its own choice, and
//!   a read makes no walk to check whose stack it is.
//! - **Cancellation.** Handlers and destructors must not end their thread by `pthread_exit`. Exeunt
//!   defers cancellation while a handler or a destructor runs. A handler that suspends its fiber
//!   leaves its thread uncancellable.
//! - **Room on the stack.** The first use from a place in the code needs about 10 KiB of free
//!   stack, without optimisation 25 KiB. The first use in a process learns the exit trampolines,
//!   which needs up to 55 KiB without optimisation. Later uses need at most 2 KiB, without
//!   optimisation 8 KiB.
//! - **Signal handlers.** Only read what is stored already: a handler must not make, change or drop
//!   anything. Reading is safe wherever a signal arrives. Before glibc 2.35 the unwinder takes a
//!   lock to find its tables, and reading is not safe in the middle of that.
//! - **Allocators and handlers of `fork` that use storage.** They get [`Error::Reentered`] while
//!   exeunt itself calls them, and must do without. Exeunt learns where stacks end without a lock.
//!   Where a call fails that it needs for that, the error names the call, and the next use tries
//!   again.
//! - **Ends without end.** What is added while a stack ends is drained as well. So a handler that
//!   always registers another one keeps its stack from ending, and so do values whose destructors
//!   always make each other anew.
//! - **Waiting for a thread's handlers.** Join the thread. `std::thread::scope` and a pool that is
//!   dropped do not wait for handlers, nor for destructors of thread-locals. A global pool never
//!   ends.
//!
//! # What it does not do
//!
//! Handlers do not run when the process ends under a stack: by `_exit`, by a fatal signal, by
//! `abort`, or by a call of `exit` on some stack. Only a main thread that calls `exit` itself,
//! outside of [`enter()`], runs its own handlers then.
//!
//! # Code redirect
//!
//! Where return addresses must stay as they are, use [`Redirect::Code`]: on threads with a shadow
//! stack (CET, GCS) a rewritten one would fault. It patches each exit trampoline once per process.
//! A call that the exit trampoline makes when entry functions have returned then leads to a hook.
//! The hook drains the stack if it is armed, and goes on to the function that was called before.
//! Choose with [`Builder`], or with `EXEUNT_REDIRECT=code` in the environment.
//!
//! # Where things are
//!
//! `ARCHITECTURE.md` has the layers, the life of a stack through files and functions, and what
//! keeps each invariant. Each folder of `src/` is a layer. From the ground up: `base`, `machine`,
//! `unwind`, `map`, `storage`, `record`, `exit`, `life`, `face`, `ffi`. A file uses its own layer
//! and those below. A use goes from `face` through `life` (`arm`, `lookup`) to `record`, an end of
//! a stack from `asm/` through `life` (`drain`, `hooks`) to `record`.
#![warn(missing_docs)]
#![cfg_attr(test, allow(clashing_extern_declarations, reason = "a test of exit/trampoline.rs asks for addresses only"))]

mod base;
mod exit;
mod face;
#[cfg(feature = "capi")]
mod ffi;
mod life;
mod machine;
mod map;
mod record;
mod storage;
mod unwind;

pub use base::ending::{Ending, StackEnd};
pub use base::error::Error;
pub use base::kind::Kind;
pub use base::redirect::Redirect;
pub use base::stack_id::StackId;
pub use base::unrecognised::{Frame, Unrecognised};
pub use exit::redirect::code_site::CodeSite;
pub use face::at_exit::{Registration, at_exit, at_exit_at_foot, at_exit_stoppable, id, reset, unload};
pub use face::builder::Builder;
pub use face::code_sites::{code_sites, restore_code_sites};
pub use face::discard::discard;
pub use face::ending::{ending, returned_value};
pub use face::enter::{enter, enter_on, register_trampoline};
pub use face::every_end::{EveryEnd, on_every_end, on_every_thread_end};
pub use face::inherit::{set_inheritable, set_inheritable_by};
pub use face::keyed::{del, get, set, with};
pub use face::local::LocalKey;
pub use face::reserve::{Reservation, reserve};
pub use face::slots::{Shared, Slot};
pub use face::stack::{FootInfo, Stack};
pub use face::stacks::{ArmedStack, stacks};
pub use face::survey::{ExitTrampoline, Survey, is_own_trampoline, survey};
pub use face::{context, slots, tag};
pub use storage::key::Key;
