//! The tour's part about code redirect. It runs in a child process, because a process uses one
//! redirect only.
//!
//! The child is forked before this process arms its first stack. Its output is kept until the tour
//! gets to this part.

use crate::frames;
use crate::paint::{FAINT, GOOD, OURS, THEIRS, paint};
use anstream::println;
use exeunt::{Builder, CodeSite, Redirect, Stack};
use std::fs::File;
use std::io::{Error, Read};
use std::os::fd::{FromRawFd, IntoRawFd};

/// The child's output, with colours.
pub struct ChildOutput(Result<String, String>);

impl ChildOutput {
    /// Runs the child. This process must have one thread, and must not have armed a stack.
    pub fn collect() -> Self {
        Self(run_child().map_err(|error| format!("no child process: {error}")))
    }

    /// Prints the output, with colours on a terminal.
    pub fn print(self) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let text = self.0?;
        anstream::print!("{text}");
        // The last line is only there if everything succeeded.
        if text.contains(LAST) { Ok(()) } else { Err("the child process did not complete".into()) }
    }
}

const LAST: &str = "and its result arrived unchanged.";

fn run_child() -> Result<String, Error> {
    let (to_read, to_write) = std::io::pipe()?;
    let (to_read, to_write) = (to_read.into_raw_fd(), to_write.into_raw_fd());
    // SAFETY: this is the only thread of the process, so the child is a complete copy; each
    // descriptor is closed once.
    unsafe {
        match libc::fork() {
            0 => {
                libc::dup2(to_write, libc::STDOUT_FILENO);
                anstream::ColorChoice::Always.write_global();
                if let Err(problem) = show() {
                    println!("   {problem}");
                }
                libc::exit(0)
            }
            -1 => {
                let error = Error::last_os_error();
                libc::close(to_read);
                libc::close(to_write);
                Err(error)
            }
            child => {
                libc::close(to_write);
                let mut text = String::new();
                let read = File::from_raw_fd(to_read).read_to_string(&mut text);
                libc::waitpid(child, std::ptr::null_mut(), 0);
                read?;
                Ok(text)
            }
        }
    }
}

fn show() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    Builder::new().redirect(Redirect::Code).install()?;
    let result = std::thread::spawn(show_and_arm).join().map_err(|_| "the thread panicked")??;
    println!("   {} Joined, {LAST} ({result})", paint(GOOD, "✓"));
    Ok(())
}

/// The first site of the exit trampoline of threads.
fn site() -> Result<CodeSite, Box<dyn std::error::Error + Send + Sync>> {
    let sites = exeunt::code_sites()?;
    let site =
        sites.into_iter().find(|site| site.kind == exeunt::Kind::Thread).ok_or("no exit trampoline of threads")?;
    match site.problem {
        Some(problem) => Err(problem.into()),
        None => Ok(site),
    }
}

fn show_and_arm() -> Result<&'static str, Box<dyn std::error::Error + Send + Sync>> {
    let before = Stack::current().foot().cloned().ok_or("this thread's foot was not found")?;
    let (bare, foot) = (frames::addresses(), before.clone());
    exeunt::at_exit(move || {
        let frames = frames::addresses();
        let outer = frames::beyond_exit_trampoline(&frames, &foot);
        let complete = outer.is_some() && outer == frames::beyond_exit_trampoline(&bare, &foot);
        let verdict = if complete { "complete to the outermost frame" } else { "and it is NOT complete" };
        println!("   The hook runs the {}, {verdict}:", paint(OURS, "handler; its backtrace"));
        frames::print(&frames::named(&frames), &foot, true);
    })?;
    let site = site()?;
    println!("   One call in {} now leads to exeunt, for all later threads:", paint(THEIRS, &before.trampoline));
    println!("     {} {}", paint(FAINT, "before"), paint(THEIRS, &site.before));
    println!("     {} {}", paint(FAINT, "after "), paint(OURS, &site.after));
    if let Some(stub) = site.stub {
        println!("     {}", paint(FAINT, format!("the stub at {stub:#x}, in reach of the call, jumps to the hook")));
    }
    let after = Stack::current().foot().cloned().ok_or("this thread's foot was not found")?;
    let verdict = if before == after { "as it was" } else { "CHANGED" };
    println!("   The thread is armed, and its foot at {:#x} is {verdict}: {:#x}.", after.address, after.word);
    Ok("its result")
}
