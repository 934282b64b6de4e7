//! Arbitrary bytes at a site: displaced, they do the same as before, or the engine refuses them.
#![no_main]

use exeunt_patch_fuzz::{Machine, aarch64};
use libfuzzer_sys::fuzz_target;
use std::cell::RefCell;

thread_local! {
    static MACHINE: RefCell<Machine> = RefCell::new(aarch64::machine());
}

fuzz_target!(|data: &[u8]| MACHINE.with_borrow_mut(|machine| aarch64::check(machine, data)));
