//! The project's own source, and the table in ARCHITECTURE.md.

use exeunt_layers::{check::check, sources, table};
use std::path::Path;

/// Trees that a table of layers is demanded for, and others.
const TREES: &[(&str, bool)] = &[("src", true), ("patch/src", false), ("cli/src", false), ("tests/layers/src", false)];

#[test]
fn the_tree_has_no_circle_and_no_import_upwards() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let page = std::fs::read_to_string(root.join("ARCHITECTURE.md")).expect("ARCHITECTURE.md");
    let mut faults = Vec::new();
    for (tree, needs_table) in TREES {
        let layers = table::read(&page, tree).unwrap_or_else(|error| panic!("ARCHITECTURE.md: {error}"));
        assert!(layers.is_some() || !needs_table, "ARCHITECTURE.md has no `<!-- layers: {tree} -->`");
        faults.extend(check(tree, &sources::read(&root.join(tree)), layers.as_deref()).faults);
    }
    assert!(faults.is_empty(), "{} faults:\n\n{}\n", faults.len(), faults.join("\n\n"));
}
