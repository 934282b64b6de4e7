//! `exeunt anatomy`: the stacks of this process or of another as labelled pictures.

mod exits;
mod fold;
mod html;
mod model;
mod objects;
mod other;
mod own;
mod process;
mod refusal;
mod registers;
mod snapshot;
mod style;
mod svg;
mod text;
mod unwind;
mod verdict;

use crate::paint::{BAD, TITLE, paint};
use anstream::println;
use exits::Exits;
use fold::Extent;
use model::{Anatomy, anatomy};
use process::Process;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// What to draw, and where.
#[derive(clap::Args)]
pub struct Options {
    /// The number of the process to draw
    #[arg(required_unless_present = "own", conflicts_with = "own", value_name = "PID")]
    process: Option<libc::pid_t>,
    /// Draw stacks of this process: a thread, a makecontext fiber, the main thread
    #[arg(long = "self")]
    own: bool,
    /// Draw one stack only: a thread's number, or thread, fiber or main of --self
    #[arg(long, value_name = "STACK")]
    only: Option<String>,
    /// Print all words, also long runs of words that lead nowhere
    #[arg(long)]
    all: bool,
    /// Draw the words of the N outermost frames only
    #[arg(long, value_name = "N")]
    frames: Option<usize>,
    /// Write a page (HTML) to this file, in place of the text
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Write a picture (SVG) to this file, in place of the text
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

/// Draws the stacks.
pub fn run(options: &Options) -> ExitCode {
    match draw(options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            anstream::eprintln!("{} {problem}", paint(BAD, "exeunt anatomy:"));
            ExitCode::FAILURE
        }
    }
}

fn draw(options: &Options) -> Result<(), String> {
    let (about, stacks) = stacks(options)?;
    let extent = Extent { all: options.all, frames: options.frames.unwrap_or(usize::MAX) };
    if options.html.is_none() && options.svg.is_none() {
        println!("{}: the anatomy of {about}", paint(TITLE, "exeunt"));
        stacks.iter().for_each(|stack| text::print(stack, extent));
    }
    if let Some(file) = &options.html {
        write(file, &html::page(&about, &stacks, extent))?;
    }
    if let Some(file) = &options.svg {
        write(file, &svg::picture(&about, &stacks, extent))?;
    }
    Ok(())
}

fn write(file: &Path, text: &str) -> Result<(), String> {
    std::fs::write(file, text).map_err(|error| format!("{} cannot be written: {error}", file.display()))
}

/// A description of the process, and its stacks.
fn stacks(options: &Options) -> Result<(String, Vec<Anatomy>), String> {
    let (process, snapshots) = match options.process.filter(|&number| number != std::process::id() as libc::pid_t) {
        None => {
            let snapshots = own::all()?;
            (Process::own(), snapshots)
        }
        Some(number) => {
            let process = Process::other(number).map_err(|error| refusal::of(number, &error))?;
            let snapshots = other::all(&process, number)?;
            (process, snapshots)
        }
    };
    let objects = objects::of(&process);
    let exits = Exits::of(&process, &objects);
    let wanted = snapshots.iter().filter(|snapshot| options.only.as_ref().is_none_or(|only| *only == snapshot.key));
    let stacks: Vec<_> = wanted.map(|snapshot| anatomy(&process, &objects, &exits, snapshot)).collect();
    if stacks.is_empty() {
        let keys: Vec<_> = snapshots.iter().map(|snapshot| snapshot.key.as_str()).collect();
        return Err(format!("No such stack. There are: {}.", keys.join(", ")));
    }
    let number = process.other.map_or_else(std::process::id, |number| number as u32);
    let program = std::fs::read_link(format!("/proc/{number}/exe")).unwrap_or_default();
    Ok((format!("process {number}, {}", program.display()), stacks))
}
