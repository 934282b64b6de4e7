//! Circles, the table, and files that nobody reaches.

mod common;
use common::{only_fault, report};
use exeunt_layers::table;

#[test]
fn a_circle_of_three_files_is_named_with_all_its_arrows() {
    let fault = only_fault(&[
        ("lib.rs", "mod low;\n"),
        ("low.rs", "mod a;\nmod b;\nmod c;\nmod apart;\n"),
        ("low/a.rs", "\nuse super::b::B;\npub struct A;\n"),
        ("low/b.rs", "pub struct B(super::c::C);\n"),
        ("low/c.rs", "use crate::low::a::A as Other;\npub struct C;\n"),
        ("low/apart.rs", "use super::a::A;\n"),
    ]);
    assert!(fault.starts_with("src: circle of 3 files: low/a.rs low/b.rs low/c.rs\n"), "{fault}");
    assert!(fault.contains("src/low/a.rs:2 -> src/low/b.rs: super::b::B\n"), "{fault}");
    assert!(fault.contains("src/low/b.rs:1 -> src/low/c.rs: super::c::C\n"), "{fault}");
    assert!(fault.contains("src/low/c.rs:1 -> src/low/a.rs: crate::low::a::A"), "{fault}");
    assert!(!fault.contains("apart"), "{fault}");
}

#[test]
fn a_child_that_imports_from_its_module_which_reexports_it_is_a_circle() {
    let fault = only_fault(&[
        ("lib.rs", "mod low;\n"),
        ("low/mod.rs", "mod child;\npub use child::Child;\npub struct Parent;\n"),
        ("low/child.rs", "use super::Parent;\npub struct Child;\n"),
    ]);
    assert!(fault.starts_with("src: circle of 2 files: low/child.rs low/mod.rs\n"), "{fault}");
}

#[test]
fn what_the_root_reexports_makes_no_circle() {
    let lib = ("lib.rs", "mod low;\nmod middle;\npub use low::Low;\npub use middle::Middle;\n");
    let files = [lib, ("low.rs", "pub struct Low;\n"), ("middle.rs", "use crate::Low;\npub struct Middle(Low);\n")];
    assert!(report(&files).faults.is_empty(), "{:#?}", report(&files).faults);
}

#[test]
fn a_file_without_a_layer_is_a_fault() {
    let fault = only_fault(&[("lib.rs", "mod new;\n"), ("new.rs", "")]);
    assert_eq!(fault, "src/new.rs: in no layer of the table");
}

#[test]
fn a_file_that_no_module_declares_is_a_fault() {
    let fault = only_fault(&[("lib.rs", ""), ("low.rs", "")]);
    assert!(fault.starts_with("src/low.rs: no module declaration leads here"), "{fault}");
}

#[test]
fn a_module_without_a_file_and_a_file_that_does_not_parse_are_faults() {
    let fault = only_fault(&[("lib.rs", "\nmod low;\n")]);
    assert!(fault.starts_with("src/lib.rs:2: the file of module `low` was not found"), "{fault}");
    let faults = report(&[("lib.rs", "mod low;\n"), ("low.rs", "\nfn\n")]).faults;
    assert!(faults.iter().any(|fault| fault.starts_with("src/low.rs:")), "{faults:#?}");
}

#[test]
fn source_that_is_included_is_a_fault() {
    let fault = only_fault(&[("lib.rs", "mod low;\n"), ("low.rs", "\ninclude!(\"x.inc\");\n")]);
    assert!(fault.starts_with("src/low.rs:2: what `include!` brings cannot be read"), "{fault}");
}

#[test]
fn the_table_is_read_from_between_its_comments() {
    let page = "| no | `table` |\n<!-- layers: a/src -->\n| layer | files | knows |\n|---|---|---|\n\
                | `one` | `a/src/x.rs`, `y/` | a |\n| two | `z.rs w.rs` | b |\n<!-- end -->\n| no | `more` |\n";
    let layers = table::read(page, "a/src").unwrap().unwrap();
    let entries: Vec<(&str, Vec<&str>)> =
        layers.iter().map(|layer| (layer.name.as_str(), layer.entries.iter().map(String::as_str).collect())).collect();
    assert_eq!(entries, [("one", vec!["x.rs", "y/"]), ("two", vec!["z.rs", "w.rs"])]);
    assert_eq!(table::read(page, "src"), Ok(None));
    assert!(table::read("<!-- layers: src -->\n| a | `b` |\n", "src").is_err());
    assert!(table::read("<!-- layers: src -->\n| a | b |\n|---|---|\n| c | d |\n<!-- end -->", "src").is_err());
}

#[test]
fn a_file_in_two_layers_and_an_entry_without_a_file_are_faults() {
    let page =
        "<!-- layers: src -->\n| a | b |\n|---|---|\n| one | `x/` |\n| two | `x/y.rs` `gone.rs` |\n<!-- end -->\n";
    let layers = table::read(page, "src").unwrap().unwrap();
    let files = [("lib.rs", "mod x { mod y; }\n"), ("x/y.rs", "")];
    let sources = files.iter().map(|(path, text)| (path.to_string(), text.to_string())).collect();
    let faults = exeunt_layers::check::check("src", &sources, Some(&layers)).faults;
    assert_eq!(
        faults,
        [
            "src/x/y.rs: in more than one layer of the table: one, two",
            "src: layer two has `gone.rs` in the table, where no file is"
        ]
    );
}
