//! `exeunt`: the tour of the library on the machine at hand, and `exeunt doctor`, which says what this machine allows.

mod code;
mod doctor;
#[cfg_attr(target_os = "macos", path = "no_fiber.rs")]
mod fiber;
mod frames;
mod machine;
mod paint;
mod picture;
mod places;
mod tour;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Storage and exit handlers for any stack - thread, main thread or fiber - without having started it.
///
/// Without a command this is the tour: it arms a thread, a makecontext fiber that changes threads, and the main thread
/// of this very process, and shows for each one the bottom frames, the stack's foot before and after, the handlers
/// running, and a complete backtrace from within one of them.
#[derive(Parser)]
#[command(name = "exeunt", version, max_term_width = 100)]
#[command(after_help = "Colours are for terminals only; NO_COLOR=1 turns them off, CLICOLOR_FORCE=1 on.")]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Say what this machine allows, and test every kind of stack and every end
    ///
    /// Says what this machine allows: architecture, kernel, libc, the exit trampolines recognised and where they are,
    /// shadow stack, pointer authentication, page protection, membarrier, unwind tables. Then it tests every kind of
    /// stack and every end, each test in a child process of its own.
    #[command(
        after_help = "Exit status: 0 if all self-tests passed, 1 if one failed, 2 for a mistake in the arguments."
    )]
    Doctor {
        /// Print one JSON object in place of the text
        ///
        /// The same for machines: one object whose shape is described in cli/doctor.md. Its member `version` is 1, and
        /// another number only if a member was removed or changed its meaning.
        #[arg(long)]
        json: bool,
    },
}

fn main() -> ExitCode {
    // Rust's runtime ignores SIGPIPE, and a print into a closed pipe would be a panic. `exeunt | head` shall just end.
    // SAFETY: no other thread runs yet, and the default action is no code of ours.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
    match Arguments::parse().command {
        None => tour::run(),
        Some(Command::Doctor { json }) => doctor::run(json),
    }
}
