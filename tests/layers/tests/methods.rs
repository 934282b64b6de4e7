//! A method in another file than its type's needs that file, which nobody imports.

mod common;
use common::{imports_high, is_well};

const LIB: (&str, &str) = ("lib.rs", "mod low;\nmod middle;\nmod high;\n");
const LOW: &str = "pub struct Record;\nimpl Record { pub fn arm(&self) {} }\npub type Alias = Record;\npub struct Holder { pub inner: Box<Record> }\n";
const HIGH: (&str, &str) = (
    "high.rs",
    "use crate::low::Record;\nimpl Record { pub fn drain(&self) {} pub fn get(&self) {} pub const MOST: usize = 1; }\n",
);

/// Such a use is a circle as well: high.rs needs the type. Both are reported.
#[track_caller]
fn low_calls_high(call: &str) {
    let low = format!("{LOW}{call}\n");
    let report = common::report(&[LIB, HIGH, ("middle.rs", ""), ("low.rs", &low)]);
    let [circle, upwards] = &report.faults[..] else { panic!("{:#?}", report.faults) };
    assert!(circle.starts_with("src: circle of 2 files: high.rs low.rs\n"), "{circle}");
    assert!(upwards.starts_with("src/low.rs:5 -> src/high.rs:"), "{upwards}");
}

#[test]
fn a_method_call_is_an_arrow_to_the_foreign_block() {
    low_calls_high("fn f() { record().drain() }");
    low_calls_high("fn f() { println!(\"{:?}\", record().drain()) }");
}

#[test]
fn a_path_to_a_method_is_an_arrow_to_the_foreign_block() {
    low_calls_high("fn f() { Record::drain(todo!()) }");
    low_calls_high("fn f() { Alias::get(todo!()) }");
    low_calls_high("fn f() { <Record>::get(todo!()) }");
    low_calls_high("const F: usize = Record::MOST;");
}

#[test]
fn a_receiver_whose_type_is_known_needs_no_rare_name() {
    low_calls_high("impl Record { fn f(&self) { self.get() } }");
    low_calls_high("impl Record { fn f(&self) { Self::get(self) } }");
    low_calls_high("fn f(record: &mut Record) { record.get() }");
    low_calls_high("fn f(holder: &Holder) { holder.inner.get() }");
    low_calls_high("fn f() { let record: &Record = todo!(); record.get() }");
    low_calls_high("fn f(holder: &Holder) { let inner = &holder.inner; (*inner).get() }");
}

#[test]
fn methods_of_the_types_own_file_and_of_std_are_no_arrows() {
    let is_well = |call: &str| is_well(&[LIB, HIGH, ("middle.rs", ""), ("low.rs", &format!("{LOW}{call}\n"))]);
    is_well("fn f(record: &Record) { record.arm() }");
    is_well("fn f(map: &std::cell::Cell<u8>) { map.get(); map.drain() }");
    is_well("fn f() { something().get() }");
}

#[test]
fn a_call_through_a_trait_turns_the_arrow() {
    let low = "pub trait Drain { fn drain(&self); }\npub fn end(of: &dyn Drain) { of.drain() }\n";
    let high = ("high.rs", "pub struct Record;\nimpl crate::low::Drain for Record { fn drain(&self) {} }\n");
    is_well(&[LIB, ("middle.rs", ""), high, ("low.rs", low)]);
}

#[test]
fn a_third_file_that_calls_a_foreign_method_is_found() {
    let middle = ("middle.rs", "pub struct Record;\n");
    let high = ("high.rs", "impl crate::middle::Record { pub fn drain(&self) {} }\n");
    imports_high(1, &[LIB, middle, high, ("low.rs", "fn f() { anything().drain() }\n")]);
}
