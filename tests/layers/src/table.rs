//! The layers of a tree, from a table in Markdown that people read too:
//!
//! ```text
//! <!-- layers: src -->
//! | layer | files | knows |
//! |---|---|---|
//! | base | `error.rs` `alloc.rs` | ... |
//! | machine | `arch/`, `os/` | ... |
//! <!-- end -->
//! ```
//!
//! The first row is the ground: each layer may import from itself and from those above it in the
//! table. A folder `arch/` also stands for the file of its module, `arch.rs`.

/// One row.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Layer {
    /// Its name.
    pub name: String,
    /// Files, and folders, which end in `/`.
    pub entries: Vec<String>,
}

/// The layers of the tree `name`, from the ground up; `None` if the text has no table for it.
///
/// # Errors
/// If there is a table that cannot be read.
pub fn read(text: &str, name: &str) -> Result<Option<Vec<Layer>>, String> {
    let begin = format!("<!-- layers: {name} -->");
    let Some((_, rest)) = text.split_once(&begin) else { return Ok(None) };
    let (table, _) = rest.split_once("<!-- end -->").ok_or(format!("no `<!-- end -->` after `{begin}`"))?;
    let rows = table.lines().map(str::trim).filter(|line| line.starts_with('|'));
    let mut layers = Vec::new();
    // Two rows are the heading.
    for row in rows.skip(2) {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let [layer, files, ..] = cells[..] else { return Err(format!("a row of one column after `{begin}`: {row}")) };
        // Between backticks is every second part.
        let entries = files.split('`').skip(1).step_by(2).flat_map(|part| part.split([' ', ',']));
        let prefix = format!("{name}/");
        let entries: Vec<String> = entries
            .filter(|entry| !entry.is_empty())
            .map(|entry| entry.strip_prefix(&prefix).unwrap_or(entry).to_owned())
            .collect();
        if entries.is_empty() {
            return Err(format!("no file or folder in backticks after `{begin}`: {row}"));
        }
        layers.push(Layer { name: layer.trim_matches(['`', '*']).to_owned(), entries });
    }
    if layers.is_empty() { Err(format!("no row after `{begin}`")) } else { Ok(Some(layers)) }
}

/// Whether an entry of the table stands for a file.
pub(crate) fn covers(entry: &str, file: &str) -> bool {
    match entry.strip_suffix('/') {
        Some(folder) => file.starts_with(entry) || file.strip_suffix(".rs") == Some(folder),
        None => file == entry,
    }
}
