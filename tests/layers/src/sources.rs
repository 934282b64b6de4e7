//! The text of all files of a tree.

use std::collections::BTreeMap;
use std::path::Path;

/// Files by their path below the tree's folder, with `/` between folders.
pub type Sources = BTreeMap<String, String>;

/// Reads all files below `folder` whose names end in `.rs`.
///
/// # Panics
/// If one cannot be read.
pub fn read(folder: &Path) -> Sources {
    let mut sources = Sources::new();
    add(folder, "", &mut sources);
    assert!(!sources.is_empty(), "no file of Rust below {}", folder.display());
    sources
}

fn add(folder: &Path, prefix: &str, sources: &mut Sources) {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    for entry in entries {
        let path = entry.expect("an entry of a folder").path();
        let name = path.file_name().and_then(|name| name.to_str()).expect("a file's name in UTF-8").to_owned();
        if path.is_dir() {
            add(&path, &format!("{prefix}{name}/"), sources);
        } else if name.ends_with(".rs") {
            let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            sources.insert(format!("{prefix}{name}"), text);
        }
    }
}
