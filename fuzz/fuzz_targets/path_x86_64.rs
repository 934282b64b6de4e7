//! Arbitrary bytes on a path: execution follows the path with an unchanged stack pointer, or the
//! path ends there.
#![no_main]

use exeunt_patch_fuzz::{Machine, x86_64};
use libfuzzer_sys::fuzz_target;
use std::cell::RefCell;

thread_local! {
    static MACHINE: RefCell<Machine> = RefCell::new(x86_64::machine());
}

fuzz_target!(|data: &[u8]| MACHINE.with_borrow_mut(|machine| x86_64::check_path(machine, data)));
