//! Every way to name a file above is found.

mod common;
use common::{imports_high, is_well, only_fault};

const LIB: (&str, &str) = ("lib.rs", "mod low;\nmod high;\n");
const HIGH: (&str, &str) =
    ("high.rs", "pub struct High;\npub fn rise() {}\n#[macro_export]\nmacro_rules! lift { () => {} }\n");

#[track_caller]
fn low_imports_high(line: usize, low: &str) {
    imports_high(line, &[LIB, HIGH, ("low.rs", low)]);
}

#[test]
fn an_import_upwards_is_found_with_its_line_and_both_layers() {
    low_imports_high(2, "\nuse crate::high::High;\n");
}

#[test]
fn super_leads_to_the_module_around() {
    low_imports_high(1, "use super::high::rise;\n");
    low_imports_high(1, "fn f() { super::high::rise() }\n");
    low_imports_high(1, "mod inner { use super::super::high::rise; }\n");
}

#[test]
fn a_path_without_an_import_is_an_import() {
    low_imports_high(1, "fn f() { crate::high::rise() }\n");
    low_imports_high(1, "fn f(_: crate::high::High) {}\n");
    low_imports_high(
        1,
        "fn f(x: u8) -> u8 { match x { _ if { let crate::high::High = todo!(); } == () => 1, _ => 2 } }\n",
    );
    low_imports_high(1, "impl crate::high::High {}\n");
    low_imports_high(1, "static F: Option<Vec<fn() -> crate::high::High>> = None;\n");
    low_imports_high(1, "struct S<T: Into<crate::high::High>>(T);\n");
}

#[test]
fn an_import_inside_a_function_is_an_import() {
    low_imports_high(2, "fn f() {\n    use crate::high::rise;\n    rise()\n}\n");
}

#[test]
fn what_is_reached_through_a_reexport_of_the_root_is_imported_from_its_file() {
    let lib = ("lib.rs", "mod low;\nmod high;\npub use high::High;\n");
    imports_high(1, &[lib, HIGH, ("low.rs", "use crate::High;\n")]);
    imports_high(1, &[lib, HIGH, ("low.rs", "fn f(_: crate::High) {}\n")]);
    imports_high(1, &[lib, HIGH, ("low.rs", "fn f(_: super::High) {}\n")]);
}

#[test]
fn chains_of_reexports_are_followed_to_the_end() {
    let lib = (
        "lib.rs",
        "mod low;\nmod high;\nmod face { pub use crate::high::High as Third; }\npub use face::Third as Second;\n",
    );
    imports_high(1, &[lib, HIGH, ("low.rs", "use crate::Second as First;\n")]);
}

#[test]
fn globs_are_looked_through() {
    let lib = ("lib.rs", "mod low;\nmod high;\npub use high::*;\n");
    imports_high(1, &[lib, HIGH, ("low.rs", "use crate::rise;\n")]);
    imports_high(2, &[lib, HIGH, ("low.rs", "use crate::*;\nfn f() { rise() }\n")]);
    low_imports_high(1, "use crate::high::*;\n");
}

#[test]
fn a_module_by_another_name_is_the_same_module() {
    low_imports_high(1, "use crate::high as base;\nfn f() { base::rise() }\n");
    let lib = ("lib.rs", "mod low;\nmod high;\nuse crate as me;\n");
    imports_high(1, &[lib, HIGH, ("low.rs", "fn f() { crate::me::high::rise() }\n")]);
    let lib = ("lib.rs", "extern crate self as me;\nmod low;\nmod high;\n");
    imports_high(1, &[lib, HIGH, ("low.rs", "use crate::me::high::rise;\n")]);
    low_imports_high(1, "use crate::r#high::r#rise;\n");
}

#[test]
fn a_trait_imported_without_a_name_is_an_import() {
    low_imports_high(1, "use crate::high::High as _;\n");
}

#[test]
fn tokens_of_a_macro_are_read() {
    low_imports_high(1, "fn f() { println!(\"{:?}\", crate::high::rise()) }\n");
    low_imports_high(1, "fn f() { assert!(matches!((1, 2), (a, super::high::High) if a > 0)) }\n");
    low_imports_high(1, "thread_local! { static X: u8 = { use crate::{high::{self, High}}; 1 } }\n");
    low_imports_high(1, "core::arch::global_asm!(\"call {}\", sym crate::high::rise);\n");
}

#[test]
fn what_a_macro_by_example_expands_to_is_read() {
    low_imports_high(1, "macro_rules! m { ($x:ident) => { $crate::high::rise($x) } }\n");
}

#[test]
fn a_macro_that_is_called_is_imported_from_its_file() {
    low_imports_high(1, "crate::lift!();\n");
    low_imports_high(1, "use crate::lift;\n");
    let high = ("high.rs", "macro_rules! lift { () => {} }\n");
    imports_high(1, &[("lib.rs", "#[macro_use]\nmod high;\nmod low;\n"), high, ("low.rs", "fn f() { lift!() }\n")]);
}

#[test]
fn a_symbol_that_is_linked_is_imported_from_its_file() {
    for (high, low) in [
        ("#[unsafe(no_mangle)]\nextern \"C\" fn rise() {}\n", "fn rise();"),
        ("#[no_mangle]\nextern \"C\" fn rise() {}\n", "#[link_name = \"rise\"] fn other();"),
        ("#[unsafe(export_name = \"up\")]\nstatic RISE: u8 = 0;\n", "static up: u8;"),
    ] {
        imports_high(1, &[LIB, ("high.rs", high), ("low.rs", &format!("unsafe extern \"C\" {{ {low} }}\n"))]);
    }
}

#[test]
fn attributes_are_read() {
    low_imports_high(1, "#[derive(crate::high::Derived)]\nstruct S;\n");
    low_imports_high(2, "struct S {\n    #[serde(with = \"crate::high\")]\n    field: u8,\n}\n");
    low_imports_high(1, "#[crate::high::attribute]\nfn f() {}\n");
}

#[test]
fn every_branch_of_cfg_counts() {
    low_imports_high(2, "#[cfg(target_os = \"plan9\")]\nuse crate::high::High;\n");
    low_imports_high(2, "#[cfg(not(test))]\nuse crate::high::High;\n");
    low_imports_high(2, "#[cfg(any(test, unix))]\nuse crate::high::High;\n");
}

#[test]
fn a_module_of_two_files_is_both() {
    let lib = (
        "lib.rs",
        "mod low;\n#[cfg(unix)]\n#[path = \"high.rs\"]\nmod system;\n#[cfg(not(unix))]\n#[path = \"low/none.rs\"]\nmod system;\n",
    );
    imports_high(1, &[lib, HIGH, ("low/none.rs", "pub fn rise() {}\n"), ("low.rs", "use crate::system::rise;\n")]);
    let lib = ("lib.rs", "mod low;\n#[cfg_attr(unix, path = \"high.rs\")]\nmod middle;\n");
    imports_high(1, &[lib, HIGH, ("middle.rs", ""), ("low.rs", "use crate::middle::rise;\n")]);
}

#[test]
fn inline_modules_belong_to_their_file_and_their_files_are_found() {
    let lib = ("lib.rs", "mod low;\nmod high { pub mod inner; }\n");
    let fault = only_fault(&[
        lib,
        ("high/inner.rs", "pub fn rise() {}\n"),
        ("low.rs", "mod a { mod b { use crate::high::inner::rise; } }\n"),
    ]);
    assert!(fault.starts_with("src/low.rs:1 -> src/high/inner.rs: crate::high::inner::rise"), "{fault}");
}

#[test]
fn what_a_macro_made_is_imported_from_the_module_that_calls_it() {
    low_imports_high(1, "use crate::high::made_by_a_macro;\n");
}

#[test]
fn what_the_root_defines_is_above_all() {
    let fault = only_fault(&[("lib.rs", "mod low;\npub struct Root;\n"), ("low.rs", "use crate::Root;\n")]);
    assert!(fault.starts_with("src/low.rs:1 -> src/lib.rs: crate::Root"), "{fault}");
    assert!(fault.contains("layer low stands below the crate's root"), "{fault}");
}

#[test]
fn what_only_tests_have_is_left_out() {
    let tests = ("low/tests.rs", "use crate::high::High;\n");
    is_well(&[LIB, HIGH, ("low.rs", "#[cfg(test)]\nmod tests { use crate::high::High; }\n")]);
    is_well(&[LIB, HIGH, tests, ("low.rs", "#[cfg(test)]\nmod tests;\n")]);
    is_well(&[LIB, HIGH, tests, ("low.rs", "#[cfg(all(test, unix))]\nmod tests;\n")]);
    is_well(&[LIB, HIGH, ("low.rs", "#[cfg(test)]\nuse crate::high::High;\n#[cfg(test)]\nimpl High {}\n")]);
    is_well(&[LIB, HIGH, ("low.rs", "struct S;\nimpl S {\n#[cfg(test)]\nfn f() { crate::high::rise() }\n}\n")]);
    is_well(&[LIB, HIGH, ("low.rs", "fn f() {\n#[cfg(test)]\ncrate::high::rise();\n}\n")]);
}

#[test]
fn names_of_other_crates_and_words_of_comments_are_no_imports() {
    is_well(&[
        LIB,
        HIGH,
        (
            "low.rs",
            "//! [`crate::high::High`]\nuse ::high::High;\nuse std::{fmt, io as high};\nfn f() { fmt::rise(); high::rise() }\n",
        ),
    ]);
    is_well(&[
        LIB,
        HIGH,
        ("low.rs", "/// [`crate::high::High`]\npub(in crate::low) fn f() -> &'static str { \"crate::high::High\" }\n"),
    ]);
    is_well(&[LIB, HIGH, ("low.rs", "fn f() { println!(\"crate::high::High\") }\n")]);
}

#[test]
fn the_layer_below_and_ones_own_may_be_imported() {
    is_well(&[
        LIB,
        ("low.rs", "pub mod a; pub mod b;\n"),
        ("low/a.rs", "use super::b::B;\n"),
        ("low/b.rs", "pub struct B;\n"),
        ("high.rs", "use crate::low::a;\n"),
    ]);
}
