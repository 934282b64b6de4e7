//! `enter` and `enter_on`: a scope of its own on any stack.

use exeunt::{Error, Kind, Stack, at_exit, enter, enter_on, get, set};
use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::{Arc, Barrier, Mutex};

exeunt::stack_local! {
    static LOCAL: Cell<u32> = const { Cell::new(0) };
}

fn on_thread<R: Send + 'static>(body: impl FnOnce() -> R + Send + 'static) -> R {
    std::thread::spawn(body).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Adds to a list when it is dropped.
struct Noisy(Rc<RefCell<Vec<&'static str>>>, &'static str);

impl Drop for Noisy {
    fn drop(&mut self) {
        self.0.borrow_mut().push(self.1);
    }
}

#[test]
fn enter_returns_what_its_function_returns() {
    on_thread(|| {
        assert_eq!(enter(|| 7), Ok(7));
        assert_eq!(enter(|| ()), Ok(()));
        assert_eq!(enter(|| 1.5_f64), Ok(1.5));
        assert_eq!(enter(|| u128::MAX), Ok(u128::MAX));
        assert_eq!(enter(|| [3_u8; 4096]), Ok([3; 4096]));
        assert_eq!(enter(|| String::from("owned")), Ok(String::from("owned")));
        // And so when the return goes through the trampoline.
        assert_eq!(enter(|| set("k", 1).map(|()| 7)), Ok(Ok(7)));
        assert_eq!(enter(|| set("k", 1).map(|()| 1.5_f64)), Ok(Ok(1.5)));
        assert_eq!(enter(|| set("k", 1).map(|()| [3_u8; 4096])), Ok(Ok([3; 4096])));
        assert_eq!(enter(|| set("k", 1).map(|()| u128::MAX)), Ok(Ok(u128::MAX)));
    });
}

#[test]
fn what_the_function_owns_is_dropped_once() {
    on_thread(|| {
        let value = Rc::new(());
        let theirs = Rc::clone(&value);
        let back = enter(move || theirs).unwrap();
        assert_eq!(Rc::strong_count(&value), 2);
        drop(back);
        let theirs = Rc::clone(&value);
        enter(move || drop(theirs)).unwrap();
        let theirs = Rc::clone(&value);
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            enter(move || {
                let _theirs = theirs;
                set("k", 1).unwrap();
                panic!("out of here");
            })
        }));
        assert!(panicked.is_err());
        assert_eq!(Rc::strong_count(&value), 1);
    });
}

#[test]
fn a_return_drains_before_enter_returns() {
    on_thread(|| {
        let log = Rc::default();
        enter(|| {
            set("k", Noisy(Rc::clone(&log), "value")).unwrap();
            for name in ["first handler", "second handler"] {
                let noisy = Noisy(Rc::clone(&log), name);
                at_exit(move || drop(noisy)).unwrap();
            }
            assert_eq!(Stack::current().kind(), Kind::Entered);
            assert_eq!(Stack::current().foot().map(|foot| foot.trampoline.clone()).as_deref(), Some("exeunt::enter"));
        })
        .unwrap();
        assert_eq!(*log.borrow(), ["second handler", "first handler", "value"]);
        assert!(!Stack::current().is_armed());
        assert_eq!(Stack::current().kind(), Kind::Thread);
    });
}

#[test]
fn a_panic_drains_the_scope_and_continues() {
    on_thread(|| {
        let log: Rc<RefCell<Vec<&str>>> = Rc::default();
        let panic = catch_unwind(AssertUnwindSafe(|| {
            let _outside = Noisy(Rc::clone(&log), "frame outside");
            enter(|| {
                set("k", Noisy(Rc::clone(&log), "value")).unwrap();
                let noisy = Noisy(Rc::clone(&log), "handler");
                at_exit(move || {
                    assert!(exeunt::with(&"k", |value: Option<&Noisy>| value.is_some()));
                    drop(noisy);
                })
                .unwrap();
                let _inside = Noisy(Rc::clone(&log), "frame inside");
                std::panic::panic_any(42);
            })
        }))
        .expect_err("it panicked");
        assert_eq!(panic.downcast_ref(), Some(&42));
        assert_eq!(*log.borrow(), ["frame inside", "handler", "value", "frame outside"]);
        assert!(!Stack::current().is_armed());
    });
}

#[test]
fn a_handler_that_panics_while_its_scope_unwinds_is_reported_and_the_unwinding_continues() {
    on_thread(|| {
        let log: Rc<RefCell<Vec<&str>>> = Rc::default();
        let panic = catch_unwind(AssertUnwindSafe(|| {
            enter(|| {
                let noisy = Noisy(Rc::clone(&log), "the other handler");
                at_exit(move || drop(noisy)).unwrap();
                at_exit(|| panic!("from a handler")).unwrap();
                std::panic::panic_any("from the function");
            })
        }))
        .expect_err("it panicked");
        assert_eq!(panic.downcast_ref(), Some(&"from the function"));
        assert_eq!(*log.borrow(), ["the other handler"]);
    });
}

#[test]
fn a_scope_that_stores_nothing_is_never_armed() {
    on_thread(|| {
        enter(|| {
            assert!(!Stack::current().is_armed());
            assert_eq!(get::<i32>(&"k"), None);
            assert_eq!(Stack::current().kind(), Kind::Entered);
        })
        .unwrap();
    });
}

#[test]
fn scopes_one_after_the_other_share_no_values() {
    on_thread(|| {
        let mut ids = Vec::new();
        for number in 0..100 {
            enter(|| {
                assert_eq!((get::<i32>(&"k"), LOCAL.get()), (None, 0));
                set("k", number).unwrap();
                LOCAL.set(5);
                ids.push(exeunt::id().unwrap());
            })
            .unwrap();
        }
        ids.dedup();
        assert_eq!(ids.len(), 100);
    });
}

#[test]
fn an_enter_within_an_enter_that_stored_nothing_yet_is_a_scope_of_its_own() {
    on_thread(|| {
        let log: Rc<RefCell<Vec<&str>>> = Rc::default();
        enter(|| {
            enter(|| {
                set("k", Noisy(Rc::clone(&log), "inner")).unwrap();
                LOCAL.set(1);
            })
            .unwrap();
            assert_eq!(*log.borrow(), ["inner"]);
            // The inner scope has ended. The outer one is armed at its own next use.
            assert_eq!(LOCAL.get(), 0);
            set("k", Noisy(Rc::clone(&log), "outer")).unwrap();
        })
        .unwrap();
        assert_eq!(*log.borrow(), ["inner", "outer"]);
    });
}

#[test]
fn on_an_armed_stack_enter_is_an_error_that_names_it_and_its_function_has_not_run() {
    on_thread(|| {
        let id = exeunt::id().unwrap();
        let (ran, dropped) = (Cell::new(false), Rc::new(()));
        let theirs = Rc::clone(&dropped);
        let result = enter(|| {
            ran.set(true);
            drop(theirs);
        });
        assert_eq!(result, Err(Error::AlreadyArmed(id)));
        assert!(!ran.get());
        assert_eq!(Rc::strong_count(&dropped), 1);
        let message = Error::AlreadyArmed(id).to_string();
        assert!(message.contains(&id.to_string()) && message.contains("enter"), "{message}");
    });
    on_thread(|| {
        enter(|| {
            let id = exeunt::id().unwrap();
            assert_eq!(enter(|| ()), Err(Error::AlreadyArmed(id)), "an outer scope that holds something counts, too");
            assert_eq!(exeunt::id(), Ok(id));
        })
        .unwrap();
    });
}

#[test]
fn after_unload_the_stack_can_be_entered_again() {
    on_thread(|| {
        set("k", 1).unwrap();
        exeunt::unload().unwrap();
        assert_eq!(enter(|| get::<i32>(&"k")), Ok(None));
        // An unload inside makes the scope one that has stored nothing.
        let handled = Rc::new(Cell::new(false));
        let theirs = Rc::clone(&handled);
        enter(|| {
            at_exit(move || theirs.set(true)).unwrap();
            exeunt::unload().unwrap();
        })
        .unwrap();
        assert!(!handled.get());
    });
}

#[test]
fn handlers_of_the_scope_run_on_its_own_stack_with_its_values() {
    on_thread(|| {
        let seen = Rc::new(Cell::new((None, 0)));
        let theirs = Rc::clone(&seen);
        enter(|| {
            set("k", 3).unwrap();
            LOCAL.set(4);
            at_exit(move || theirs.set((get::<i32>(&"k"), LOCAL.get()))).unwrap();
        })
        .unwrap();
        assert_eq!(seen.get(), (Some(3), 4));
    });
}

/// Calls itself until the stack pointer is below `address`, and reads there.
#[inline(never)]
fn read_below(address: usize) -> Option<i32> {
    let padding = std::hint::black_box([0_u8; 64]);
    let found = if (&raw const padding).addr() < address { get(&"k") } else { read_below(address) };
    std::hint::black_box(&padding);
    found
}

/// Runs `code` on memory of its own.
fn on_memory(memory: &mut [u8], code: impl FnOnce()) {
    // SAFETY: the memory is this call's alone.
    unsafe { psm::on_stack(memory.as_mut_ptr(), memory.len(), code) };
}

#[test]
fn handlers_of_an_unwound_scope_find_its_values_on_a_page_that_another_stack_uses() {
    const PAGE: usize = 4096;
    const SIZE: usize = 32 * PAGE;
    let mut memory = vec![0_u8; 2 * SIZE + PAGE];
    let first_page = memory.as_ptr().align_offset(PAGE);
    // A page has the last 2.5 KiB of one stack and the first 1.5 KiB of another. (Unoptimised code
    // has such large frames that the drain begins on the next page.)
    let (lower, rest) = memory[first_page..].split_at_mut(SIZE + 2560);
    let upper = &mut rest[..SIZE - PAGE];
    let shared_page = lower.as_ptr().addr() + SIZE..lower.as_ptr().addr() + SIZE + PAGE;
    let deep = upper.as_ptr().addr() + 1200;
    let (is_deep, lower_is_over) = (Barrier::new(2), Barrier::new(2));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            on_memory(upper, || {
                let value = enter(|| {
                    set("k", 5).unwrap();
                    let found = read_below(deep);
                    is_deep.wait();
                    lower_is_over.wait();
                    found
                });
                assert_eq!(value, Ok(Some(5)));
            });
        });
        is_deep.wait();
        let seen = Cell::new((None, 0, None));
        on_memory(lower, || {
            let panicked = catch_unwind(AssertUnwindSafe(|| {
                enter(|| {
                    set("k", 3).unwrap();
                    LOCAL.set(4);
                    // As this test presumes.
                    let foot = Stack::current().foot().unwrap().address;
                    assert!(shared_page.contains(&foot));
                    let handled = AssertUnwindSafe(&seen);
                    // SAFETY: the scope is over before `seen` is gone.
                    let handled: AssertUnwindSafe<&'static Cell<_>> = unsafe { std::mem::transmute(handled) };
                    at_exit(move || {
                        set("later", 6).unwrap();
                        handled.set((get::<i32>(&"k"), LOCAL.get(), get::<i32>(&"later")));
                    })
                    .unwrap();
                    std::panic::resume_unwind(Box::new(()));
                })
            }));
            assert!(panicked.is_err());
        });
        lower_is_over.wait();
        assert_eq!(seen.get(), (Some(3), 4, Some(6)));
    });
}

#[test]
fn enter_on_checks_the_range_and_the_stack() {
    on_thread(|| {
        let bounds = Stack::current().bounds().expect("a thread's bounds are known");
        // SAFETY: the running stack's memory, and nothing has armed it.
        assert_eq!(unsafe { enter_on(bounds.clone(), || set("k", 1).map(|()| 7)) }, Ok(Ok(7)));
        assert!(!Stack::current().is_armed());
        let outside = [0..1, bounds.end..usize::MAX, 0..bounds.start, bounds.end..bounds.start];
        for range in outside {
            let ran = Cell::new(false);
            // SAFETY: it must detect that this is not the running stack's memory.
            let result = unsafe { enter_on(range.clone(), || ran.set(true)) };
            match result {
                Err(Error::NotOnThatStack { stack_pointer, range: refused }) => {
                    assert!(bounds.contains(&stack_pointer));
                    assert_eq!(refused, range);
                }
                other => panic!("{other:?}"),
            }
            assert!(!ran.get());
        }
        let panicked = catch_unwind(|| {
            // SAFETY: as above.
            unsafe { enter_on(bounds.clone(), || set("k", 1).map(|()| panic!("out of here"))) }
        });
        assert!(panicked.is_err());
        assert!(!Stack::current().is_armed());
    });
}

/// Return addresses, outermost first.
#[inline(never)]
fn return_addresses() -> Vec<usize> {
    let mut addresses = Vec::new();
    backtrace::trace(|frame| {
        addresses.push(frame.ip() as usize);
        true
    });
    addresses.reverse();
    addresses
}

#[test]
fn backtraces_are_complete_unarmed_armed_and_from_the_drain() {
    // `body`'s callers are the same in all cases: a thread's outermost frames, in libc and in std.
    type Traces = Arc<Mutex<Vec<Vec<usize>>>>;
    fn body(traces: Traces) {
        traces.lock().unwrap().push(return_addresses());
        let inside = Arc::clone(&traces);
        enter(move || {
            inside.lock().unwrap().push(return_addresses());
            let later = Arc::clone(&inside);
            at_exit(move || later.lock().unwrap().push(return_addresses())).unwrap();
            inside.lock().unwrap().push(return_addresses());
        })
        .unwrap();
        let unwound = Arc::clone(&traces);
        let panicked = catch_unwind(move || {
            enter(move || {
                at_exit(move || unwound.lock().unwrap().push(return_addresses())).unwrap();
                panic!("out of here");
            })
        });
        assert!(panicked.is_err());
    }
    let traces = Traces::default();
    let theirs = Arc::clone(&traces);
    std::thread::spawn(move || body(theirs)).join().unwrap();
    let traces = traces.lock().unwrap();
    let [plain, unarmed, armed, drained, unwound] = &traces[..] else { panic!("{traces:x?}") };
    for (name, trace) in [("unarmed", unarmed), ("armed", armed), ("drained", drained), ("unwound", unwound)] {
        let common = plain.iter().zip(trace).take_while(|(a, b)| a == b).count();
        // All of the thread's frames, from the outermost one to the caller of `body`. The calls
        // inside of it differ.
        let (start, own) = (trace.len() - common, plain.len() - common);
        // With musl unwinders end before libc's frames.
        let outermost = if cfg!(target_env = "musl") { 3 } else { 6 };
        assert!(common >= outermost, "{name}: {common} common frames of {}: {plain:x?} {trace:x?}", plain.len());
        assert!(start >= 1 && own <= 8, "{name}: {own} of the plain trace's frames are not there");
    }
}
