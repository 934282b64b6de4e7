//! The C entry points. `cargo test --features ffi`.
#![cfg(feature = "ffi")]

mod common;

use common::*;
use exeunt_patch::ffi::{exeunt_redirect_call, exeunt_undo_redirect_call};
use std::ffi::c_void;

fn pointer(function: Function) -> *mut c_void {
    function as *mut c_void
}

#[test]
fn c_redirects_a_call_once_and_takes_it_back_once() {
    let site = pointer(exeunt_site_call);
    let (before, pages) = (bytes(at(exeunt_site_call)), executable_mappings());
    // SAFETY: the fixture's code.
    let redirect = |from, to| unsafe { exeunt_redirect_call(site, pointer(from), pointer(to)) };
    // SAFETY: a function of the fixture.
    let run = || unsafe { exeunt_fn_call() };
    assert_eq!(exeunt_undo_redirect_call(site), 23);
    assert_eq!(redirect(exeunt_two, exeunt_one), 2);
    assert_eq!(redirect(exeunt_one, exeunt_two), 0);
    assert_eq!(run(), 2);
    assert_eq!(redirect(exeunt_two, exeunt_far_two), 24);
    assert_eq!(redirect(exeunt_one, exeunt_two), 2);
    assert_eq!(exeunt_undo_redirect_call(site), 0);
    assert_eq!(exeunt_undo_redirect_call(site), 23);
    assert_eq!(run(), 1);
    assert_eq!(bytes(at(exeunt_site_call)), before);
    same_code_pages(&pages).unwrap();
}

#[test]
fn c_gets_a_number_for_what_is_not_code() {
    // SAFETY: any address may be asked for.
    let code = unsafe { exeunt_redirect_call(std::ptr::null_mut(), pointer(exeunt_one), pointer(exeunt_two)) };
    assert_eq!(code, 5);
    // SAFETY: the fixture's code.
    let code = unsafe { exeunt_redirect_call(pointer(exeunt_site_none), pointer(exeunt_one), pointer(exeunt_two)) };
    assert_eq!(code, 1);
}
