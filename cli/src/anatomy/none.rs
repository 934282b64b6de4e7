//! Where there is no `/proc`: `exeunt anatomy` is for Linux.

use std::process::ExitCode;

/// What to draw; on this system, nothing.
#[derive(clap::Args)]
pub struct Options {
    /// The number of the process to draw
    process: Option<u32>,
    /// Draw stacks of this process
    #[arg(long = "self")]
    own: bool,
}

/// Says that this system is not supported.
pub fn run(options: &Options) -> ExitCode {
    let what = if options.own { "--self".to_owned() } else { format!("{:?}", options.process) };
    anstream::eprintln!("exeunt anatomy is for Linux: there is no /proc here to read {what} from.");
    ExitCode::FAILURE
}
