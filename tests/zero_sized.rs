//! Values of size zero, which have addresses that distinguish them, as all others have.

mod common;

use common::on_a_thread;
use std::sync::atomic::{AtomicUsize, Ordering};

static ALIVE: AtomicUsize = AtomicUsize::new(0);

struct Nothing;

impl Nothing {
    fn new() -> Self {
        ALIVE.fetch_add(1, Ordering::Relaxed);
        Self
    }
}

impl Drop for Nothing {
    fn drop(&mut self) {
        ALIVE.fetch_sub(1, Ordering::Relaxed);
    }
}

exeunt::stack_local! {
    static LENT: Nothing = Nothing::new();
    static OTHER: Nothing = Nothing::new();
}

#[test]
fn a_reset_drops_a_value_of_size_zero_while_another_one_is_lent() {
    on_a_thread(|| {
        LENT.with(|lent| {
            OTHER.with(|other| assert!(!std::ptr::eq(lent, other), "each has an address of its own"));
            assert_eq!(ALIVE.load(Ordering::Relaxed), 2);
            exeunt::reset().unwrap();
            assert_eq!(ALIVE.load(Ordering::Relaxed), 1, "the one that is lent");
        });
    });
    assert_eq!(ALIVE.load(Ordering::Relaxed), 0);
}
