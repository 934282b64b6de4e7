//! The arguments of `exeunt watch`.

use clap::{Args, ValueEnum};
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

/// What the command was asked for.
#[derive(Args, Clone)]
pub struct Options {
    /// Write the rows to FILE instead of standard error
    #[arg(long, short, value_name = "FILE")]
    pub output: Option<PathBuf>,

    /// Print one JSON object a line for each stack as it ends, and a last one for the process
    ///
    /// With --sort or --top they come when the process has ended.
    #[arg(long, conflicts_with = "summary")]
    pub json: bool,

    /// Print one row for each entry function, with counts and sums
    #[arg(long)]
    pub summary: bool,

    /// Print each row when its stack ends, and the rest at the end
    #[arg(long, conflicts_with_all = ["json", "summary", "sort", "top"])]
    pub live: bool,

    /// Write FILE for Perfetto or chrome://tracing: a track for each stack, an arrow for each birth
    #[arg(long, value_name = "FILE")]
    pub trace: Option<PathBuf>,

    /// Say where each stack was created, and where it waited when the process ended, frame by frame
    #[arg(long, conflicts_with_all = ["live", "summary"])]
    pub backtrace: bool,

    /// Watch the program's children as well: those that it forks, and programs that it executes
    ///
    /// All of them see the variables LD_PRELOAD and EXEUNT_WATCH in their environment.
    #[arg(long)]
    pub follow: bool,

    /// The order of the rows
    #[arg(long, value_enum, value_name = "COLUMN", default_value = "start")]
    pub sort: Column,

    /// Print the first N rows only
    #[arg(long, value_name = "N")]
    pub top: Option<usize>,

    /// Watch a process that runs already, until it ends or you interrupt exeunt
    ///
    /// The process goes on as before. Threads that are there have a row, and new ones get it when
    /// they end. A thread that gets a seccomp filter afterwards may be killed at its end.
    #[arg(long, value_name = "PID", conflicts_with_all = ["command", "follow", "backtrace"])]
    pub pid: Option<i32>,

    /// With --pid: leave the process after this time, as 10s, 500ms or 2m
    #[arg(long = "for", value_name = "TIME", value_parser = duration, requires = "pid")]
    pub time: Option<Duration>,

    /// For tests, with --pid: kill exeunt by SIGKILL at its Nth step
    #[arg(long, value_name = "N", hide = true, requires = "pid")]
    pub kill_at: Option<u32>,

    /// The program and its arguments
    #[arg(
        required_unless_present = "pid",
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "PROGRAM"
    )]
    pub command: Vec<OsString>,
}

impl Options {
    /// Whether rows are printed while the program runs.
    pub fn streams(&self) -> bool {
        self.live || self.json && self.sort == Column::Start && self.top.is_none()
    }
}

/// A time in words: a number and its unit.
fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.find(|letter: char| !letter.is_ascii_digit() && letter != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit = match unit {
        "ms" => 0.001,
        "s" | "" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err("the units are ms, s, m and h".into()),
    };
    let number: f64 = number.parse().map_err(|_| "it is a number with a unit, as 10s")?;
    Duration::try_from_secs_f64(number * unit).map_err(|error| error.to_string())
}

/// Columns by which rows are sorted.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Column {
    /// In the order of their creation
    Start,
    /// The longest life first
    Life,
    /// The most CPU time first, user and system
    Cpu,
    /// The deepest use of the stack first
    Stack,
    /// By name
    Name,
    /// By entry function
    Entry,
}
