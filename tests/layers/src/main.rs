//! `cargo run -p exeunt-layers -- src`: prints the arrows between a tree's files, and what is wrong
//! with them.
//!
//! The layers are those of `ARCHITECTURE.md` in the working directory, if it has a table for this
//! tree.

use exeunt_layers::{check::check, sources, table};
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let (Some(folder), None) = (arguments.next(), arguments.next()) else {
        eprintln!("usage: exeunt-layers FOLDER, such as src or patch/src");
        return ExitCode::from(64);
    };
    let name = folder.trim_end_matches('/');
    let page = std::fs::read_to_string("ARCHITECTURE.md").unwrap_or_default();
    let layers = match table::read(&page, name) {
        Ok(layers) => layers,
        Err(error) => {
            eprintln!("ARCHITECTURE.md: {error}");
            return ExitCode::FAILURE;
        }
    };
    let report = check(name, &sources::read(Path::new(name)), layers.as_deref());
    for ((from, to), places) in &report.arrows {
        let places: Vec<String> = places.iter().map(|place| format!("{} (line {})", place.name, place.line)).collect();
        println!("{from} -> {to}: {}", places.join(", "));
    }
    println!();
    report.faults.iter().for_each(|fault| println!("{fault}\n"));
    let checked = if layers.is_some() { "circles and layers" } else { "circles alone: no table of layers" };
    let (files, arrows, faults) = (report.files.len(), report.arrows.len(), report.faults.len());
    println!("{files} files, {arrows} arrows, {faults} faults ({checked})");
    if report.faults.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
