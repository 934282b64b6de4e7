//! `exeunt film`: records a stack from its beginning to its end, instruction by instruction, and
//! makes a page, a text or JSON of it.
//!
//! | file | has |
//! |---|---|
//! | `kind` | what can be filmed |
//! | `actor` | the filmed process |
//! | `tracee` | the recorder's hold on it, by ptrace |
//! | `processor/` | registers, breakpoints and instructions of each processor |
//! | `objects` | names and unwind tables of the mapped files |
//! | `unwinder` | backtraces with the rows that lead from frame to frame |
//! | `record` | finds the record and the stack map's entry in the child's memory |
//! | `camera` | shots, single steps, fast-forward |
//! | `script` | what is filmed of each kind of stack |
//! | `words`, `narrate`, `cook` | from shots to the recording: what each word is, sentences |
//! | `recording` | the recording |

mod actor;
mod camera;
mod cook;
mod kind;
mod narrate;
mod objects;
mod processor;
mod record;
mod recording;
mod script;
mod tracee;
mod unwinder;
mod words;

pub use kind::Kind;

use camera::Camera;
use recording::Recording;
use std::process::ExitCode;
use tracee::{Result, Tracee};

/// What the command makes of a recording.
#[derive(clap::Args)]
pub struct Options {
    /// What to film
    #[arg(default_value = "thread")]
    kind: Kind,
    /// Print the recording as JSON
    #[arg(long)]
    json: bool,
    /// Be the filmed process
    #[arg(long, hide = true)]
    actor: bool,
}

pub fn run(options: &Options) -> ExitCode {
    if options.actor {
        return actor::run(options.kind);
    }
    match show(options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            anstream::eprintln!("exeunt film: {error}");
            ExitCode::FAILURE
        }
    }
}

fn show(options: &Options) -> Result<()> {
    let recording = record(options.kind)?;
    if options.json {
        println!("{}", serde_json::to_string(&recording)?);
    }
    Ok(())
}

/// Films a stack of this kind.
fn record(kind: Kind) -> Result<Recording> {
    let (tracee, facts) = Tracee::start(kind.name())?;
    let mut camera = Camera::new(tracee, facts)?;
    script::film(kind, &mut camera)?;
    let (film, status) = camera.finish()?;
    if status != 0 {
        return Err(format!("the filmed process ended with status {status}, and not as it should").into());
    }
    cook::recording(kind, film)
}
