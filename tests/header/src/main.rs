//! Makes `include/exeunt.h`: the text of `template.h`, in which each line `//@ FILE` is replaced by
//! what cbindgen makes of `src/ffi/FILE.rs`.
//!
//! ```text
//! cargo run --package exeunt-header              compares, and fails if the header is another
//! cargo run --package exeunt-header -- --write   writes the header
//! ```

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The declarations of one file of `src/ffi`.
fn declarations(name: &str) -> String {
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("cbindgen.toml");
    let config = cbindgen::Config::from_file(config).expect("cbindgen.toml is valid");
    let file = root().join("src/ffi").join(name).with_extension("rs");
    let bindings = cbindgen::Builder::new().with_config(config).with_src(&file).generate();
    let mut text = Vec::new();
    bindings.unwrap_or_else(|error| panic!("{}: {error}", file.display())).write(&mut text);
    String::from_utf8(text).expect("cbindgen writes UTF-8").trim().to_owned()
}

/// Turns Rust's heading `# Safety` into a paragraph that begins with "Requires:".
fn requires(declarations: &str) -> String {
    let mut text = String::new();
    let mut lines = declarations.lines();
    while let Some(line) = lines.next() {
        if line != "// # Safety" {
            text.push_str(line);
            text.push('\n');
            continue;
        }
        let mut row = String::from("// Requires:");
        let mut after = None;
        for line in lines.by_ref() {
            let Some(words) = line.strip_prefix("// ") else {
                after = Some(line);
                break;
            };
            for word in words.split(' ') {
                let word = if row == "// Requires:" { uncapitalised(word) } else { word.to_owned() };
                if row.len() + 1 + word.len() > 100 {
                    text.push_str(&row);
                    text.push('\n');
                    row = String::from("//");
                }
                row.push(' ');
                row.push_str(&word);
            }
        }
        text.push_str(&row);
        text.push('\n');
        if let Some(line) = after {
            text.push_str(line);
            text.push('\n');
        }
    }
    text
}

/// A word with a small first letter.
fn uncapitalised(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map_or_else(String::new, |first| first.to_lowercase().chain(letters).collect())
}

/// The whole header.
fn header() -> String {
    let mut version = env!("CARGO_PKG_VERSION").split('.');
    let mut part = || version.next().expect("a version has three parts");
    let template = include_str!("../template.h")
        .replace("@VERSION@", env!("CARGO_PKG_VERSION"))
        .replace("@MAJOR@", part())
        .replace("@MINOR@", part())
        .replace("@PATCH@", part());
    let mut header = String::new();
    for line in template.lines() {
        match line.strip_prefix("//@ ") {
            Some(name) => header.push_str(&requires(&declarations(name))),
            None => {
                header.push_str(line);
                header.push('\n');
            }
        }
    }
    header
}

/// The names of the functions in a text, each of which follows one of these words.
fn functions<'t>(text: &'t str, before: &[&str]) -> BTreeSet<&'t str> {
    let name = |rest: &'t str| {
        let end = rest.find(|next: char| !next.is_ascii_alphanumeric() && next != '_')?;
        (rest.starts_with("exeunt_") && rest[end..].starts_with('(')).then(|| &rest[..end])
    };
    let lines = text.lines().filter(|line| !line.trim_start().starts_with("//") && !line.starts_with(" *"));
    lines.flat_map(|line| before.iter().flat_map(move |word| line.split(word).skip(1).filter_map(name))).collect()
}

/// Each function of `src/ffi` that is exported is declared, and nothing else is.
fn check_functions(header: &str) {
    let mut exported = BTreeSet::new();
    let folder = std::fs::read_dir(root().join("src/ffi")).expect("src/ffi can be read");
    for file in folder {
        let text = std::fs::read_to_string(file.expect("an entry").path()).expect("a source file");
        for item in text.split("#[unsafe(no_mangle)]").skip(1) {
            let signature = item.split('{').next().unwrap_or_default();
            exported.extend(functions(signature, &["fn "]).into_iter().map(str::to_owned));
        }
    }
    let declared: BTreeSet<String> = functions(header, &[" ", "*"]).into_iter().map(str::to_owned).collect();
    assert_eq!(exported, declared, "exported by src/ffi, and declared in exeunt.h");
}

fn main() -> ExitCode {
    let made = header();
    check_functions(&made);
    let file = root().join("include/exeunt.h");
    let there = std::fs::read_to_string(&file).unwrap_or_default();
    if made == there {
        return ExitCode::SUCCESS;
    }
    if std::env::args().nth(1).as_deref() == Some("--write") {
        std::fs::write(&file, made).expect("include/exeunt.h can be written");
        println!("include/exeunt.h: written");
        return ExitCode::SUCCESS;
    }
    let line = made.lines().zip(there.lines()).take_while(|(made, there)| made == there).count() + 1;
    eprintln!("include/exeunt.h is not what src/ffi and tests/header/template.h make, from line {line} on.");
    eprintln!("cargo run --package exeunt-header -- --write writes it.");
    ExitCode::FAILURE
}
