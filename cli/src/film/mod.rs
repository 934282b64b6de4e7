//! `exeunt film`: records a stack from its beginning to its end, instruction by instruction, and
//! makes a page, a text or JSON of it.
//!
//! | file | has |
//! |---|---|
//! | `kind` | what can be filmed |
//! | `actor` | the filmed process |
//! | `tracee`, `tracee/` | the recorder's hold on it, by ptrace or an emulator's stub |
//! | `stub` | a debugger's stub, by GDB's remote protocol |
//! | `processor/` | registers, breakpoints and instructions of each processor |
//! | `goroutine/` | the film of a goroutine: its program and what is different |
//! | `objects`, `debug_frame` | names and unwind tables of the mapped files |
//! | `unwinder` | backtraces with the rows that lead from frame to frame |
//! | `record` | finds the record and the stack map's entry in the child's memory |
//! | `camera` | shots, single steps, fast-forward |
//! | `script` | what is filmed of each kind of stack |
//! | `words`, `narrate`, `cook` | from shots to the recording: what each word is, sentences |
//! | `recording` | the recording |
//! | `result` | the error of all that can fail |
//! | `page` | the page, with `page.css` and `page.js` |
//! | `svg` | an animated picture |
//! | `text` | the film in a terminal |

mod actor;
mod camera;
mod cook;
mod debug_frame;
mod goroutine;
mod kind;
mod narrate;
mod objects;
mod page;
mod processor;
mod record;
mod recording;
mod result;
mod script;
mod stub;
mod svg;
mod text;
mod tracee;
mod unwinder;
mod words;

pub use kind::Kind;

use camera::Camera;
use recording::Recording;
use result::Result;
use std::path::PathBuf;
use std::process::ExitCode;
use tracee::Tracee;

/// How often the film of a goroutine begins anew where Go's runtime wants to preempt it.
const ATTEMPTS: usize = 5;

/// What the command makes of a recording.
#[derive(clap::Args)]
pub struct Options {
    /// What to film
    #[arg(default_value = "thread")]
    kind: Kind,
    /// Write the page to this file instead of film-KIND.html
    ///
    /// A name that ends in .svg gets an animated picture with a scene for each chapter.
    #[arg(short, long, value_name = "FILE", conflicts_with_all = ["text", "json"])]
    output: Option<PathBuf>,
    /// Play the film in the terminal instead
    ///
    /// On a terminal Enter goes on to the next step, b goes back, a number goes to that step, and q
    /// ends. Elsewhere all steps are printed.
    #[arg(long)]
    text: bool,
    /// Print the recording as one JSON object instead
    #[arg(long, conflicts_with = "text")]
    json: bool,
    /// Run the filmed process by this emulator, a command of QEMU's user mode
    ///
    /// The emulator's stub for debuggers takes the place of ptrace, which QEMU's user mode does not
    /// have. On x86_64, with this program compiled for aarch64:
    /// qemu-aarch64-static -cpu max exeunt film --emulator "qemu-aarch64-static -cpu max"
    #[arg(long, value_name = "COMMAND")]
    emulator: Option<String>,
    /// Be the filmed process
    #[arg(long, hide = true)]
    actor: bool,
}

pub fn run(options: &Options) -> ExitCode {
    if options.actor {
        return actor::run(options.kind, options.emulator.is_some());
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
    let recording = recorded(options.kind, options.emulator.as_deref())?;
    if options.json {
        println!("{}", serde_json::to_string(&recording)?);
        return Ok(());
    }
    if options.text {
        return Ok(text::play(&recording)?);
    }
    let file = options.output.clone().unwrap_or_else(|| format!("film-{}.html", options.kind.name()).into());
    let page = if file.extension().is_some_and(|end| end == "svg") {
        svg::picture(&recording)
    } else {
        page::page(&recording)?
    };
    std::fs::write(&file, &page).map_err(|error| format!("{}: {error}", file.display()))?;
    println!(
        "{}: {} steps, {} kB. Open it in a browser.",
        file.display(),
        recording.steps.len(),
        page.len().div_ceil(1000)
    );
    Ok(())
}

/// Films a stack of this kind.
fn recorded(kind: Kind, emulator: Option<&str>) -> Result<Recording> {
    if kind == Kind::Goroutine {
        return recorded_goroutine(emulator);
    }
    let (tracee, facts) = Tracee::start(kind.name(), emulator)?;
    let mut camera = Camera::new(tracee, facts)?;
    script::film(kind, &mut camera)?;
    developed(kind, camera)
}

/// Films a goroutine.
fn recorded_goroutine(emulator: Option<&str>) -> Result<Recording> {
    let program = goroutine::program::build()?;
    for _ in 0..ATTEMPTS {
        let (tracee, facts, goroutine) = goroutine::start::start(&program, emulator)?;
        let mut camera = Camera::new(tracee, facts)?;
        camera.goroutine = Some(goroutine);
        if goroutine::script::film(&mut camera)? {
            return developed(Kind::Goroutine, camera);
        }
    }
    Err("Go's runtime preempted the goroutine at its beginning, each time".into())
}

/// Lets the filmed process go on to its end, and makes the recording.
fn developed(kind: Kind, camera: Camera) -> Result<Recording> {
    let (film, status) = camera.finish()?;
    if status != 0 {
        return Err(format!("the filmed process ended with status {status}, and not as it should").into());
    }
    cook::recording(kind, film)
}
