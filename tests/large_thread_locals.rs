//! A program whose static thread-locals are larger than a small stack: glibc puts them onto the
//! stack.

mod common;

use common::{Log, on_a_thread};
use std::cell::Cell;

thread_local! {
    static LARGE: Cell<[u8; 512 * 1024]> = const { Cell::new([0; 512 * 1024]) };
}

#[test]
fn a_thread_with_large_thread_locals_is_armed() {
    let log = Log::new();
    let handler = log.noting("handler");
    on_a_thread(move || {
        // Used, so that the linker keeps it.
        let first = LARGE.with(|large| large.as_ptr().cast::<u8>());
        // SAFETY: a byte of this thread's own.
        assert_eq!(unsafe { first.read_volatile() }, 0);
        exeunt::at_exit(handler).unwrap();
    });
    assert_eq!(log.take(), ["handler"]);
}
