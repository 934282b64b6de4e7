//! `exeunt film` where nothing can be filmed yet.

use std::process::ExitCode;

#[derive(clap::Args)]
pub struct Options {
    #[arg(hide = true, num_args = 0.., allow_hyphen_values = true, trailing_var_arg = true)]
    rest: Vec<String>,
}

pub fn run(_: &Options) -> ExitCode {
    anstream::eprintln!("exeunt film: films are recorded on Linux with glibc only.");
    ExitCode::FAILURE
}
