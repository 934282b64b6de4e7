//! `makecontext` fibers: between threads, pooled, abandoned, and on memory of every kind.
#![cfg(target_env = "gnu")]

mod common;

use common::fiber::{Fiber, Inside, Pages};
use common::{Log, Loud, on_a_thread, process, scaled};
use std::cell::{Cell, RefCell};
use std::hash::{Hash, Hasher};
use std::ops::Range;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// Enough for unoptimised code that recognises exit trampolines for the first time.
const ROOM: usize = 128 * 1024;

exeunt::stack_local! {
    static LOCAL: Cell<usize> = const { Cell::new(0) };
    static HELD: RefCell<Option<Loud>> = const { RefCell::new(None) };
}

/// An address on the running stack.
#[inline(never)]
fn here() -> usize {
    let local = 0_u8;
    std::hint::black_box(&raw const local).addr()
}

fn read(address: usize) -> usize {
    // SAFETY: the tests pass the foot of a stack whose memory is mapped.
    unsafe { (address as *const usize).read_volatile() }
}

#[test]
fn a_fiber_is_drained_on_its_own_stack_when_its_function_has_returned() {
    let log = Log::new();
    let theirs = log.clone();
    let pages = Pages::new(ROOM);
    let range = pages.range();
    // SAFETY: the pages are this fiber's, and it runs to its end.
    let fiber = unsafe {
        Fiber::new(pages.range(), move |fiber| {
            exeunt::set("first", theirs.loud("first")).unwrap();
            HELD.set(Some(theirs.loud("second")));
            let log = theirs.clone();
            exeunt::at_exit(move || {
                assert!(range.contains(&here()));
                assert!(HELD.with_borrow(Option::is_some));
                log.note("handler");
            })
            .unwrap();
            fiber.suspend();
            theirs.note("function is done");
        })
    };
    fiber.finish();
    assert_eq!(log.take(), ["function is done", "handler", "drop second", "drop first"]);
}

#[test]
fn stack_current_shows_a_fiber() {
    let pages = Pages::new(ROOM);
    let range = pages.range();
    // SAFETY: the pages are this fiber's, and it runs to its end.
    let fiber = unsafe {
        Fiber::new(pages.range(), move |fiber| {
            let bare = exeunt::Stack::current();
            assert_eq!((bare.kind(), bare.is_armed(), bare.problem()), (exeunt::Kind::Fiber, false, None));
            let foot = bare.foot().unwrap().clone();
            assert_eq!((foot.trampoline.as_str(), foot.word), ("__start_context", foot.original));
            assert!(range.contains(&foot.address));
            let bounds = bare.bounds().unwrap();
            assert!(bounds.contains(&here()) && bounds.contains(&foot.address) && bounds.end <= range.end);
            let id = exeunt::id().unwrap();
            fiber.suspend();
            let armed = exeunt::Stack::current();
            assert_eq!((armed.id(), armed.kind()), (Some(id), exeunt::Kind::Fiber));
            assert_eq!(armed.foot().map(|foot| foot.original), Some(foot.original));
            exeunt::unload().unwrap();
            assert_eq!(exeunt::Stack::current().foot(), Some(&foot));
            exeunt::at_exit(|| assert!(exeunt::Stack::current().is_draining())).unwrap();
        })
    };
    fiber.finish();
}

#[test]
fn a_fiber_and_the_thread_that_runs_it_share_nothing() {
    let log = Log::new();
    let theirs = log.clone();
    on_a_thread(move || {
        let pages = Pages::new(ROOM);
        let thread = exeunt::id().unwrap();
        exeunt::set("key", theirs.loud("thread's value")).unwrap();
        LOCAL.set(1);
        exeunt::at_exit(theirs.noting("thread's handler")).unwrap();
        let log = theirs.clone();
        // SAFETY: the pages are this fiber's, and it runs to its end.
        let fiber = unsafe {
            Fiber::new(pages.range(), move |fiber| {
                exeunt::with(&"key", |value: Option<&Loud>| assert!(value.is_none()));
                assert_eq!(LOCAL.replace(2), 0);
                exeunt::set("key", log.loud("fiber's value")).unwrap();
                exeunt::at_exit(log.noting("fiber's handler")).unwrap();
                assert_ne!(exeunt::id().unwrap(), thread);
                fiber.suspend();
                assert_eq!(LOCAL.get(), 2);
            })
        };
        assert!(fiber.resume());
        assert_eq!((LOCAL.get(), exeunt::id().unwrap()), (1, thread));
        assert!(!fiber.resume());
        theirs.note("fiber is over");
        assert_eq!((LOCAL.get(), exeunt::id().unwrap()), (1, thread));
    });
    let expected =
        ["fiber's handler", "drop fiber's value", "fiber is over", "thread's handler", "drop thread's value"];
    assert_eq!(log.take(), expected);
}

#[test]
fn a_fiber_that_panics_is_drained_and_its_panic_arrives() {
    let log = Log::new();
    let pages = Pages::new(ROOM);
    let theirs = log.clone();
    // SAFETY: the pages are this fiber's, and it runs to its end.
    let fiber = unsafe {
        Fiber::new(pages.range(), move |fiber| {
            exeunt::set("value", theirs.loud("value")).unwrap();
            exeunt::at_exit(theirs.noting("handler")).unwrap();
            fiber.suspend();
            std::panic::panic_any(5_u8);
        })
    };
    assert!(fiber.resume());
    let payload = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| fiber.resume())).unwrap_err();
    assert_eq!(payload.downcast_ref(), Some(&5_u8));
    assert_eq!(log.take(), ["handler", "drop value"]);
}

#[test]
fn many_fibers_on_one_thread_each_have_their_own() {
    static DRAINED: AtomicUsize = AtomicUsize::new(0);
    let pages: Vec<_> = (0..200).map(|_| Pages::new(ROOM)).collect();
    let mut fibers: Vec<_> = pages
        .iter()
        .enumerate()
        .map(|(number, pages)| {
            // SAFETY: the pages are this fiber's, and it runs to its end.
            unsafe {
                Fiber::new(pages.range(), move |fiber| {
                    exeunt::set("number", number).unwrap();
                    exeunt::at_exit(move || {
                        assert_eq!((exeunt::get(&"number"), LOCAL.get()), (Some(number), number * 10));
                        DRAINED.fetch_add(1, Ordering::Relaxed);
                    })
                    .unwrap();
                    for round in 0..10 {
                        assert_eq!(LOCAL.replace(number * round), number * round.saturating_sub(1));
                        fiber.suspend();
                        assert_eq!(exeunt::get(&"number"), Some(number));
                    }
                    LOCAL.set(number * 10);
                })
            }
        })
        .collect();
    while !fibers.is_empty() {
        fibers.retain(Fiber::resume);
    }
    assert_eq!(DRAINED.load(Ordering::Relaxed), 200);
}

#[test]
fn storage_moves_with_a_fiber_from_thread_to_thread_and_is_drained_once() {
    const FIBERS: usize = 64;
    let moves = scaled(100, 20);
    let pages: Arc<Vec<_>> = Arc::new((0..FIBERS).map(|_| Pages::new(ROOM)).collect());
    let drained: Arc<Vec<AtomicUsize>> = Arc::new((0..FIBERS).map(|_| AtomicUsize::new(0)).collect());
    let threads_seen = Arc::new(Mutex::new(std::collections::HashSet::new()));
    let fiber = |number: usize| {
        let (drained, threads_seen) = (Arc::clone(&drained), Arc::clone(&threads_seen));
        // SAFETY: the pages are this fiber's, and it runs to its end.
        unsafe {
            Fiber::new(pages[number].range(), move |fiber| {
                let id = exeunt::id().unwrap();
                exeunt::set("number", number).unwrap();
                exeunt::at_exit(move || {
                    assert_eq!((exeunt::get(&"number"), LOCAL.get(), exeunt::id()), (Some(number), moves, Ok(id)));
                    drained[number].fetch_add(1, Ordering::Relaxed);
                })
                .unwrap();
                for round in 0..moves {
                    assert_eq!((LOCAL.get(), exeunt::get(&"number"), exeunt::id()), (round, Some(number), Ok(id)));
                    LOCAL.set(round + 1);
                    threads_seen.lock().unwrap().insert((number, std::thread::current().id()));
                    fiber.suspend();
                }
            })
        }
    };
    const THREADS: usize = 4;
    let queues: [_; THREADS] = std::array::from_fn(|_| Mutex::new(std::collections::VecDeque::new()));
    queues[0].lock().unwrap().extend((0..FIBERS).map(fiber));
    let (queues, left) = (Arc::new(queues), Arc::new(AtomicUsize::new(FIBERS)));
    let threads: Vec<_> = (0..THREADS)
        .map(|thread| {
            let (queues, left) = (Arc::clone(&queues), Arc::clone(&left));
            std::thread::spawn(move || {
                // Half of the threads are armed themselves.
                if thread % 2 == 0 {
                    exeunt::set("number", usize::MAX).unwrap();
                }
                let begin = std::time::Instant::now();
                while left.load(Ordering::Relaxed) > 0 {
                    assert!(begin.elapsed().as_secs() < 100, "another thread has failed");
                    let Some(fiber) = queues[thread].lock().unwrap().pop_front() else {
                        std::thread::yield_now();
                        continue;
                    };
                    // Each resume is on the next thread.
                    if fiber.resume() {
                        queues[(thread + 1) % THREADS].lock().unwrap().push_back(fiber);
                    } else {
                        left.fetch_sub(1, Ordering::Relaxed);
                    }
                    assert_eq!(exeunt::get(&"number"), (thread % 2 == 0).then_some(usize::MAX));
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    assert!(drained.iter().all(|times| times.load(Ordering::Relaxed) == 1));
    assert_eq!(threads_seen.lock().unwrap().len(), FIBERS * THREADS, "each fiber ran on each thread");
}

#[test]
fn a_fiber_outlives_the_threads_that_ran_it() {
    let log = Log::new();
    let theirs = log.clone();
    let pages = Pages::new(ROOM);
    // SAFETY: the pages are this fiber's, and it runs to its end.
    let mut fiber = unsafe {
        Fiber::new(pages.range(), move |fiber| {
            exeunt::set("value", theirs.loud("value")).unwrap();
            exeunt::at_exit(theirs.noting("fiber's handler")).unwrap();
            for round in 0..5 {
                LOCAL.set(round);
                fiber.suspend();
                assert_eq!(LOCAL.get(), round);
            }
        })
    };
    for round in 0..6 {
        let theirs = log.clone();
        fiber = on_a_thread(move || {
            exeunt::at_exit(theirs.noting("thread's handler")).unwrap();
            assert_eq!(fiber.resume(), round < 5);
            fiber
        });
    }
    let mut expected = vec!["thread's handler"; 5];
    expected.extend(["fiber's handler", "drop value", "thread's handler"]);
    assert_eq!(log.take(), expected);
}

#[test]
fn fibers_pooled_on_the_same_memory_each_start_empty_and_are_drained_once() {
    let pages = Pages::new(ROOM);
    let log = Log::new();
    let mut ids = std::collections::HashSet::new();
    for life in 0..scaled(2000, 200) {
        let theirs = log.clone();
        let id = Rc::new(Cell::new(None));
        let inner = Rc::clone(&id);
        // SAFETY: one fiber after the other has the pages, and comes to its end.
        let fiber = unsafe {
            Fiber::new(pages.range(), move |fiber| {
                assert!(!exeunt::Stack::current().is_armed());
                assert_eq!((exeunt::get::<usize>(&"life"), LOCAL.get()), (None, 0));
                inner.set(exeunt::id().ok());
                exeunt::set("life", life).unwrap();
                exeunt::set("loud", theirs.loud("value")).unwrap();
                exeunt::at_exit(theirs.noting("handler")).unwrap();
                LOCAL.set(life + 1);
                fiber.suspend();
                assert_eq!((exeunt::get(&"life"), LOCAL.get()), (Some(life), life + 1));
            })
        };
        fiber.finish();
        assert_eq!(log.take(), ["handler", "drop value"]);
        assert!(ids.insert(id.get().unwrap()), "every fiber has an id of its own");
    }
}

/// Arms a fiber on that memory and abandons it.
fn abandon(memory: Range<usize>, arguments: i32, log: &Log, name: &'static str) {
    let theirs = log.clone();
    // SAFETY: the memory is this fiber's, which will not be resumed.
    unsafe {
        Fiber::with_arguments(memory, arguments, move |fiber| {
            exeunt::set("key", theirs.loud(name)).unwrap();
            HELD.set(Some(theirs.loud(format!("{name}'s local"))));
            LOCAL.set(77);
            let log = theirs.clone();
            exeunt::at_exit(move || log.note(format!("{name}'s handler"))).unwrap();
            fiber.suspend();
            unreachable!("it is abandoned");
        })
    }
    .abandon();
}

/// What the handlers and destructors of an abandoned fiber write to the log.
fn ended(name: &str) -> [String; 3] {
    [format!("{name}'s handler"), format!("drop {name}'s local"), format!("drop {name}")]
}

#[test]
fn the_next_fiber_on_the_memory_of_an_abandoned_one_starts_empty_and_nothing_is_lost() {
    let pages = Pages::new(ROOM);
    let log = Log::new();
    let theirs = log.clone();
    abandon(pages.range(), 1, &log, "old");
    assert_eq!(log.take().len(), 0, "nothing has detected yet that it is abandoned");
    // SAFETY: the old fiber will not be resumed.
    let fiber = unsafe {
        Fiber::new(pages.range(), move |fiber| {
            assert!(!exeunt::Stack::current().is_armed());
            exeunt::with(&"key", |value: Option<&Loud>| assert!(value.is_none()));
            assert!(!exeunt::del(&"key").unwrap());
            exeunt::reset().unwrap();
            exeunt::unload().unwrap();
            theirs.note("new one arms");
            exeunt::at_exit(theirs.noting("new handler")).unwrap();
            theirs.note("new one is armed");
            exeunt::with(&"key", |value: Option<&Loud>| assert!(value.is_none()));
            assert_eq!(LOCAL.get(), 0);
            assert!(HELD.with_borrow(Option::is_none));
            fiber.suspend();
            assert_eq!(LOCAL.get(), 0);
        })
    };
    fiber.finish();
    let [handler, local, value] = ended("old");
    let expected = ["new one arms", &handler, &local, &value, "new one is armed", "new handler"];
    assert_eq!(log.take(), expected);
}

#[test]
fn abandoned_fibers_on_one_memory_are_each_drained_once_and_none_is_left_armed() {
    process::alone("abandoned_fibers_on_one_memory_are_each_drained_once_and_none_is_left_armed", || {
        let pages = Pages::new(ROOM);
        let log = Log::new();
        for _ in 0..50 {
            abandon(pages.range(), 1, &log, "one");
            assert_eq!(exeunt::survey().unwrap().armed, 1);
        }
        assert_eq!(log.take(), ended("one").iter().cycle().take(49 * 3).cloned().collect::<Vec<_>>());
        // SAFETY: the last one is not resumed either.
        assert_eq!(unsafe { exeunt::discard(pages.range()) }, 1);
        assert_eq!(log.take(), ended("one"));
        assert_eq!(exeunt::survey().unwrap().armed, 0);
        // SAFETY: nothing runs there.
        assert_eq!(unsafe { exeunt::discard(pages.range()) }, 0);
    });
}

#[test]
fn an_unload_in_a_handler_of_an_abandoned_fiber_does_not_affect_the_next_fiber() {
    process::alone("an_unload_in_a_handler_of_an_abandoned_fiber_does_not_affect_the_next_fiber", || {
        let pages = Pages::new(ROOM);
        let log = Log::new();
        // SAFETY: the pages are this fiber's, which is not resumed.
        unsafe {
            Fiber::new(pages.range(), |fiber| {
                exeunt::at_exit(|| exeunt::unload().unwrap()).unwrap();
                fiber.suspend();
            })
        }
        .abandon();
        let theirs = log.clone();
        // SAFETY: the pages are this fiber's now, and it runs to its end.
        let next = unsafe {
            Fiber::new(pages.range(), move |_| {
                exeunt::at_exit(theirs.noting("handler")).unwrap();
                exeunt::set("value", theirs.loud("value")).unwrap();
                assert!(exeunt::Stack::current().is_armed());
                // No other stack gets its record.
                on_a_thread(|| exeunt::with(&"value", |value: Option<&Loud>| assert!(value.is_none())));
            })
        };
        next.finish();
        assert_eq!(log.take(), ["handler", "drop value"]);
        assert_eq!(exeunt::survey().unwrap().armed, 0);
    });
}

#[test]
fn a_fiber_that_is_abandoned_while_it_drains_an_abandoned_fiber_loses_nothing() {
    thread_local! { static RUNNING: Cell<Option<Inside>> = const { Cell::new(None) } }
    /// A handler that suspends the fiber that it runs on.
    fn suspending(log: Log, name: &'static str) -> impl FnOnce() {
        move || {
            log.note(name);
            RUNNING.get().expect("a fiber runs").suspend();
            unreachable!("it is abandoned");
        }
    }
    process::alone("a_fiber_that_is_abandoned_while_it_drains_an_abandoned_fiber_loses_nothing", || {
        for by_discard in [false, true] {
            let pages = Pages::new(ROOM);
            let log = Log::new();
            let theirs = log.clone();
            // SAFETY: the pages are this fiber's, which is not resumed.
            unsafe {
                Fiber::new(pages.range(), move |fiber| {
                    exeunt::set("value", theirs.loud("the first one's value")).unwrap();
                    exeunt::at_exit(theirs.noting("the first one's last handler")).unwrap();
                    exeunt::at_exit(suspending(theirs.clone(), "suspends the third")).unwrap();
                    exeunt::at_exit(suspending(theirs.clone(), "suspends the second")).unwrap();
                    fiber.suspend();
                })
            }
            .abandon();
            for suspended in ["suspends the second", "suspends the third"] {
                // SAFETY: the pages are this fiber's now, which is not resumed either.
                unsafe {
                    Fiber::new(pages.range(), |fiber| {
                        RUNNING.set(Some(fiber));
                        _ = exeunt::id();
                        unreachable!("it is abandoned");
                    })
                }
                .abandon();
                assert_eq!(log.take(), [suspended]);
            }
            if by_discard {
                // SAFETY: no fiber is resumed there.
                assert_eq!(unsafe { exeunt::discard(pages.range()) }, 1);
            } else {
                // SAFETY: the pages are this fiber's now, and it runs to its end.
                unsafe { Fiber::new(pages.range(), |_| _ = exeunt::id().unwrap()) }.finish();
            }
            assert_eq!(log.take(), ["the first one's last handler", "drop the first one's value"]);
            assert_eq!(exeunt::survey().unwrap().armed, 0);
        }
    });
}

#[test]
fn an_abandoned_fiber_with_its_foot_elsewhere_is_drained_by_discard_and_not_inherited() {
    process::alone("an_abandoned_fiber_with_its_foot_elsewhere_is_drained_by_discard_and_not_inherited", || {
        // More arguments than there are registers for move the foot to a lower address.
        for (old, new) in [(12, 1), (1, 12)] {
            let pages = Pages::new(ROOM);
            let log = Log::new();
            abandon(pages.range(), old, &log, "old");
            let theirs = log.clone();
            // A pool that reuses the memory of a suspended fiber discards it first.
            // SAFETY: the old one will not be resumed.
            assert_eq!(unsafe { exeunt::discard(pages.range()) }, 1);
            assert_eq!(log.take(), ended("old"));
            // SAFETY: the pages are this fiber's now.
            let fiber = unsafe {
                Fiber::with_arguments(pages.range(), new, move |_| {
                    exeunt::with(&"key", |value: Option<&Loud>| assert!(value.is_none()));
                    assert_eq!(LOCAL.get(), 0);
                    exeunt::at_exit(theirs.noting("new handler")).unwrap();
                })
            };
            fiber.finish();
            assert_eq!(log.take(), ["new handler"]);
        }
        assert_eq!(exeunt::survey().unwrap().armed, 0);
    });
}

/// A key whose `eq` suspends its fiber and never returns.
struct Suspends(Inside);

impl Hash for Suspends {
    fn hash<H: Hasher>(&self, _: &mut H) {}
}

impl PartialEq for Suspends {
    fn eq(&self, _: &Self) -> bool {
        self.0.suspend();
        unreachable!("it is abandoned");
    }
}

impl Eq for Suspends {}

#[test]
fn a_fiber_that_is_abandoned_in_the_comparison_of_keys_loses_nothing() {
    let calls: [fn(Suspends); 3] =
        [|key| _ = exeunt::get::<i32>(&key), |key| _ = exeunt::set(key, 2), |key| _ = exeunt::del(&key)];
    for compare in calls {
        let pages = Pages::new(ROOM);
        let log = Log::new();
        let theirs = log.clone();
        // SAFETY: the pages are this fiber's, which is not resumed once it is abandoned.
        unsafe {
            Fiber::new(pages.range(), move |fiber| {
                exeunt::set("value", theirs.loud("value")).unwrap();
                exeunt::at_exit(theirs.noting("handler")).unwrap();
                exeunt::set(Suspends(fiber), 1).unwrap();
                compare(Suspends(fiber));
            })
        }
        .abandon();
        // SAFETY: the fiber will not be resumed.
        assert_eq!(unsafe { exeunt::discard(pages.range()) }, 1);
        assert_eq!(log.take(), ["handler", "drop value"]);
    }
}

#[test]
fn a_fiber_that_is_abandoned_in_a_destructor_of_reset_or_unload_loses_nothing() {
    thread_local! { static RUNNING: Cell<Option<Inside>> = const { Cell::new(None) } }
    /// Suspends for ever the fiber that it is dropped on.
    struct Suspends(Log);
    impl Drop for Suspends {
        fn drop(&mut self) {
            self.0.note("suspended");
            RUNNING.get().expect("a fiber runs").suspend();
            unreachable!("it is abandoned");
        }
    }
    let name = "a_fiber_that_is_abandoned_in_a_destructor_of_reset_or_unload_loses_nothing";
    process::alone(name, || {
        let pages = Pages::new(ROOM);
        for (unloads, by_discard) in [(false, false), (false, true), (true, false), (true, true)] {
            let log = Log::new();
            let theirs = log.clone();
            let first = move |fiber| {
                RUNNING.set(Some(fiber));
                let loud = |name: &'static str| theirs.loud(name);
                let suspends = [(); 2].map(|()| Suspends(theirs.clone()));
                HELD.set(Some(loud("local")));
                exeunt::set("first", loud("first")).unwrap();
                if unloads {
                    let last = loud("held by the last handler");
                    suspends.into_iter().for_each(|held| exeunt::at_exit(move || drop(held)).unwrap());
                    exeunt::at_exit(move || drop(last)).unwrap();
                    exeunt::unload().unwrap();
                } else {
                    exeunt::at_exit(theirs.noting("handler")).unwrap();
                    suspends.into_iter().enumerate().for_each(|(key, value)| exeunt::set(key, value).unwrap());
                    exeunt::set("last", loud("last")).unwrap();
                    exeunt::reset().unwrap();
                }
            };
            // SAFETY: the pages are this fiber's, which is not resumed once it is abandoned.
            unsafe { Fiber::new(pages.range(), first) }.abandon();
            let second = |fiber| {
                RUNNING.set(Some(fiber));
                _ = exeunt::id();
            };
            // SAFETY: the pages are this fiber's now, which is abandoned as well, when it is armed.
            unsafe { Fiber::new(pages.range(), second) }.abandon();
            if by_discard {
                // SAFETY: no fiber is resumed there.
                assert_eq!(unsafe { exeunt::discard(pages.range()) }, 1);
            } else {
                // SAFETY: the pages are this fiber's now, and it runs to its end.
                unsafe { Fiber::new(pages.range(), |_| _ = exeunt::id().unwrap()) }.finish();
            }
            let expected: &[_] = match unloads {
                true => &["suspended", "suspended", "drop held by the last handler", "drop first", "drop local"],
                false => &["drop last", "suspended", "suspended", "drop first", "drop local", "handler"],
            };
            assert_eq!(log.take(), expected);
            assert_eq!(exeunt::survey().unwrap().armed, 0);
        }
    });
}

#[test]
fn the_next_fiber_creates_a_stack_local_whose_creation_an_abandoned_fiber_did_not_finish() {
    thread_local! { static MAKER: Cell<Option<Inside>> = const { Cell::new(None) } }
    exeunt::stack_local! {
        static SLOW: usize = {
            if let Some(fiber) = MAKER.take() {
                fiber.suspend();
            }
            7
        };
    }
    process::alone("the_next_fiber_creates_a_stack_local_whose_creation_an_abandoned_fiber_did_not_finish", || {
        let pages = Pages::new(ROOM);
        for by_discard in [true, false] {
            // SAFETY: the pages are this fiber's, which is not resumed.
            unsafe {
                Fiber::new(pages.range(), |fiber| {
                    MAKER.set(Some(fiber));
                    SLOW.with(|_| unreachable!("it is abandoned"));
                })
            }
            .abandon();
            if by_discard {
                // SAFETY: the fiber will not be resumed.
                assert_eq!(unsafe { exeunt::discard(pages.range()) }, 1);
            }
            for _ in 0..3 {
                // SAFETY: the pages are this fiber's now.
                let next = unsafe { Fiber::new(pages.range(), |_| assert_eq!(SLOW.try_with(|slow| *slow), Ok(7))) };
                next.finish();
                // The record of the abandoned fiber serves other stacks.
                on_a_thread(|| assert_eq!(SLOW.try_with(|slow| *slow), Ok(7)));
            }
        }
        assert_eq!(exeunt::survey().unwrap().armed, 0);
    });
}

#[test]
fn discard_finishes_the_drain_of_a_fiber_that_is_suspended_in_a_handler() {
    process::alone("discard_finishes_the_drain_of_a_fiber_that_is_suspended_in_a_handler", || {
        let pages = Pages::new(ROOM);
        let log = Log::new();
        let theirs = log.clone();
        // SAFETY: the pages are this fiber's, and it is not resumed any more once they are
        // discarded.
        let fiber = unsafe {
            Fiber::new(pages.range(), move |fiber| {
                exeunt::set("value", theirs.loud("value")).unwrap();
                exeunt::at_exit(theirs.noting("the last handler")).unwrap();
                let log = theirs.clone();
                exeunt::at_exit(move || {
                    log.note("suspends");
                    fiber.suspend();
                    log.note("never");
                })
                .unwrap();
                exeunt::at_exit(theirs.noting("the first handler")).unwrap();
            })
        };
        assert!(!fiber.resume(), "its function is over");
        assert_eq!(log.take(), ["the first handler", "suspends"]);
        // SAFETY: the fiber will not be resumed.
        assert_eq!(unsafe { exeunt::discard(pages.range()) }, 1);
        assert_eq!(log.take(), ["the last handler", "drop value"]);
        assert_eq!(exeunt::survey().unwrap().armed, 0);
        // SAFETY: nothing runs there.
        assert_eq!(unsafe { exeunt::discard(pages.range()) }, 0);
    });
}

#[test]
fn memory_of_an_abandoned_fiber_may_be_unmapped_once_it_is_discarded() {
    let log = Log::new();
    for _ in 0..20 {
        let pages = Pages::new(ROOM);
        abandon(pages.range(), 1, &log, "old");
        // SAFETY: the fiber will not be resumed.
        assert_eq!(unsafe { exeunt::discard(pages.range()) }, 1);
        let range = pages.range();
        drop(pages);
        // What is mapped there next is another mapping: most likely this one, at the same address
        // with another size.
        let pages = Pages::new(ROOM / 2);
        // SAFETY: the pages are this fiber's, and it runs to its end.
        let fiber = unsafe { Fiber::new(pages.range(), |_| LOCAL.with(|local| assert_eq!(local.get(), 0))) };
        fiber.finish();
        assert_eq!(log.take(), ended("old"), "{range:x?}");
    }
}

#[test]
fn a_fiber_abandoned_in_a_handler_does_not_lose_the_other_handlers() {
    let pages = Pages::new(ROOM);
    let log = Log::new();
    let theirs = log.clone();
    // SAFETY: the pages are this fiber's, which will not be resumed after its handler suspends it.
    let fiber = unsafe {
        Fiber::new(pages.range(), move |fiber| {
            exeunt::set("value", theirs.loud("old value")).unwrap();
            exeunt::at_exit(theirs.noting("old handler")).unwrap();
            let log = theirs.clone();
            exeunt::at_exit(move || {
                log.note("handler suspends");
                fiber.suspend();
            })
            .unwrap();
        })
    };
    fiber.resume();
    let theirs = log.clone();
    // SAFETY: the old fiber will not be resumed.
    let new = unsafe { Fiber::new(pages.range(), move |_| exeunt::at_exit(theirs.noting("new handler")).unwrap()) };
    new.finish();
    assert_eq!(log.take(), ["handler suspends", "old handler", "drop old value", "new handler"]);
}

/// A fiber that stores `name`, reads it, is suspended, reads it again, and logs its end.
///
/// # Safety
/// As for [`Fiber::new`].
unsafe fn storing(memory: Range<usize>, name: &'static str, log: &Log) -> Fiber {
    let theirs = log.clone();
    // SAFETY: the caller's promise.
    unsafe {
        Fiber::new(memory, move |fiber| {
            assert_eq!(exeunt::get::<&str>(&"name"), None);
            exeunt::set("name", name).unwrap();
            let log = theirs.clone();
            exeunt::at_exit(move || {
                assert_eq!(exeunt::get::<&str>(&"name"), Some(name));
                exeunt::set("in handler", log.loud(name)).unwrap();
                assert_eq!(exeunt::get::<&str>(&"name"), Some(name));
                log.note(name);
            })
            .unwrap();
            for _ in 0..3 {
                assert_eq!(exeunt::get::<&str>(&"name"), Some(name));
                fiber.suspend();
            }
            assert_eq!(exeunt::get::<&str>(&"name"), Some(name));
        })
    }
}

#[test]
fn stacks_need_not_be_aligned_to_pages_nor_mapped_for_them() {
    let log = Log::new();
    // On the heap; at odd addresses of it; at the very end of a page and at its very start.
    let heap = vec![0_u8; 4 * ROOM];
    let start = heap.as_ptr().addr().next_multiple_of(4096);
    for (offset, name) in [(16, "16"), (48, "48"), (2048, "2048"), (4080, "4080"), (4095, "4095"), (0, "0")] {
        let memory = start + offset..start + offset + 2 * ROOM + offset / 2;
        // SAFETY: the memory is this fiber's, and it runs to its end.
        unsafe { storing(memory, name, &log) }.finish();
        assert_eq!(log.take(), [name.to_owned(), format!("drop {name}")]);
    }
}

#[test]
fn a_stack_right_below_an_armed_one_has_its_own_storage() {
    for boundary in [0, 16, 512, 1024, 2048, 3072, 4000] {
        let pages = Pages::new(4 * ROOM);
        let range = pages.range();
        let middle = range.start + 2 * ROOM + boundary;
        let log = Log::new();
        // SAFETY: the two parts are one fiber's each, and both run to their end.
        let (upper, lower) =
            unsafe { (storing(middle..range.end, "upper", &log), storing(range.start..middle, "lower", &log)) };
        for _ in 0..3 {
            assert!(upper.resume() && lower.resume());
        }
        lower.finish();
        assert_eq!(log.take(), ["lower", "drop lower"]);
        upper.finish();
        assert_eq!(log.take(), ["upper", "drop upper"]);
    }
}

/// How far above `lowest` code still reads. The shared page is larger. The functions that look up
/// the record from there are above `lowest` as well. Their callees may go below, where nothing runs
/// at that time.
const READS: usize = 2500;
/// How far above `lowest` a fiber is suspended, which takes less.
const SUSPENDS: usize = 1200;

/// Calls itself until it is a bit above `lowest`, reads in each frame, and suspends the fiber.
#[inline(never)]
fn suspend_near(lowest: usize, fiber: Inside) {
    let frame = [0_u8; 64];
    if here() > lowest + READS {
        assert_eq!(exeunt::get::<&str>(&"name"), Some("upper"));
    }
    if here() > lowest + SUSPENDS {
        suspend_near(lowest, fiber);
    } else {
        assert!(here() > lowest + SUSPENDS / 2, "its frame is small");
        fiber.suspend();
    }
    std::hint::black_box(&frame);
}

#[test]
fn a_stack_whose_base_shares_a_page_with_another_stack_s_inner_frames_has_its_own_storage() {
    for boundary in [16, 64, 256, 512] {
        let pages = Pages::new(4 * ROOM);
        let range = pages.range();
        let middle = range.start + 2 * ROOM + boundary;
        let log = Log::new();
        let theirs = log.clone();
        // SAFETY: it has this part for itself, and comes to its end.
        let upper = unsafe {
            Fiber::new(middle..range.end, move |fiber| {
                exeunt::set("name", "upper").unwrap();
                exeunt::at_exit(theirs.noting("upper")).unwrap();
                suspend_near(middle, fiber);
                assert_eq!(exeunt::get::<&str>(&"name"), Some("upper"));
            })
        };
        assert!(upper.resume());
        for name in ["lower", "again"] {
            // SAFETY: the upper fiber is suspended above `middle`.
            unsafe { storing(range.start..middle, name, &log) }.finish();
            assert_eq!(log.take(), [name.to_owned(), format!("drop {name}")], "boundary at {boundary}");
        }
        upper.finish();
        assert_eq!(log.take(), ["upper"]);
    }
}

#[test]
fn stacks_so_small_that_their_bases_share_a_page_have_storage_of_their_own() {
    // The upper one has 3 KiB to itself while the lower one exists. When it needs more, it is
    // alone.
    let pages = Pages::new(4 * ROOM);
    let range = pages.range();
    let page = range.start + 3 * ROOM;
    let (lower_top, upper_top) = (page + 512, page + 4096 - 64);
    for _ in 0..3 {
        let log = Log::new();
        // SAFETY: while both exist, the upper one is suspended, and all of it lies above the lower
        // one's base. That is asserted below.
        let upper = unsafe { storing(range.start..upper_top, "upper", &log) };
        assert!(upper.resume());
        // SAFETY: as above.
        let lower = unsafe { storing(range.start..lower_top, "lower", &log) };
        assert!(lower.resume() && lower.resume());
        lower.finish();
        assert_eq!(log.take(), ["lower", "drop lower"]);
        upper.finish();
        assert_eq!(log.take(), ["upper", "drop upper"]);
    }
}

/// Runs a fiber in a local array of this function.
#[inline(never)]
fn fiber_in_a_local_array(log: &Log) {
    let mut array = [0_u8; ROOM];
    let start = std::hint::black_box(&mut array).as_mut_ptr().addr();
    // SAFETY: nothing runs in the array. Inner calls that have returned may have.
    assert_eq!(unsafe { exeunt::discard(start..start + ROOM) }, 0);
    // SAFETY: the array lives until the fiber has ended.
    let fiber = unsafe { storing(start..start + ROOM, "in the array", log) };
    while fiber.resume() {
        exeunt::with(&"mine", |value: Option<&&str>| assert!(value.is_none_or(|value| *value == "thread's")));
        exeunt::with(&"name", |value: Option<&&str>| assert!(value.is_none()));
    }
}

fn with_room(code: impl FnOnce() + Send + 'static) {
    std::thread::Builder::new().stack_size(16 * ROOM).spawn(code).unwrap().join().unwrap();
}

#[test]
fn a_fiber_in_a_local_array_of_a_running_function_does_not_share_its_thread_s_storage() {
    let log = Log::new();
    let theirs = log.clone();
    with_room(move || {
        fiber_in_a_local_array(&theirs);
        assert_eq!(theirs.take(), ["in the array", "drop in the array"]);
        exeunt::set("mine", "thread's").unwrap();
        fiber_in_a_local_array(&theirs);
        assert_eq!(theirs.take(), ["in the array", "drop in the array"]);
        assert_eq!(exeunt::get(&"mine"), Some("thread's"));
    });
    assert_eq!(log.take().len(), 0);
}

#[test]
fn a_fiber_in_an_array_where_its_thread_has_read_before_does_not_share_its_storage() {
    #[inline(never)]
    fn read_all_the_way_down(lowest: usize) {
        assert_eq!(exeunt::get(&"mine"), Some("thread's"));
        if here() > lowest {
            read_all_the_way_down(lowest);
        }
        std::hint::black_box(lowest);
    }
    let log = Log::new();
    let theirs = log.clone();
    with_room(move || {
        exeunt::set("mine", "thread's").unwrap();
        read_all_the_way_down(here() - 2 * ROOM);
        fiber_in_a_local_array(&theirs);
        assert_eq!(theirs.take(), ["in the array", "drop in the array"]);
        assert_eq!(exeunt::get(&"mine"), Some("thread's"));
    });
    assert_eq!(log.take().len(), 0);
}

/// Reads in every frame down to `lowest`.
#[inline(never)]
fn read_down_to(lowest: usize, read: &dyn Fn() -> usize, expected: usize) {
    assert_eq!(read(), expected);
    if here() > lowest {
        read_down_to(lowest, read, expected);
    }
    std::hint::black_box(lowest);
}

/// A thread reads 5 in every frame down to an address. Then a fiber reads there, in an array of one
/// of the thread's functions, and finds 0.
fn read_where_the_thread_has_read(
    set_to_5: impl FnOnce() + Send + 'static,
    read: impl Fn() -> usize + Send + Sync + 'static,
) {
    #[inline(never)]
    fn fiber_that_reads(middle: usize, read: &'static (dyn Fn() -> usize + Sync)) {
        let mut array = [0_u8; 2 * ROOM];
        let start = std::hint::black_box(&mut array).as_mut_ptr().addr();
        // SAFETY: nothing runs in the array.
        unsafe { exeunt::discard(start..start + array.len()) };
        // SAFETY: the array lives until the fiber has ended.
        let fiber = unsafe { Fiber::new(start..start + array.len(), move |_| read_down_to(middle - 1024, read, 0)) };
        fiber.finish();
    }
    let read: &'static _ = Box::leak(Box::new(read));
    with_room(move || {
        set_to_5();
        let middle = here() - ROOM;
        read_down_to(middle, read, 5);
        fiber_that_reads(middle, read);
        read_down_to(middle, read, 5);
    });
}

#[test]
fn a_stack_local_in_an_array_where_its_thread_has_read_it_before_is_the_fiber_s() {
    read_where_the_thread_has_read(|| LOCAL.set(5), || LOCAL.get());
}

#[test]
fn a_slot_in_an_array_where_its_thread_has_read_it_before_is_the_fiber_s() {
    let slot: &exeunt::Slot<usize> = Box::leak(Box::new(exeunt::Slot::new().unwrap()));
    read_where_the_thread_has_read(|| slot.set(5).unwrap(), || slot.get().unwrap_or(0));
}

#[test]
fn a_thread_that_grows_over_the_memory_of_a_fiber_that_is_over_keeps_its_own_storage() {
    with_room(|| {
        let log = Log::new();
        for _ in 0..3 {
            fiber_in_a_local_array(&log);
            LOCAL.set(5);
            exeunt::set("mine", "thread's").unwrap();
            fn down(depth: usize) {
                assert_eq!(
                    (LOCAL.get(), exeunt::get(&"mine"), exeunt::get::<&str>(&"name")),
                    (5, Some("thread's"), None)
                );
                if depth > 0 {
                    down(depth - 1);
                }
                std::hint::black_box(depth);
            }
            down(500);
        }
    });
}

#[test]
fn a_fiber_that_stores_nothing_is_not_touched() {
    process::alone("a_fiber_that_stores_nothing_is_not_touched", || {
        on_a_thread(|| exeunt::at_exit(|| ()).unwrap());
        let pages = Pages::new(ROOM);
        let range = pages.range();
        // SAFETY: the pages are this fiber's, and it runs to its end.
        let fiber = unsafe {
            Fiber::new(pages.range(), move |_| {
                let anchor = here();
                #[inline(never)]
                fn look(anchor: usize, end: usize) {
                    // SAFETY: memory of this fiber.
                    let bytes = || -> Vec<u8> {
                        // SAFETY: the part of this very stack above the anchor.
                        let byte = |address: usize| unsafe { (address as *const u8).read_volatile() };
                        (anchor..end).map(byte).collect()
                    };
                    let before = bytes();
                    assert_eq!(exeunt::get::<i32>(&"k"), None);
                    assert!(!exeunt::del(&"k").unwrap());
                    exeunt::reset().unwrap();
                    exeunt::unload().unwrap();
                    let stack = exeunt::Stack::current();
                    assert!(!stack.is_armed());
                    let foot = stack.foot().unwrap();
                    assert_eq!((read(foot.address), foot.word), (foot.original, foot.original));
                    assert!(before == bytes(), "reading has changed the stack");
                }
                look(anchor + 256, range.end);
            })
        };
        fiber.finish();
        assert_eq!(exeunt::survey().unwrap().armed, 0);
    });
}

#[test]
fn fibers_on_one_memory_leave_nothing_behind() {
    process::alone("fibers_on_one_memory_leave_nothing_behind", || {
        let pages = Pages::new(ROOM);
        let lives = |count: usize| {
            for life in 0..count {
                // Every seventh is abandoned.
                // SAFETY: one fiber after the other has the pages.
                let fiber = unsafe {
                    Fiber::new(pages.range(), move |fiber| {
                        exeunt::set(life, vec![life; 16]).unwrap();
                        LOCAL.set(life);
                        exeunt::at_exit(move || assert_eq!(LOCAL.get(), if life % 7 == 0 { 0 } else { life })).unwrap();
                        if life % 7 == 0 {
                            exeunt::reset().unwrap();
                            exeunt::del(&life).unwrap();
                            fiber.suspend();
                        }
                    })
                };
                assert_eq!(fiber.resume(), life % 7 == 0);
            }
        };
        lives(700);
        // Such a number that the last one is abandoned.
        let count = scaled(50_002, 2_003);
        let resident = common::resident();
        lives(count);
        let grown = common::resident().saturating_sub(resident);
        println!("{count} fibers on one piece of memory: resident memory grew by {grown} bytes");
        // Each abandoned fiber leaves its closure, some 50 bytes, on a stack that never returns. A
        // record or a page of the stack map for each fiber would be more than this allows.
        assert!(grown < count * 30 + (1 << 20), "{grown} bytes more after {count} fibers");
        assert_eq!(exeunt::survey().unwrap().armed, 1);
        let range = pages.range();
        // On a thread, as the handler arms the stack that it runs on.
        // SAFETY: the last one is abandoned.
        on_a_thread(move || assert_eq!(unsafe { exeunt::discard(range) }, 1));
        assert_eq!(exeunt::survey().unwrap().armed, 0);
    });
}

#[test]
fn a_record_is_small_and_a_hundred_thousand_armed_fibers_at_once_work() {
    process::alone("a_record_is_small_and_a_hundred_thousand_armed_fibers_at_once_work", || {
        const SIZE: usize = 32 * 1024;
        static DRAINED: AtomicUsize = AtomicUsize::new(0);
        let record_size = exeunt::survey().unwrap().record_size;
        assert!(record_size <= 512, "{record_size}");
        let count = scaled(100_000, 5_000);
        let pages = Pages::new(count * SIZE);
        let memory = |number: usize| pages.range().start + number * SIZE..pages.range().start + (number + 1) * SIZE;
        let body = |number| {
            move |fiber: Inside| {
                fiber.suspend();
                LOCAL.set(number);
                exeunt::at_exit(move || {
                    assert_eq!(LOCAL.get(), number);
                    DRAINED.fetch_add(1, Ordering::Relaxed);
                })
                .unwrap();
                fiber.suspend();
                assert_eq!(LOCAL.get(), number);
            }
        };
        // Code that runs for the first time needs more of the stack than these fibers have: unwind
        // rules are read from the tables.
        let roomy = Pages::new(ROOM);
        // SAFETY: the pages are this fiber's, and it runs to its end.
        let first = unsafe { Fiber::new(roomy.range(), body(0)) };
        assert!(first.resume() && first.resume());
        first.finish();
        assert_eq!(DRAINED.swap(0, Ordering::Relaxed), 1);

        // SAFETY: each has its own part of the pages, and comes to its end.
        let fibers: Vec<_> = (0..count).map(|number| unsafe { Fiber::new(memory(number), body(number)) }).collect();
        // Of each stack only the page with the frames of the suspended functions stays in memory.
        let resume_all = || {
            for (number, fiber) in fibers.iter().enumerate() {
                assert!(fiber.resume());
                let memory = memory(number);
                // SAFETY: the fiber is suspended within its highest page; the others hold nothing
                // that is in use.
                let given = unsafe { libc::madvise(memory.start as *mut _, SIZE - 4096, libc::MADV_DONTNEED) };
                assert_eq!(given, 0);
            }
        };
        resume_all();
        let before = (common::resident(), exeunt::survey().unwrap());
        resume_all();
        let after = (common::resident(), exeunt::survey().unwrap());
        assert_eq!(after.1.armed - before.1.armed, count);
        let each = (after.0 - before.0) / count;
        println!(
            "{count} armed fibers: {} MiB more than unarmed, {each} bytes each, of which the record is {record_size}; \
             the page map has {} MiB of address space",
            (after.0 - before.0) >> 20,
            after.1.map_reserved >> 20
        );
        // One MiB in all for other memory of the process: QEMU keeps the code that it has
        // translated.
        assert!(
            each <= 1536 + (1 << 20) / count,
            "{each} bytes for an armed fiber with one stack local and one handler"
        );
        for fiber in fibers {
            fiber.finish();
        }
        assert_eq!(DRAINED.load(Ordering::Relaxed), count);
        assert_eq!(exeunt::survey().unwrap().armed, before.1.armed);
    });
}

// Calls a function with an argument on other memory, as psm and stacker do:
// `exeunt_test_on_segment(base, function, argument)`.
#[cfg(target_arch = "x86_64")]
std::arch::global_asm!(
    ".globl exeunt_test_on_segment",
    ".type exeunt_test_on_segment, @function",
    "exeunt_test_on_segment:",
    ".cfi_startproc",
    "push rbp",
    ".cfi_def_cfa_offset 16",
    ".cfi_offset rbp, -16",
    "mov rbp, rsp",
    ".cfi_def_cfa_register rbp",
    "mov rsp, rdi",
    "mov rdi, rdx",
    "call rsi",
    "mov rsp, rbp",
    "pop rbp",
    ".cfi_def_cfa rsp, 8",
    "ret",
    ".cfi_endproc",
    ".size exeunt_test_on_segment, . - exeunt_test_on_segment",
);
#[cfg(target_arch = "aarch64")]
std::arch::global_asm!(
    ".globl exeunt_test_on_segment",
    ".type exeunt_test_on_segment, %function",
    "exeunt_test_on_segment:",
    ".cfi_startproc",
    "stp x29, x30, [sp, #-16]!",
    ".cfi_def_cfa_offset 16",
    ".cfi_offset x29, -16",
    ".cfi_offset x30, -8",
    "mov x29, sp",
    ".cfi_def_cfa x29, 16",
    "mov sp, x0",
    "mov x0, x2",
    "blr x1",
    "mov sp, x29",
    ".cfi_def_cfa sp, 16",
    "ldp x29, x30, [sp], #16",
    ".cfi_def_cfa_offset 0",
    "ret",
    ".cfi_endproc",
    ".size exeunt_test_on_segment, . - exeunt_test_on_segment",
);

#[test]
fn a_stack_that_runs_on_a_segment_where_another_one_has_read_has_its_own_storage() {
    unsafe extern "C" {
        fn exeunt_test_on_segment(base: usize, function: extern "C" fn(*mut i32), argument: *mut i32);
    }
    extern "C" fn look(found: *mut i32) {
        for _ in 0..3 {
            let value = exeunt::get::<i32>(&"whose").unwrap_or(0);
            // SAFETY: `read` waits until this returns.
            unsafe { found.write(value) };
        }
    }
    fn read(base: usize) -> i32 {
        let mut found = -1;
        // SAFETY: nothing else uses the memory below `base` meanwhile, and it is enough.
        unsafe { exeunt_test_on_segment(base, look, &raw mut found) };
        found
    }
    on_a_thread(|| {
        // The segment right below the stack, as if it were the rest of the stack.
        let pages = Pages::new(2 * ROOM);
        let Range { start, end } = pages.range();
        let segment = start + ROOM;
        // SAFETY: the pages live longer.
        let fiber = unsafe {
            Fiber::new(segment..end, move |fiber| {
                exeunt::set("whose", 1).unwrap();
                assert_eq!(read(segment), 1);
                fiber.suspend();
                assert_eq!(exeunt::get(&"whose"), Some(1));
            })
        };
        fiber.resume();
        // The fiber is armed, and will be resumed.
        assert_eq!(read(segment), 0);
        exeunt::set("whose", 2).unwrap();
        assert_eq!(read(segment), 2);
        fiber.resume();
        assert!(fiber.is_over());
    });
}
