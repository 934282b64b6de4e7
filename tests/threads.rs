//! Threads: what happens at their end, in which order, and that their results arrive.

mod common;

use common::{Log, OnDrop, keep_panics, on_a_thread, panics_with, process};
use std::cell::{Cell, RefCell};
use std::ffi::c_void;
use std::sync::atomic::{AtomicUsize, Ordering};

#[test]
fn handlers_run_last_in_first_out_when_a_thread_ends() {
    let log = Log::new();
    let theirs = log.clone();
    on_a_thread(move || {
        for number in 0..100 {
            exeunt::at_exit(theirs.noting(&number.to_string())).unwrap();
        }
        theirs.note("closure is done");
    });
    let expected: Vec<_> =
        std::iter::once("closure is done".to_owned()).chain((0..100).rev().map(|n| n.to_string())).collect();
    assert_eq!(log.take(), expected);
}

#[test]
fn handlers_see_all_values_and_then_values_are_dropped_last_set_first() {
    exeunt::stack_local! {
        static BETWEEN: RefCell<Option<common::Loud>> = RefCell::new(None);
    }
    let log = Log::new();
    let theirs = log.clone();
    on_a_thread(move || {
        exeunt::set("first", theirs.loud("first")).unwrap();
        BETWEEN.set(Some(theirs.loud("between")));
        exeunt::set("last", theirs.loud("last")).unwrap();
        for handler in ["handler one", "handler two"] {
            let log = theirs.clone();
            exeunt::at_exit(move || {
                let keyed = |key: &'static str| {
                    exeunt::with(&key, |value: Option<&common::Loud>| value.map(|value| value.name.clone()))
                };
                assert_eq!(keyed("first").as_deref(), Some("first"));
                assert_eq!(keyed("last").as_deref(), Some("last"));
                assert!(BETWEEN.with_borrow(Option::is_some));
                log.note(handler);
            })
            .unwrap();
        }
    });
    assert_eq!(log.take(), ["handler two", "handler one", "drop last", "drop between", "drop first"]);
}

#[test]
fn a_destructor_sees_the_values_that_were_set_before_its_own_and_no_later_ones() {
    let log = Log::new();
    let theirs = log.clone();
    on_a_thread(move || {
        for number in 0..4_u32 {
            let log = theirs.clone();
            let look = OnDrop(move || {
                let seen: Vec<bool> =
                    (0..4_u32).map(|key| exeunt::with(&key, |v: Option<&OnDropBox>| v.is_some())).collect();
                log.note(format!("{number} {seen:?}"));
            });
            exeunt::set(number, OnDropBox(Box::new(look))).unwrap();
        }
    });
    struct OnDropBox(#[allow(dead_code)] Box<dyn std::any::Any>);
    let expected = [
        "3 [true, true, true, false]",
        "2 [true, true, false, false]",
        "1 [true, false, false, false]",
        "0 [false, false, false, false]",
    ];
    assert_eq!(log.take(), expected);
}

#[test]
fn handlers_and_values_come_before_thread_local_destructors() {
    thread_local! {
        static EARLY: RefCell<Option<common::Loud>> = const { RefCell::new(None) };
        static LATE: RefCell<Option<common::Loud>> = const { RefCell::new(None) };
    }
    let log = Log::new();
    let theirs = log.clone();
    on_a_thread(move || {
        EARLY.set(Some(theirs.loud("thread_local used before arming")));
        exeunt::set("value", theirs.loud("value")).unwrap();
        let log = theirs.clone();
        exeunt::at_exit(move || {
            // They are not only alive, they can also be used.
            assert!(EARLY.with_borrow(Option::is_some) && LATE.with_borrow(Option::is_some));
            log.note("handler");
        })
        .unwrap();
        LATE.set(Some(theirs.loud("thread_local used after arming")));
    });
    let lines = log.take();
    assert_eq!(lines[..2], ["handler", "drop value"]);
    assert_eq!(lines.len(), 4, "{lines:?}");
    assert!(lines[2..].iter().all(|line| line.starts_with("drop thread_local")), "{lines:?}");
}

#[test]
fn handlers_and_values_come_before_pthread_keys() {
    unsafe extern "C" fn destroy(log: *mut c_void) {
        // SAFETY: the test stores a boxed log under the key.
        let log = unsafe { Box::from_raw(log.cast::<Log>()) };
        log.note("pthread key");
    }
    let mut key = 0;
    // SAFETY: `destroy` expects the values that are stored under the key.
    assert_eq!(unsafe { libc::pthread_key_create(&raw mut key, Some(destroy)) }, 0);
    let log = Log::new();
    let theirs = log.clone();
    on_a_thread(move || {
        // SAFETY: a live key.
        unsafe { libc::pthread_setspecific(key, Box::into_raw(Box::new(theirs.clone())).cast()) };
        exeunt::set("value", theirs.loud("value")).unwrap();
        exeunt::at_exit(theirs.noting("handler")).unwrap();
    });
    assert_eq!(log.take(), ["handler", "drop value", "pthread key"]);
}

#[test]
fn a_handler_may_set_get_and_delete() {
    let log = Log::new();
    let theirs = log.clone();
    on_a_thread(move || {
        exeunt::set("old", theirs.loud("old")).unwrap();
        let log = theirs.clone();
        exeunt::at_exit(move || {
            log.note("second handler");
            assert_eq!(exeunt::get::<i32>(&"number"), Some(5));
            exeunt::with(&"new", |value: Option<&common::Loud>| assert!(value.is_some()));
        })
        .unwrap();
        let log = theirs.clone();
        exeunt::at_exit(move || {
            log.note("first handler");
            exeunt::set("number", 5).unwrap();
            exeunt::set("new", log.loud("new")).unwrap();
            assert!(exeunt::del(&"old").unwrap());
            assert!(!exeunt::del(&"old").unwrap());
            log.note("deleted");
        })
        .unwrap();
    });
    assert_eq!(log.take(), ["first handler", "drop old", "deleted", "second handler", "drop new"]);
}

#[test]
fn handlers_and_values_that_handlers_and_destructors_add_are_drained() {
    let log = Log::new();
    let theirs = log.clone();
    on_a_thread(move || {
        exeunt::at_exit(theirs.noting("registered first, runs last of the handlers")).unwrap();
        let log = theirs.clone();
        exeunt::at_exit(move || {
            log.note("handler");
            let inner = log.clone();
            exeunt::at_exit(move || {
                inner.note("registered by a handler");
                let last = inner.clone();
                exeunt::at_exit(move || last.note("registered by that one")).unwrap();
            })
            .unwrap();
        })
        .unwrap();
        exeunt::set("earlier", theirs.loud("earlier")).unwrap();
        let log = theirs.clone();
        let destructor = OnDrop(move || {
            log.note("destructor");
            exeunt::set("by a destructor", log.loud("set by a destructor")).unwrap();
            exeunt::at_exit(log.noting("registered by a destructor")).unwrap();
        });
        exeunt::set("later", Hidden(Box::new(destructor))).unwrap();
    });
    struct Hidden(#[allow(dead_code)] Box<dyn std::any::Any>);
    let expected = [
        "handler",
        "registered by a handler",
        "registered by that one",
        "registered first, runs last of the handlers",
        "destructor",
        "registered by a destructor",
        "drop set by a destructor",
        "drop earlier",
    ];
    assert_eq!(log.take(), expected);
}

#[test]
fn a_handler_may_reset_which_keeps_the_other_handlers() {
    let log = Log::new();
    let theirs = log.clone();
    on_a_thread(move || {
        exeunt::set(1, theirs.loud("one")).unwrap();
        exeunt::set(2, theirs.loud("two")).unwrap();
        exeunt::at_exit(theirs.noting("other handler")).unwrap();
        let log = theirs.clone();
        exeunt::at_exit(move || {
            exeunt::reset().unwrap();
            log.note("reset is done");
        })
        .unwrap();
    });
    assert_eq!(log.take(), ["drop two", "drop one", "reset is done", "other handler"]);
}

#[test]
fn a_destructor_of_what_a_removed_handler_holds_may_unload_as_well() {
    let log = Log::new();
    let theirs = log.clone();
    on_a_thread(move || {
        let held = OnDrop(|| exeunt::unload().unwrap());
        exeunt::at_exit(move || drop(held)).unwrap();
        exeunt::set("value", theirs.loud("value")).unwrap();
        exeunt::unload().unwrap();
        assert!(!exeunt::Stack::current().is_armed());
        // Two stacks that are armed now have separate values.
        exeunt::set("here", 1).unwrap();
        let there = on_a_thread(|| {
            exeunt::set("there", 2).unwrap();
            (exeunt::id().unwrap(), exeunt::get::<i32>(&"here"))
        });
        assert!(there.0 != exeunt::id().unwrap() && there.1.is_none());
        assert_eq!((exeunt::get::<i32>(&"here"), exeunt::get::<i32>(&"there")), (Some(1), None));
    });
    assert_eq!(log.take(), ["drop value"]);
}

#[test]
fn a_handler_may_unload_and_what_is_added_then_is_drained() {
    let log = Log::new();
    let theirs = log.clone();
    on_a_thread(move || {
        exeunt::set(1, theirs.loud("one")).unwrap();
        exeunt::at_exit(theirs.noting("removed")).unwrap();
        let log = theirs.clone();
        exeunt::at_exit(move || {
            let before = exeunt::id().unwrap();
            exeunt::unload().unwrap();
            log.note("unload is done");
            assert_ne!(exeunt::id().unwrap(), before);
            exeunt::set(2, log.loud("two")).unwrap();
            exeunt::at_exit(log.noting("registered after it")).unwrap();
        })
        .unwrap();
    });
    assert_eq!(log.take(), ["drop one", "unload is done", "registered after it", "drop two"]);
}

#[test]
fn a_panic_in_a_handler_or_destructor_is_reported_and_the_others_still_run() {
    keep_panics();
    let log = Log::new();
    let theirs = log.clone();
    let result = std::thread::spawn(move || {
        exeunt::set(1, theirs.loud("one")).unwrap();
        exeunt::set(2, Panics).unwrap();
        exeunt::set(3, theirs.loud("three")).unwrap();
        exeunt::set(PanickingKey, 4).unwrap();
        exeunt::at_exit(theirs.noting("last handler")).unwrap();
        exeunt::at_exit(|| panic!("in a handler of threads.rs")).unwrap();
        exeunt::at_exit(|| std::panic::panic_any(DropPanics)).unwrap();
        exeunt::at_exit(theirs.noting("first handler")).unwrap();
        "result"
    })
    .join();
    assert_eq!(result.unwrap(), "result");
    assert_eq!(log.take(), ["first handler", "last handler", "drop three", "drop one"]);
    assert_eq!(panics_with("in a handler of threads.rs"), 1);
    assert_eq!(panics_with("in a destructor of threads.rs"), 1);
    assert_eq!(panics_with("in a key's destructor of threads.rs"), 1);
    assert_eq!(panics_with("in a payload of threads.rs"), 1);

    struct Panics;
    impl Drop for Panics {
        fn drop(&mut self) {
            panic!("in a destructor of threads.rs");
        }
    }
    #[derive(PartialEq, Eq, Hash)]
    struct PanickingKey;
    impl Drop for PanickingKey {
        fn drop(&mut self) {
            panic!("in a key's destructor of threads.rs");
        }
    }
    struct DropPanics;
    impl Drop for DropPanics {
        fn drop(&mut self) {
            panic!("in a payload of threads.rs");
        }
    }
}

#[test]
fn a_thread_that_ends_by_a_panic_is_drained_once_and_its_payload_arrives() {
    let log = Log::new();
    let theirs = log.clone();
    let result = std::thread::spawn(move || {
        exeunt::set("value", theirs.loud("value")).unwrap();
        exeunt::at_exit(theirs.noting("handler")).unwrap();
        std::panic::panic_any(77_u8);
    })
    .join();
    assert_eq!(result.unwrap_err().downcast_ref(), Some(&77_u8));
    assert_eq!(log.take(), ["handler", "drop value"]);
}

#[test]
fn a_caught_panic_on_an_armed_stack_behaves_as_on_any_other() {
    on_a_thread(|| {
        let log = Log::new();
        exeunt::at_exit(|| ()).unwrap();
        let theirs = log.clone();
        let caught = std::panic::catch_unwind(move || {
            let _guard = theirs.loud("guard");
            std::panic::panic_any(5_i64);
        });
        assert_eq!(caught.unwrap_err().downcast_ref(), Some(&5_i64));
        assert_eq!(log.take(), ["drop guard"]);
    });
}

#[test]
fn the_result_of_a_start_routine_arrives_unchanged() {
    static DRAINED: AtomicUsize = AtomicUsize::new(0);
    extern "C" fn routine(argument: *mut c_void) -> *mut c_void {
        exeunt::set("scratch", vec![1.5_f64; 100]).unwrap();
        exeunt::at_exit(|| {
            // Leaves other values in every register that could hold the result.
            let sum: f64 = std::hint::black_box(vec![0.5; 33]).iter().sum();
            assert_eq!(sum, 16.5);
            DRAINED.fetch_add(1, Ordering::Relaxed);
        })
        .unwrap();
        (argument as usize).wrapping_mul(0x9e37_79b9_7f4a_7c15) as *mut c_void
    }
    for argument in [0_usize, 1, usize::MAX, 0x1234_5678_9abc_def0] {
        // SAFETY: a number or a pointer.
        let mut thread = unsafe { std::mem::zeroed() };
        let mut result = std::ptr::null_mut();
        // SAFETY: the routine takes its argument for a number.
        unsafe {
            assert_eq!(libc::pthread_create(&raw mut thread, std::ptr::null(), routine, argument as *mut c_void), 0);
            assert_eq!(libc::pthread_join(thread, &raw mut result), 0);
        }
        assert_eq!(result as usize, argument.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    }
    assert_eq!(DRAINED.load(Ordering::Relaxed), 4);
}

#[test]
fn many_threads_at_once_have_values_and_handlers_of_their_own() {
    static DRAINED: AtomicUsize = AtomicUsize::new(0);
    let threads: Vec<_> = (0..32_usize)
        .map(|thread| {
            std::thread::spawn(move || {
                for round in 0..100 {
                    exeunt::set("number", thread * 1000 + round).unwrap();
                    std::thread::yield_now();
                    assert_eq!(exeunt::get(&"number"), Some(thread * 1000 + round));
                }
                exeunt::at_exit(move || {
                    assert_eq!(exeunt::get(&"number"), Some(thread * 1000 + 99));
                    DRAINED.fetch_add(1, Ordering::Relaxed);
                })
                .unwrap();
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    assert_eq!(DRAINED.load(Ordering::Relaxed), 32);
}

#[test]
fn a_thread_local_destructor_after_the_drain_gets_an_error_that_the_stack_has_ended() {
    thread_local! {
        static AFTER: RefCell<Option<Box<dyn std::any::Any>>> = const { RefCell::new(None) };
    }
    let log = Log::new();
    let theirs = log.clone();
    on_a_thread(move || {
        exeunt::set("value", 1).unwrap();
        let log = theirs.clone();
        let after = OnDrop(move || {
            assert_eq!(exeunt::get::<i32>(&"value"), None);
            // Nothing that it stored would ever be dropped, so it has to get an error.
            let refused = exeunt::set("value", log.loud("refused"));
            log.note(format!("refused: {}", matches!(refused, Err(exeunt::Error::StackHasEnded))));
        });
        AFTER.set(Some(Box::new(after)));
    });
    assert_eq!(log.take(), ["drop refused", "refused: true"]);
}

#[test]
fn an_unwinder_finds_the_same_outermost_frames_armed_unarmed_and_in_a_handler() {
    /// The return addresses of the two outermost frames, which are independent of the thread's own
    /// code.
    fn outermost() -> Vec<usize> {
        let mut addresses = Vec::new();
        backtrace::trace(|frame| {
            addresses.push(frame.ip() as usize);
            true
        });
        addresses.split_off(addresses.len() - 2)
    }
    let (sender, receiver) = std::sync::mpsc::channel();
    on_a_thread(move || {
        let unarmed = outermost();
        exeunt::at_exit(move || sender.send((unarmed, outermost())).unwrap()).unwrap();
        exeunt::at_exit(|| ()).unwrap();
        let armed = outermost();
        exeunt::set("armed", armed).unwrap();
        exeunt::at_exit(|| {
            let armed: Vec<usize> = exeunt::get(&"armed").unwrap();
            assert_eq!(armed, outermost());
        })
        .unwrap();
    });
    let (unarmed, in_handler) = receiver.recv().unwrap();
    assert_eq!(unarmed, in_handler);
}

#[test]
fn stack_current_distinguishes_armed_unarmed_and_ending_stacks() {
    let (sender, receiver) = std::sync::mpsc::channel();
    on_a_thread(move || {
        let local = 0_u8;
        let before = exeunt::Stack::current();
        assert!(!before.is_armed() && !before.is_draining());
        assert_eq!((before.id(), before.kind(), before.problem()), (None, exeunt::Kind::Thread, None));
        let foot = before.foot().unwrap().clone();
        assert_eq!((foot.word, foot.trampoline.as_str()), (foot.original, common::THREADS_EXIT));
        let bounds = before.bounds().unwrap();
        assert!(bounds.contains(&(&raw const local as usize)) && bounds.contains(&foot.address));

        let id = exeunt::id().unwrap();
        let after = exeunt::Stack::current();
        assert!(after.is_armed() && !after.is_draining());
        assert_eq!((after.id(), after.kind(), after.bounds()), (Some(id), exeunt::Kind::Thread, Some(bounds)));
        let armed = after.foot().unwrap().clone();
        assert_eq!((armed.address, armed.original), (foot.address, foot.original));
        // Slot redirect rewrites the foot. Code redirect writes nothing on the stack of a thread.
        assert_eq!(armed.word != foot.word, !common::is_code());
        assert_eq!(armed.trampoline, common::THREADS_EXIT);
        // SAFETY: a word of this thread's stack.
        assert_eq!(unsafe { (armed.address as *const usize).read_volatile() }, armed.word);

        exeunt::at_exit(move || {
            let ending = exeunt::Stack::current();
            assert!(ending.is_armed() && ending.is_draining());
            assert_eq!((ending.id(), ending.kind(), ending.problem()), (Some(id), exeunt::Kind::Thread, None));
            sender.send(()).unwrap();
        })
        .unwrap();
    });
    receiver.recv().expect("the handler came to its end");
}

#[test]
fn debug_of_a_stack_is_readable() {
    on_a_thread(|| {
        let id = exeunt::id().unwrap();
        let stack = exeunt::Stack::current();
        let foot = stack.foot().unwrap();
        let (line, lines) = (format!("{stack:?}"), format!("{stack:#?}"));
        for text in [&line, &lines] {
            for part in [
                "Stack {",
                &format!("{}", id.get()),
                "kind: Thread",
                &format!("address: {:#x}", foot.address),
                &format!("word: {:#x}", foot.word),
                &format!("original: {:#x}", foot.original),
                &format!("trampoline: {:?}", common::THREADS_EXIT),
                &format!("bounds: Some({:#x}..", stack.bounds().unwrap().start)
                    .replace("Some(", if text == &line { "Some(" } else { "Some(\n        " }),
            ] {
                assert!(text.contains(part), "{part:?} is not in {text}");
            }
        }
        assert_eq!(line.lines().count(), 1);
        assert!(lines.lines().count() > 5);
    });
}

/// The bytes of the running stack from `from` up to the C library's own data of the thread, which
/// the kernel writes to as well (rseq).
fn bytes_above(from: usize) -> Vec<u8> {
    let bounds = exeunt::Stack::current().bounds().unwrap();
    // SAFETY: asks for a number.
    let mut end = unsafe { libc::pthread_self() } as usize;
    // musl's bounds end below that data.
    if cfg!(target_env = "musl") {
        end = end.min(bounds.end);
    }
    assert!((bounds.start..=bounds.end).contains(&end));
    // SAFETY: memory of the running thread's stack, whose bytes are all readable.
    (from..end).map(|address| unsafe { (address as *const u8).read_volatile() }).collect()
}

#[test]
fn a_stack_that_stores_nothing_is_not_touched() {
    process::alone("a_stack_that_stores_nothing_is_not_touched", || {
        #[inline(never)]
        fn inner(anchor: usize) {
            let before = bytes_above(anchor);
            exeunt::stack_local! { static UNUSED: Cell<u8> = const { Cell::new(0) }; }
            assert_eq!(exeunt::get::<i32>(&"k"), None);
            assert!(exeunt::with(&"k", |value: Option<&i32>| value.is_none()));
            assert!(!exeunt::del(&"k").unwrap());
            exeunt::reset().unwrap();
            exeunt::unload().unwrap();
            let stack = exeunt::Stack::current();
            assert!(!stack.is_armed());
            let _ = &UNUSED;
            assert_eq!(bytes_above(anchor), before);
            let foot = stack.foot().unwrap();
            assert_eq!(foot.word, foot.original);
        }
        #[inline(never)]
        fn outer() {
            let anchor = 0_usize;
            inner(std::hint::black_box(&raw const anchor) as usize);
        }
        let before = exeunt::survey().unwrap();
        on_a_thread(outer);
        // The same with other stacks armed, and with a neighbour's memory that was armed before.
        on_a_thread(|| exeunt::at_exit(|| on_a_thread(outer)).unwrap());
        on_a_thread(outer);
        assert_eq!(exeunt::survey().unwrap().armed, before.armed);
    });
}

#[test]
fn threads_leave_nothing_behind() {
    process::alone("threads_leave_nothing_behind", || {
        static DRAINED: AtomicUsize = AtomicUsize::new(0);
        let lives = |count: usize| {
            for life in 0..count {
                on_a_thread(move || {
                    exeunt::set(life, vec![life; 16]).unwrap();
                    exeunt::set("text", String::from("some words on the heap")).unwrap();
                    exeunt::at_exit(|| _ = DRAINED.fetch_add(1, Ordering::Relaxed)).unwrap();
                });
            }
        };
        // The first ones make the allocations that are made once: the slab's first records, the
        // stack map's leaf, the allocator's arenas.
        lives(common::scaled(1000, 100));
        let count = common::scaled(20_000, 500);
        // The memory that threads which use nothing leave allocated: under QEMU some 280 KB each,
        // elsewhere nothing.
        let resident = common::resident();
        (0..count).for_each(|_| on_a_thread(|| ()));
        let others = common::resident().saturating_sub(resident);
        let (armed, resident) = (exeunt::survey().unwrap().armed, common::resident());
        lives(count);
        assert_eq!(exeunt::survey().unwrap().armed, armed);
        assert_eq!(DRAINED.load(Ordering::Relaxed), count + common::scaled(1000, 100));
        let grown = common::resident().saturating_sub(resident);
        println!("{count} threads: resident memory grew by {grown} bytes, without exeunt by {others}");
        // A leak of one record, or of one of these values, for each thread would be 128 bytes or
        // more.
        let allowed = others + others / 20 + count * 100 + (1 << 20);
        assert!(grown < allowed, "{grown} bytes more after {count} threads, {others} after as many without exeunt");
    });
}
