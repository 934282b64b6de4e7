//! Stacks whose addresses have a tag in the byte that aarch64 ignores, as pointers from a tagged
//! `malloc` have (MTE).
#![cfg(all(target_arch = "aarch64", target_env = "gnu"))]

mod common;

use common::fiber::{Fiber, Pages};
use common::{Log, process};
use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::rc::Rc;

/// Lets this thread pass tagged addresses to the system, as code with variables on such a stack
/// does.
fn allow_tags() {
    const PR_SET_TAGGED_ADDR_CTRL: i32 = 55;
    const PR_TAGGED_ADDR_ENABLE: u64 = 1;
    // SAFETY: changes which addresses the system accepts from this thread, and nothing else.
    assert_eq!(unsafe { libc::prctl(PR_SET_TAGGED_ADDR_CTRL, PR_TAGGED_ADDR_ENABLE, 0_u64, 0_u64, 0_u64) }, 0);
}

/// The same addresses, with this tag.
fn tagged(range: &Range<usize>, tag: usize) -> Range<usize> {
    let address = |address: usize| address & (usize::MAX >> 8) | tag << 56;
    address(range.start)..address(range.end)
}

exeunt::stack_local! {
    static NUMBER: Cell<u32> = const { Cell::new(0) };
    static LENT: RefCell<Option<common::Loud>> = const { RefCell::new(None) };
}

/// A stack's life with everything in it. It logs its end.
fn live(log: &Log, name: &'static str) {
    assert_eq!(exeunt::get::<u32>(&"number"), None);
    exeunt::at_exit(log.noting(name)).unwrap();
    exeunt::set("number", 7_u32).unwrap();
    exeunt::set("loud", log.loud(name)).unwrap();
    NUMBER.set(8);
    assert_eq!((exeunt::get::<u32>(&"number"), NUMBER.get()), (Some(7), 8));
    let stack = exeunt::Stack::current();
    assert!(stack.is_armed());
    assert_eq!(stack.kind(), exeunt::Kind::Fiber);
}

#[test]
fn a_fiber_on_a_tagged_stack_has_storage_and_drains_at_its_end() {
    allow_tags();
    let pages = Pages::new(256 * 1024);
    let log = Log::new();
    for tag in [0x5a, 0xff, 0x01, 0x00, 0x5a] {
        let inner = log.clone();
        // SAFETY: the memory exists until the end, and each fiber has ended before the next one.
        let fiber = unsafe {
            Fiber::new(tagged(&pages.range(), tag), move |inside| {
                live(&inner, "tagged");
                inside.suspend();
                assert_eq!((exeunt::get::<u32>(&"number"), NUMBER.get()), (Some(7), 8));
            })
        };
        fiber.finish();
        assert_eq!(log.take(), ["tagged", "drop tagged"], "tag {tag:#x}");
    }
}

#[test]
fn an_abandoned_fiber_is_detected_whatever_tags_its_memory_has_then() {
    allow_tags();
    let pages = Pages::new(256 * 1024);
    let log = Log::new();
    let abandon = |tag: usize, name: &'static str| {
        let inner = log.clone();
        // SAFETY: the memory exists until the end, and the fiber is not resumed.
        let fiber = unsafe {
            Fiber::new(tagged(&pages.range(), tag), move |inside| {
                live(&inner, name);
                inside.suspend();
            })
        };
        fiber.abandon();
    };
    for (tag, other) in [(0x5a, 0), (0, 0x5a), (0x5a, 0x5a), (0x5a, 0xa5)] {
        abandon(tag, "discarded");
        assert_eq!(log.take().len(), 0);
        // SAFETY: nothing runs there.
        assert_eq!(unsafe { exeunt::discard(tagged(&pages.range(), other)) }, 1, "tags {tag:#x} and {other:#x}");
        assert_eq!(log.take(), ["discarded", "drop discarded"]);
    }
    // Without `discard`, the next fiber on the same memory detects it.
    abandon(0x11, "one");
    abandon(0x22, "two");
    assert_eq!(log.take(), ["one", "drop one"]);
    // SAFETY: as above.
    assert_eq!(unsafe { exeunt::discard(pages.range()) }, 1);
}

#[test]
fn a_reset_on_a_tagged_stack_does_not_drop_a_lent_value() {
    allow_tags();
    let pages = Pages::new(256 * 1024);
    let log = Log::new();
    let inner = log.clone();
    // SAFETY: the memory exists until the end.
    let fiber = unsafe {
        Fiber::new(tagged(&pages.range(), 0x5a), move |_| {
            LENT.set(Some(inner.loud("lent")));
            LENT.with_borrow(|_| {
                exeunt::reset().unwrap();
                assert_eq!(inner.take().len(), 0, "it is lent");
            });
        })
    };
    fiber.finish();
    assert_eq!(log.take(), ["drop lent"]);
}

#[test]
fn enter_on_a_tagged_stack_accepts_its_memory_with_and_without_the_tag() {
    allow_tags();
    let pages = Pages::new(256 * 1024);
    let log = Log::new();
    for other in [0x5a, 0, 0x77] {
        let (inner, range) = (log.clone(), tagged(&pages.range(), other));
        // SAFETY: the memory exists until the end.
        let fiber = unsafe {
            Fiber::new(tagged(&pages.range(), 0x5a), move |_| {
                let elsewhere = range.end..range.end + 4096;
                let refused = exeunt::enter_on(elsewhere, || unreachable!("it is not there"));
                assert!(matches!(refused, Err(exeunt::Error::NotOnThatStack { .. })));
                let entered = exeunt::enter_on(range, || exeunt::at_exit(inner.noting("entered")));
                assert_eq!(entered, Ok(Ok(())));
            })
        };
        fiber.finish();
        assert_eq!(log.take(), ["entered"]);
    }
}

#[test]
fn a_stack_from_a_malloc_that_tags_memory_can_be_armed_and_discarded() {
    const NAME: &str = "a_stack_from_a_malloc_that_tags_memory_can_be_armed_and_discarded";
    const SIZE: usize = 64 * 1024;
    if process::role().as_deref() != Some(NAME) {
        let mut program = process::this_program();
        // A fault is reported at the very access whose tag differs from the memory's.
        program.args(["--exact", NAME, "--nocapture", "--test-threads=1"]);
        program.env("GLIBC_TUNABLES", "glibc.mem.tagging=3").env("EXEUNT_TEST_ROLE", NAME);
        let output = program.output().unwrap();
        let out = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{}: {out}{}", output.status, String::from_utf8_lossy(&output.stderr));
        assert!(out.contains("[armed and discarded"), "{out}");
        return;
    }
    // SAFETY: freed below.
    let memory = unsafe { libc::malloc(SIZE) } as usize;
    let is_tagged = memory >> 56 != 0;
    let log = Rc::new(Log::new());
    for name in ["first", "second"] {
        let inner = log.clone();
        // SAFETY: the memory exists until it is freed.
        let fiber = unsafe {
            Fiber::new(memory..memory + SIZE, move |inside| {
                live(&inner, name);
                inside.suspend();
            })
        };
        if name == "first" {
            fiber.finish();
        } else {
            fiber.abandon();
            // SAFETY: nothing runs there.
            assert_eq!(unsafe { exeunt::discard(memory..memory + SIZE) }, 1);
        }
        assert_eq!(log.take(), [name.to_owned(), format!("drop {name}")]);
    }
    // SAFETY: nothing runs there any more.
    unsafe { libc::free(memory as *mut libc::c_void) };
    println!("[armed and discarded, tagged: {is_tagged}]");
    assert!(is_tagged || !process::is_emulated(), "the emulator has memory tagging");
}
