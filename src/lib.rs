//! Storage and exit handlers for any stack - thread, main thread or fiber - without having started it.
//!
//! The code that runs at this moment runs on some stack. Whoever made that stack, `exeunt` finds the place at its bottom
//! that decides where it goes when its entry function returns, and puts itself there: from then on the stack has values
//! of its own, and handlers that run when it ends.
//!
//! ```
//! # fn main() -> Result<(), exeunt::Error> {
//! // Nobody knows this thread: no hook, no wrapper, no cooperation.
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
//! | you want | use |
//! |---|---|
//! | something done when this stack ends | [`at_exit`] |
//! | a static with a value for each stack | [`stack_local!`], [`LocalKey`] |
//! | values under keys of any type | [`set`], [`get`], [`with`], [`del`], [`reset`], [`unload`], [`id`] |
//! | values that are visible to everything below a call | [`context`] |
//! | storage made and freed at run time | [`Slot`], [`slots`] |
//! | values that new stacks inherit | [`set_inheritable`], [`set_inheritable_by`] |
//! | an identity without any storage | [`tag`] |
//! | all this on fibers whose function never returns | [`enter()`], [`enter_on`], [`register_trampoline`], [`discard`] |
//! | to see what is found | [`Stack::current`], [`survey`], [`code_sites`] |
//!
//! # How it works
//!
//! A stack's *entry function* returns into its *exit trampoline*, code of the system: glibc's `start_thread`,
//! `__libc_start_call_main`, `__start_context`. The stack word that holds the return address is its *foot*. Arming a stack
//! means to write the address of a trampoline of ours into the foot. When the entry function returns, the trampoline saves
//! the result, *drains* the stack - handlers last in first out, then values, last set first - and goes on to the real exit.
//! (While it drains a mark is in the foot, by which a stack that is abandoned in a handler is known.)
//!
//! ```text
//!     an unarmed stack                an armed one                     while it drains
//!
//!  |  start_thread's     |         |  start_thread's     |         |  start_thread's     |
//!  |  own frame          |         |  own frame          |         |  own frame          |
//!  +---------------------+         +---------------------+         +---------------------+
//!  |  start_thread+0x2d5 |  foot   |  trampoline         |  foot   |  mark               |  foot
//!  +---------------------+         +---------------------+         +---------------------+
//!  |  entry function     |         |  entry function     |         |  trampoline, with   |
//!  |  ...                |         |  ...                |         |  start_thread+0x2d5 |
//!  |  your code          |         |  your code          |         |  drain              |
//!                                                                  |  your handler       |
//! ```
//!
//! Unwinders are told: the trampoline's unwind table leads them from it to the exit trampoline at every instruction, so
//! backtraces, debuggers, panics and exceptions work as before, with one more frame named `exeunt_trampoline`.
//!
//! Which stack this is, is asked of the stack pointer alone, by a table of pages (16 bytes each) that is filled by
//! unwinding when code reads on a page for the first time. No thread-local register is involved: that is why it is right
//! on a fiber that has moved to another thread, where `thread_local!` is not.
//!
//! # What you must do, and what is done for you
//!
//! | you | exeunt |
//! |---|---|
//! | Threads, `main`, and `makecontext` fibers that stay on their thread: nothing, and no `unsafe`. | Recognises the exit trampoline before it writes one word, or refuses with an [`Error`] that says what it found, having changed nothing. |
//! | Fibers that move between threads: what you store on them must be fit to move as well. `T: Send` is not asked for, as most stacks stay where they are; who moves a stack makes this promise for everything on it, as for its local variables. | The storage moves with the stack. |
//! | Fibers that never return to a known exit trampoline: run their function in [`enter()`], or register the wrapper that calls it. | Drains on return and on unwinding. |
//! | Before you unmap the memory of a suspended fiber, or cut it up anew, or make a fiber's stack of a local array, and on aarch64 before another fiber begins there that reads before it has stored something: [`discard`] it. | Memory that is used for another stack of the same base is noticed without: the new stack starts empty, and the old one's handlers run when it is first armed. (On aarch64 a read before that may still find the old one's value: each function stores its return address where it pleases, and a read makes no walk to see whose it is.) |
//! | Handlers and destructors do not end their thread by `pthread_exit`. A handler that suspends its fiber knows that it leaves the thread uncancellable. | Defers cancellation while a handler or a destructor runs. |
//! | The first use from a place in the code needs about 10 KiB of free stack, without optimisation 25 KiB; the first of a process, to learn its exit trampolines, up to 55 KiB without optimisation. | Later uses need at most 2 KiB, without optimisation 8 KiB. |
//! | A signal handler only reads what is there already: it makes, changes and drops nothing. | Reading is safe wherever a signal arrives; before glibc 2.35, where the unwinder takes a lock to look for its tables, not in the middle of that. |
//! | An allocator that uses storage, or a handler of `fork`, gets [`Error::Reentered`] while exeunt itself calls it, and does without. | Learns where stacks end without a lock. Where a call fails that it needs for that, says which, and tries again at the next use. |
//! | A handler that always registers another one, and values whose destructors always make each other anew, keep their stack from ending. | What is added while a stack ends is drained as well. |
//! | Who waits for a thread's handlers joins it. `std::thread::scope` and a pool that is dropped do not wait for them, nor for destructors of thread-locals; a global pool never ends. | |
//!
//! # What it does not do
//!
//! Handlers do not run when the process ends under a stack: by `_exit`, by a fatal signal, by `abort`, or when some stack
//! calls `exit`; then those of the main thread run, if it was the main thread itself, outside of [`enter()`], that called it.
//!
//! # The other way
//!
//! Where return addresses must stay as they are - on threads with a shadow stack (CET, GCS) a rewritten one would fault -
//! [`Redirect::Code`] patches the exit trampoline instead, once per process: a call that it makes when entry functions have
//! returned leads to a hook, which drains the stack if it is armed, and goes on to what was called before. [`Builder`]
//! chooses, or `EXEUNT_REDIRECT=code` in the environment.
//!
//! # Where things are
//!
//! Data goes one way: a face (`keyed`, `local`, `context`, `slots`) asks `arm` for the running stack's record; that looks
//! in the `registry`, or unwinds to the `foot`, and redirects it (`redirect`). An exit goes from `asm/` to `drain`, and
//! from there to the `record`.
#![warn(missing_docs)]

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

pub use base::error::Error;
pub use base::kind::Kind;
pub use base::redirect::Redirect;
pub use base::stack_id::StackId;
pub use base::unrecognised::Unrecognised;
pub use exit::redirect::code_site::CodeSite;
pub use face::at_exit::{at_exit, id, reset, unload};
pub use face::builder::Builder;
pub use face::code_sites::code_sites;
pub use face::discard::discard;
pub use face::enter::{enter, enter_on, register_trampoline};
pub use face::inherit::{set_inheritable, set_inheritable_by};
pub use face::keyed::{del, get, set, with};
pub use face::local::LocalKey;
pub use face::slots::{Shared, Slot};
pub use face::stack::{FootInfo, Stack};
pub use face::survey::{Survey, survey};
pub use face::{context, slots, tag};
