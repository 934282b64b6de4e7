//! `exeunt watch`: a row for each thread of a program that somebody else wrote.
//!
//! A library of this workspace (`watch/`) is loaded into the program. It writes a row for each stack
//! into memory that both processes share, and this command prints them.

#[cfg(target_os = "linux")]
#[cfg_attr(not(all(target_env = "gnu", target_arch = "x86_64")), path = "attach_none.rs")]
mod attach;
#[cfg(target_os = "linux")]
mod memory;
#[cfg(target_os = "linux")]
mod names;
#[cfg_attr(
    not(all(target_os = "linux", target_env = "gnu", target_arch = "x86_64")),
    allow(dead_code, reason = "the arguments are parsed on every system")
)]
mod options;
#[cfg(target_os = "linux")]
#[cfg_attr(not(all(target_env = "gnu", target_arch = "x86_64")), allow(dead_code, reason = "for `attach`"))]
mod process;
#[cfg(target_os = "linux")]
mod refusal;
#[cfg(target_os = "linux")]
mod report;
#[cfg(target_os = "linux")]
mod stacks;
#[cfg(target_os = "linux")]
mod table;
#[cfg(target_os = "linux")]
mod trace;
#[cfg(target_os = "linux")]
mod waits;

pub use options::Options;
use std::process::ExitCode;

#[cfg(not(target_os = "linux"))]
pub fn run(_: &Options) -> ExitCode {
    eprintln!("exeunt watch: it is for Linux");
    ExitCode::from(125)
}

#[cfg(target_os = "linux")]
pub fn run(options: &Options) -> ExitCode {
    match watch(options) {
        Ok(code) => code,
        Err(refusal) => {
            refusal::say(&refusal.reason);
            ExitCode::from(refusal.status)
        }
    }
}

#[cfg(target_os = "linux")]
fn watch(options: &Options) -> Result<ExitCode, refusal::Refusal> {
    use refusal::{FAILED, Refusal};
    use std::os::unix::process::CommandExt;
    use std::sync::atomic::Ordering::Relaxed;

    const LIBRARY: &[u8] = exeunt_watch_embed::preload!();
    let failed = |what: &str| {
        let what = what.to_owned();
        move |error: std::io::Error| Refusal { reason: format!("{what}: {error}"), status: FAILED }
    };
    if LIBRARY.is_empty() {
        let reason = "this exeunt was built without the library that watches, which is for glibc".to_owned();
        return Err(Refusal { reason, status: FAILED });
    }
    if let Some(process) = options.pid {
        return attach::watch(options, process, LIBRARY);
    }
    let [name, arguments @ ..] = &options.command[..] else {
        return Err(Refusal { reason: "no program is named".into(), status: FAILED });
    };
    let program = refusal::program(name)?;
    let mut output = report::Output::open(options.output.as_deref()).map_err(failed("the output"))?;
    let trace = options.trace.as_ref().map(std::fs::File::create).transpose().map_err(failed("the trace"))?;
    let library = memory::library(LIBRARY).map_err(failed("the library's memory"))?;
    let (table_file, table, births) = memory::table().map_err(failed("the table's memory"))?;

    let mut preload = std::ffi::OsString::from(memory::path(&library));
    if let Some(before) = std::env::var_os("LD_PRELOAD").filter(|before| !before.is_empty()) {
        preload.push(":");
        preload.push(before);
    }
    let mut command = std::process::Command::new(&program.file);
    command.arg0(&program.words[0]).args(&program.words[1..]).args(arguments);
    command.env("LD_PRELOAD", preload).env(table::VARIABLE, memory::place(&table_file));
    table.follow.store(options.follow.into(), Relaxed);
    table.backtraces.store(options.backtrace.into(), Relaxed);
    process::start(command).map_err(failed(&program.file.display().to_string()))?;

    let mut stacks = stacks::Stacks::new(table, births);
    let mut told = std::collections::HashSet::new();
    // The program's status counts, whatever becomes of the rows. After a failure nothing more is
    // written, as it could not be told what is missing.
    let mut failure = report::begin(&mut output, options).err();
    let mut stream = || {
        if failure.is_some() {
            return;
        }
        let ended = stacks.ended();
        told.extend(ended.iter().map(|stack| stack.id));
        failure = report::stream(&mut output, options, &ended).err();
    };
    let meanwhile: Option<&mut dyn FnMut()> = if options.streams() { Some(&mut stream) } else { None };
    let end = process::wait(meanwhile).map_err(failed("waiting for the program"))?;
    stacks.close();
    let rows = stacks.all();
    if failure.is_none() {
        failure = report::print(&mut output, options, &rows, &told, &stacks, &end).err();
    }
    if let Some(error) = failure {
        refusal::say(&format!("the output: {error}"));
    }
    if let Some(Err(error)) = trace.map(|file| trace::write(file, options, &rows)) {
        refusal::say(&format!("the trace: {error}"));
    }
    Ok(process::end_as(&end.outcome))
}
