//! Small trees, written as strings.
// No file of tests uses all of it.
#![allow(dead_code)]

use exeunt_layers::check::{Report, check};
use exeunt_layers::table;

/// The ground is `low.rs` and all below `low/`, above it `middle.rs`, and on top `high.rs` and all
/// below `high/`.
pub const TABLE: &str = "
<!-- layers: src -->
| layer | files | knows |
|---|---|---|
| low | `low/` | nothing |
| middle | `middle.rs` | low |
| high | `high/` | all |
<!-- end -->
";

/// Checks a tree of these files with that table. An entry without a file is no fault here.
pub fn report(files: &[(&str, &str)]) -> Report {
    let layers = table::read(TABLE, "src").expect("a table").expect("a table for src");
    let sources = files.iter().map(|(path, text)| (path.to_string(), text.to_string())).collect();
    let mut report = check("src", &sources, Some(&layers));
    report.faults.retain(|fault| !fault.contains("where no file is"));
    report
}

/// Demands exactly one fault, and gives its text.
#[track_caller]
pub fn only_fault(files: &[(&str, &str)]) -> String {
    let faults = report(files).faults;
    assert_eq!(faults.len(), 1, "{faults:#?}");
    faults.into_iter().next().unwrap()
}

/// Demands that the one fault is an import upwards by this line of low.rs.
#[track_caller]
pub fn imports_high(line: usize, files: &[(&str, &str)]) {
    let fault = only_fault(files);
    assert!(fault.starts_with(&format!("src/low.rs:{line} -> src/high.rs:")), "{fault}");
    assert!(fault.contains("layer low stands below layer high"), "{fault}");
}

/// Demands that there is no fault, and no arrow from low.rs to high.rs.
#[track_caller]
pub fn is_well(files: &[(&str, &str)]) {
    let report = report(files);
    assert!(report.faults.is_empty(), "{:#?}", report.faults);
    assert!(!report.arrows.contains_key(&("low.rs".to_owned(), "high.rs".to_owned())), "{:#?}", report.arrows);
}
