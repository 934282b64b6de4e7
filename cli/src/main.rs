//! `exeunt`: the tour of the library on this machine; `exeunt doctor`, which reports what this
//! machine allows; `exeunt watch`, which prints a row for each thread of a program; `exeunt anatomy`,
//! which draws stacks; `exeunt film`, which records the end of a stack.

#[cfg_attr(not(target_os = "linux"), path = "anatomy/none.rs")]
mod anatomy;
mod doctor;
#[cfg_attr(not(target_env = "gnu"), path = "no_fiber.rs")]
mod fiber;
#[cfg_attr(not(all(target_os = "linux", target_env = "gnu")), path = "no_film.rs")]
mod film;
mod frames;
mod machine;
mod memory_map;
mod paint;
mod stacks;
mod tour;
#[cfg(target_os = "linux")]
mod trace_rights;
mod watch;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Storage and exit handlers for any stack - thread, main thread or fiber - also if you did not
/// start it.
///
/// Without a command, exeunt gives a tour. It arms a thread, a makecontext fiber that changes
/// threads, and the main thread of this process. For each stack it shows the frames, the stack's
/// foot before and after, the handlers as they run, and a complete backtrace from one of them.
#[derive(Parser)]
#[command(name = "exeunt", version, max_term_width = 100)]
#[command(
    after_help = "Output is coloured on terminals only. NO_COLOR=1 turns colours off, CLICOLOR_FORCE=1 turns them on."
)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Report what this machine allows, and test every kind of stack and every way to end
    ///
    /// The doctor reports what it finds: architecture, kernel, libc, shadow stack, pointer
    /// authentication, page protection, membarrier, the exit trampolines and where they are, unwind
    /// tables. It tests every kind of stack and every way to end, each in its own child process.
    #[command(after_help = "Exit status: 0 if all self-tests passed, 1 if one failed, 2 if the arguments are wrong.")]
    Doctor {
        /// Print one JSON object instead of the text
        ///
        /// The object has the same content as the text. cli/doctor.md describes its members. The
        /// member `version` is 1; it changes only if a member is removed or changes its meaning.
        #[arg(long)]
        json: bool,
    },
    /// Run a program and print a row for each of its threads: what it was, took and how it ended
    ///
    /// The program is any dynamically linked one of glibc's: it needs no rights, no debug
    /// information and no change. The rows go to standard error. exeunt ends as the program ends.
    /// It passes on these signals: HUP, INT, QUIT, TERM, USR1, USR2, ALRM and WINCH.
    ///
    /// With --pid it watches a process that runs already, which goes on as before.
    #[command(
        after_help = "Exit status: the program's; 2 if the arguments are wrong, 125 if exeunt fails, 126 if the program \
                      cannot be watched, 127 if it was not found."
    )]
    Watch(watch::Options),
    /// Draw the stacks of a process, word by word, and what exeunt would write there
    ///
    /// Each word from the stack pointer to the foot is classed: return address, saved register,
    /// pointer into the stack, to the heap, to code, and others. The frames come with the rows of
    /// their unwind tables. The picture ends with what exeunt would write, and whether it could.
    ///
    /// Each thread of another process is stopped (by ptrace) for the time of a copy, one after the
    /// other. Nothing is written there. A thread that waits goes on waiting; a few system calls, as
    /// epoll_wait, return EINTR, as after SIGSTOP and SIGCONT.
    #[command(
        override_usage = "exeunt anatomy [OPTIONS] <PID>\n       exeunt anatomy [OPTIONS] --self",
        after_help = "Exit status: 0 if stacks were drawn, 1 if not, 2 if the arguments are wrong."
    )]
    Anatomy(anatomy::Options),
    /// Film the end of a stack, instruction by instruction
    ///
    /// The film is recorded on this machine. It becomes a page in which you step through every
    /// instruction: the stack, the registers, the code, the backtrace and its unwind rows.
    #[command(after_help = "Exit status: 0 if the film was recorded, 1 if not, 2 if the arguments are wrong.")]
    Film(film::Options),
}

fn main() -> ExitCode {
    // Rust's runtime ignores SIGPIPE, so a print into a closed pipe would panic. With the default
    // action `exeunt | head` just ends. SAFETY: no other thread runs yet, and the default action
    // runs no code of this program.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
    match Arguments::parse().command {
        None => tour::run(),
        Some(Command::Doctor { json }) => doctor::run(json),
        Some(Command::Watch(options)) => watch::run(&options),
        Some(Command::Anatomy(options)) => anatomy::run(&options),
        Some(Command::Film(options)) => film::run(&options),
    }
}
