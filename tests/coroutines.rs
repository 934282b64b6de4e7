//! Coroutine libraries whose functions never return: corosensei, generator and may, by `enter`.

use corosensei::stack::{DefaultStack, Stack};
use corosensei::{Coroutine, CoroutineResult, ScopedCoroutine, Yielder};
use exeunt::{Error, Kind, at_exit, enter, enter_on, get, set};
use generator::{Gn, Scope};
use std::cell::Cell;
use std::collections::HashSet;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::ThreadId;

exeunt::stack_local! {
    static LOCAL: Cell<usize> = const { Cell::new(0) };
}

/// Counts the instances that exist.
struct Alive(Arc<AtomicUsize>);

impl Alive {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(count))
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A coroutine that may be sent to another thread.
struct Moving<Y, R>(Coroutine<(), Y, R>);

// SAFETY: while it is suspended, the tests that use it have only numbers and `Send` values on the
// coroutine's stack.
unsafe impl<Y, R> Send for Moving<Y, R> {}

/// Resumes it on a thread of its own.
fn resume_elsewhere<Y: Send + 'static, R: Send + 'static>(
    mut fiber: Moving<Y, R>,
) -> (Moving<Y, R>, CoroutineResult<Y, R>) {
    let there = std::thread::spawn(move || {
        let result = fiber.0.resume(());
        (fiber, result)
    });
    there.join().unwrap()
}

fn memory(stack: &impl Stack) -> Range<usize> {
    stack.limit().get()..stack.base().get()
}

#[test]
fn a_corosensei_coroutine_has_storage_of_its_own_that_is_drained_when_it_returns() {
    let alive = Arc::default();
    set("k", "resumer").unwrap();
    let theirs = Arc::clone(&alive);
    let mut fiber = Coroutine::new(move |yielder: &Yielder<(), ()>, ()| {
        enter(|| {
            assert_eq!(get::<&str>(&"k"), None);
            set("k", "fiber").unwrap();
            set("alive", Alive::new(&theirs)).unwrap();
            let alive = Alive::new(&theirs);
            at_exit(move || drop(alive)).unwrap();
            yielder.suspend(());
            assert_eq!(exeunt::Stack::current().kind(), Kind::Entered);
            get::<&str>(&"k")
        })
        .unwrap()
    });
    assert_eq!(fiber.resume(()), CoroutineResult::Yield(()));
    assert_eq!(get::<&str>(&"k"), Some("resumer"));
    assert_eq!(alive.load(Ordering::SeqCst), 2);
    assert_eq!(fiber.resume(()), CoroutineResult::Return(Some("fiber")));
    assert_eq!(alive.load(Ordering::SeqCst), 0);
}

#[test]
fn a_handler_that_resumes_on_another_thread_does_not_change_that_thread_s_cancellation() {
    unsafe extern "C" {
        safe fn pthread_setcancelstate(state: i32, old: &mut i32) -> i32;
    }
    const ENABLE: i32 = 0;
    const DISABLE: i32 = 1;
    /// Sets it, and returns the previous state.
    fn set_state(state: i32) -> i32 {
        let mut old = -1;
        assert_eq!(pthread_setcancelstate(state, &mut old), 0);
        old
    }
    let mut fiber = Moving(Coroutine::new(|yielder: &Yielder<(), i32>, ()| {
        let yielder = std::ptr::from_ref(yielder).addr();
        let seen = Arc::new(AtomicUsize::new(0));
        let sees = Arc::clone(&seen);
        enter(move || {
            at_exit(move || sees.store(set_state(DISABLE) as usize, Ordering::SeqCst)).unwrap();
            at_exit(move || {
                // SAFETY: the coroutine continues while its handlers run.
                let yielder = unsafe { &*(yielder as *const Yielder<(), i32>) };
                yielder.suspend(set_state(DISABLE));
            })
            .unwrap();
        })
        .unwrap();
        seen.load(Ordering::SeqCst) as i32
    }));
    assert_eq!(fiber.0.resume(()), CoroutineResult::Yield(DISABLE), "a handler is not cancelled");
    let states = std::thread::spawn(move || {
        let mut fiber = fiber;
        assert_eq!(set_state(DISABLE), ENABLE);
        (fiber.0.resume(()), set_state(DISABLE))
    });
    let (last_handler, after) = states.join().unwrap();
    assert_eq!((last_handler, after), (CoroutineResult::Return(DISABLE), DISABLE));
    set_state(ENABLE);
}

#[test]
fn storage_moves_with_a_corosensei_coroutine_from_thread_to_thread() {
    let mut fiber = Moving(Coroutine::new(|yielder, ()| {
        enter(|| {
            let (id, mut threads) = (exeunt::id().unwrap(), HashSet::new());
            let end = Arc::new(Mutex::new(None));
            let at_end = Arc::clone(&end);
            at_exit(move || *at_end.lock().unwrap() = Some((LOCAL.get(), std::thread::current().id()))).unwrap();
            for turn in 0..10 {
                assert_eq!((LOCAL.get(), exeunt::id()), (turn, Ok(id)));
                assert_eq!(get::<usize>(&"turn"), turn.checked_sub(1));
                LOCAL.set(turn + 1);
                set("turn", turn).unwrap();
                threads.insert(std::thread::current().id());
                yielder.suspend(());
            }
            (threads.len(), end)
        })
        .unwrap()
    }));
    let (threads, end) = loop {
        // Each of these threads is armed too, with a value of its own under the same key.
        let there = std::thread::spawn(move || {
            LOCAL.set(1_000_000);
            set("turn", 1_000_000_usize).unwrap();
            let result = fiber.0.resume(());
            assert_eq!((LOCAL.get(), get::<usize>(&"turn")), (1_000_000, Some(1_000_000)));
            (fiber, result)
        });
        match there.join().unwrap() {
            (unfinished, CoroutineResult::Yield(())) => fiber = unfinished,
            (_, CoroutineResult::Return(result)) => break result,
        }
    };
    assert_eq!(threads, 10);
    let (local, last) = end.lock().unwrap().expect("the handler has run");
    assert_eq!(local, 10);
    assert_ne!(last, std::thread::current().id());
}

#[test]
fn forced_unwinding_of_a_suspended_coroutine_drains_it_wherever_it_is_dropped() {
    let alive = Arc::default();
    let theirs = Arc::clone(&alive);
    let fiber = Moving(Coroutine::<(), (), ()>::new(move |yielder, ()| {
        enter(|| {
            set("k", Alive::new(&theirs)).unwrap();
            let alive = Alive::new(&theirs);
            at_exit(move || {
                assert!(exeunt::with(&"k", |value: Option<&Alive>| value.is_some()));
                drop(alive);
            })
            .unwrap();
            yielder.suspend(());
            unreachable!("it is never resumed");
        })
        .unwrap();
    }));
    let (fiber, _) = resume_elsewhere(fiber);
    assert_eq!(alive.load(Ordering::SeqCst), 2);
    // On a third thread.
    std::thread::spawn(move || {
        let whole = fiber;
        drop(whole);
        assert!(!exeunt::Stack::current().is_armed());
    })
    .join()
    .unwrap();
    assert_eq!(alive.load(Ordering::SeqCst), 0);
}

#[test]
fn a_panic_in_a_coroutine_drains_it_and_reaches_its_resumer() {
    let alive = Arc::default();
    let theirs = Arc::clone(&alive);
    let mut fiber = Coroutine::<(), (), ()>::new(move |_, ()| {
        enter(|| {
            set("k", Alive::new(&theirs)).unwrap();
            std::panic::panic_any(9);
        })
        .unwrap()
    });
    let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| fiber.resume(()))).expect_err("it panicked");
    assert_eq!(panic.downcast_ref(), Some(&9));
    assert_eq!(alive.load(Ordering::SeqCst), 0);
}

#[test]
fn a_coroutine_that_is_reset_without_unwinding_leaks_nothing_once_it_is_discarded() {
    let alive = Arc::default();
    let theirs = Arc::clone(&alive);
    let mut fiber = Coroutine::<(), (), ()>::new(move |yielder, ()| {
        // The coroutine's own stack holds nothing to drop; everything is in its storage.
        enter(move || {
            set("k", Alive::new(&theirs)).unwrap();
            let alive = Alive::new(&theirs);
            at_exit(move || drop(alive)).unwrap();
            drop(theirs);
            yielder.suspend(());
        })
        .unwrap();
    });
    fiber.resume(());
    assert_eq!(alive.load(Ordering::SeqCst), 2);
    // SAFETY: no frame of the coroutine owns anything.
    unsafe { fiber.force_reset() };
    let stack = fiber.into_stack();
    assert_eq!(alive.load(Ordering::SeqCst), 2, "nothing has discarded it yet");
    // SAFETY: the coroutine on this stack never runs again.
    assert_eq!(unsafe { exeunt::discard(memory(&stack)) }, 1);
    assert_eq!(alive.load(Ordering::SeqCst), 0);
    // SAFETY: as above.
    assert_eq!(unsafe { exeunt::discard(memory(&stack)) }, 0, "once is enough");
    drop(stack);
    assert_eq!(Arc::strong_count(&alive), 1);
}

#[test]
fn discard_drains_the_stacks_in_its_range_and_no_others() {
    let alive = Arc::default();
    let start = || {
        let theirs = Arc::clone(&alive);
        let stack = DefaultStack::new(64 * 1024).unwrap();
        let range = memory(&stack);
        let mut fiber = Coroutine::<(), bool, ()>::with_stack(stack, move |yielder, ()| {
            enter(move || {
                set("k", Alive::new(&theirs)).unwrap();
                drop(theirs);
                loop {
                    yielder.suspend(exeunt::with(&"k", |value: Option<&Alive>| value.is_some()));
                }
            })
            .unwrap();
        });
        fiber.resume(());
        (fiber, range)
    };
    let mut fibers: Vec<_> = (0..5).map(|_| start()).collect();
    let (mut gone, range) = fibers.swap_remove(2);
    assert_eq!(alive.load(Ordering::SeqCst), 5);
    // SAFETY: it is not resumed, but reset, below; its frames own nothing except through `yielder`.
    assert_eq!(unsafe { exeunt::discard(range) }, 1);
    assert_eq!(alive.load(Ordering::SeqCst), 4);
    for (fiber, _) in &mut fibers {
        assert_eq!(fiber.resume(()), CoroutineResult::Yield(true));
    }
    // SAFETY: no frame of the coroutine owns anything.
    unsafe { gone.force_reset() };
    drop(fibers);
    assert_eq!(alive.load(Ordering::SeqCst), 0);
}

#[test]
fn a_coroutine_on_a_pooled_stack_finds_nothing_of_the_previous_one() {
    let alive = Arc::default();
    let mut stack = DefaultStack::new(64 * 1024).unwrap();
    let mut ids = HashSet::new();
    for round in 0..50 {
        let theirs = Arc::clone(&alive);
        let mut fiber = Coroutine::<(), (), _>::with_stack(stack, move |yielder, ()| {
            enter(move || {
                assert_eq!((LOCAL.get(), get::<usize>(&"round")), (0, None));
                LOCAL.set(round);
                set("round", round).unwrap();
                set("alive", Alive::new(&theirs)).unwrap();
                drop(theirs);
                let id = exeunt::id().unwrap();
                if round % 2 == 0 {
                    yielder.suspend(());
                }
                id
            })
            .unwrap()
        });
        match fiber.resume(()) {
            CoroutineResult::Return(id) => assert!(ids.insert(id)),
            // Every other one is abandoned without `discard`: the next one detects that.
            // SAFETY: no frame of the coroutine owns anything.
            CoroutineResult::Yield(()) => unsafe { fiber.force_reset() },
        }
        stack = fiber.into_stack();
        assert!(alive.load(Ordering::SeqCst) <= 1, "an abandoned one's values go when its place is used again");
    }
    assert_eq!(alive.load(Ordering::SeqCst), 0);
    assert_eq!(ids.len(), 25);
}

#[test]
fn storage_outside_of_enter_is_an_error_that_names_enter_and_changes_nothing() {
    let id = exeunt::id().unwrap();
    set("k", "resumer").unwrap();
    let foot = exeunt::Stack::current().foot().cloned();
    let mut fiber = Coroutine::new(|yielder: &Yielder<(), ()>, ()| {
        for turn in 0..2 {
            let ran = Arc::new(AtomicBool::new(false));
            let theirs = Arc::clone(&ran);
            let error = at_exit(move || theirs.store(true, Ordering::SeqCst)).unwrap_err();
            assert!(matches!(error, Error::UnknownTrampoline(_)), "{error:?}");
            assert!(error.to_string().contains("exeunt::enter"), "{error}");
            assert_eq!(Arc::strong_count(&ran), 1, "the handler was dropped");
            assert!(matches!(set("k", "fiber"), Err(Error::UnknownTrampoline(_))), "turn {turn}");
            assert!(matches!(exeunt::id(), Err(Error::UnknownTrampoline(_))));
            assert!(LOCAL.try_with(|_| ()).is_err());
            // It neither sees nor changes its resumer's values either.
            assert_eq!(get::<&str>(&"k"), None);
            assert!(!exeunt::del(&"k").unwrap());
            exeunt::reset().unwrap();
            exeunt::unload().unwrap();
            assert!(!exeunt::Stack::current().is_armed());
            yielder.suspend(());
            assert!(!ran.load(Ordering::SeqCst));
        }
    });
    for _ in 0..2 {
        assert_eq!(fiber.resume(()), CoroutineResult::Yield(()));
        assert_eq!((exeunt::id(), get::<&str>(&"k")), (Ok(id), Some("resumer")));
        assert_eq!(exeunt::Stack::current().foot().cloned(), foot);
    }
    assert_eq!(fiber.resume(()), CoroutineResult::Return(()));
}

#[test]
fn a_coroutine_without_enter_right_below_its_resumer_s_stack_does_not_see_its_values() {
    // Both stacks are small and in one piece of memory, so that the distance does not distinguish
    // them.
    struct Half(Range<usize>);
    // SAFETY: the halves are whole pages of a mapping that outlives them. At worst the upper one
    // overflows into the lower one, and the test does next to nothing on either.
    unsafe impl Stack for Half {
        fn base(&self) -> std::num::NonZeroUsize {
            self.0.end.try_into().unwrap()
        }
        fn limit(&self) -> std::num::NonZeroUsize {
            self.0.start.try_into().unwrap()
        }
    }
    let whole = DefaultStack::new(512 * 1024).unwrap();
    let middle = whole.base().get() - 256 * 1024;
    let (lower, upper) = (whole.limit().get()..middle, middle..whole.base().get());
    let mut outer = Coroutine::<(), (), (), Half>::with_stack(Half(upper), move |_, ()| {
        enter(|| {
            set("k", "outer").unwrap();
            let mut inner = Coroutine::<(), (), _, Half>::with_stack(Half(lower), |_, ()| {
                (get::<&str>(&"k"), set("k", "inner").is_err(), enter(|| set("k", "entered")).unwrap().is_ok())
            });
            assert_eq!(inner.resume(()), CoroutineResult::Return((None, true, true)));
            assert_eq!(get::<&str>(&"k"), Some("outer"));
        })
        .unwrap();
    });
    assert_eq!(outer.resume(()), CoroutineResult::Return(()));
    drop(whole);
}

#[test]
fn enter_on_with_a_coroutines_own_bounds() {
    let stack = DefaultStack::new(128 * 1024).unwrap();
    let (range, elsewhere) = (memory(&stack), memory(&DefaultStack::new(4096).unwrap()));
    let mut fiber = Coroutine::<(), (), ()>::with_stack(stack, move |yielder, ()| {
        // SAFETY: it must detect that this is another stack's memory.
        let result = unsafe { enter_on(elsewhere, || unreachable!("on another stack")) };
        assert!(matches!(result, Err::<(), _>(Error::NotOnThatStack { .. })));
        // SAFETY: the coroutine's own memory, and nothing has armed it.
        let entered = unsafe {
            enter_on(range, || {
                set("k", 1).unwrap();
                yielder.suspend(());
                get::<i32>(&"k")
            })
        };
        assert_eq!(entered, Ok(Some(1)));
    });
    assert_eq!(fiber.resume(()), CoroutineResult::Yield(()));
    assert_eq!(fiber.resume(()), CoroutineResult::Return(()));
}

#[test]
fn a_scoped_coroutine_borrows_and_is_entered_like_any_other() {
    let mut seen = Vec::new();
    {
        let fiber = ScopedCoroutine::<(), (), (), _>::new(|yielder, ()| {
            enter(|| {
                for turn in 0..3 {
                    LOCAL.set(LOCAL.get() + turn);
                    seen.push(LOCAL.get());
                    yielder.suspend(());
                }
            })
            .unwrap();
        });
        fiber.scope(|mut fiber| while fiber.as_mut().resume(()) == CoroutineResult::Yield(()) {});
    }
    assert_eq!(seen, [0, 1, 3]);
}

#[test]
fn a_coroutine_and_the_one_that_it_resumes_have_separate_storage() {
    fn nest(depth: usize) -> usize {
        if depth == 0 {
            return 0;
        }
        let mut fiber = Coroutine::<(), (), usize>::new(move |_, ()| {
            enter(|| {
                assert_eq!(LOCAL.get(), 0);
                LOCAL.set(depth);
                let below = nest(depth - 1);
                assert_eq!(LOCAL.get(), depth);
                below + 1
            })
            .unwrap()
        });
        fiber.resume(()).as_return().unwrap()
    }
    assert_eq!(nest(20), 20);
}

#[test]
fn many_coroutines_at_once_have_separate_values() {
    let count = if cfg!(target_arch = "x86_64") { 2000 } else { 300 }; // aarch64 is emulated
    let mut fibers: Vec<_> = (1..=count)
        .map(|number| {
            Coroutine::<(), (), ()>::with_stack(DefaultStack::new(32 * 1024).unwrap(), move |yielder, ()| {
                enter(|| {
                    LOCAL.set(number);
                    for _ in 0..5 {
                        yielder.suspend(());
                        assert_eq!(LOCAL.get(), number);
                    }
                })
                .unwrap();
            })
        })
        .collect();
    for turn in 0..6 {
        // Forwards and backwards in turns.
        for index in 0..count {
            let index = if turn % 2 == 0 { index } else { count - 1 - index };
            assert!(!fibers[index].done());
            fibers[index].resume(());
        }
    }
    assert!(fibers.iter().all(Coroutine::done));
}

#[test]
fn a_generator_is_entered_moves_and_is_drained_at_its_end() {
    let alive = Arc::default();
    let theirs = Arc::clone(&alive);
    let mut fiber = Gn::<()>::new_scoped_opt(0x4000, move |mut scope: Scope<'_, '_, (), usize>| {
        enter(|| {
            set("k", Alive::new(&theirs)).unwrap();
            for turn in 1..5 {
                LOCAL.set(turn);
                scope.yield_(LOCAL.get());
                assert_eq!(LOCAL.get(), turn);
            }
            100
        })
        .unwrap()
    });
    for turn in 1..5 {
        // A generator is `Send`: each turn is on another thread.
        let there = std::thread::spawn(move || {
            LOCAL.set(77);
            let seen = fiber.next();
            assert_eq!(LOCAL.get(), 77);
            (fiber, seen)
        });
        let seen;
        (fiber, seen) = there.join().unwrap();
        assert_eq!(seen, Some(turn));
        assert_eq!(alive.load(Ordering::SeqCst), 1);
    }
    assert_eq!(fiber.next(), Some(100));
    assert!(fiber.is_done());
    assert_eq!(alive.load(Ordering::SeqCst), 0);
}

#[test]
fn a_generator_that_is_dropped_or_cancelled_is_drained() {
    let alive = Arc::default();
    let start = || {
        let theirs = Arc::clone(&alive);
        let mut fiber = Gn::<()>::new_scoped_opt(0x4000, move |mut scope: Scope<'_, '_, (), usize>| {
            enter(|| {
                set("k", Alive::new(&theirs)).unwrap();
                let alive = Alive::new(&theirs);
                at_exit(move || drop(alive)).unwrap();
                scope.yield_(1);
                unreachable!("it is never resumed");
            })
            .unwrap()
        });
        assert_eq!(fiber.next(), Some(1));
        fiber
    };
    let (dropped, mut cancelled) = (start(), start());
    assert_eq!(alive.load(Ordering::SeqCst), 4);
    drop(dropped);
    assert_eq!(alive.load(Ordering::SeqCst), 2);
    cancelled.cancel();
    assert_eq!(alive.load(Ordering::SeqCst), 0);
}

#[test]
fn storage_in_a_generator_without_enter_is_an_error() {
    set("k", "resumer").unwrap();
    let mut fiber = Gn::<()>::new_scoped_opt(0x8000, |_: Scope<'_, '_, (), bool>| {
        matches!(set("k", 1), Err(Error::UnknownTrampoline(_))) && get::<&str>(&"k").is_none()
    });
    assert_eq!(fiber.next(), Some(true));
    assert_eq!(get::<&str>(&"k"), Some("resumer"));
}

/// Starts a `may` coroutine whose function runs in `enter`.
fn go<R: Send + 'static>(body: impl FnOnce() -> R + Send + 'static) -> may::coroutine::JoinHandle<R> {
    static CONFIGURED: std::sync::Once = std::sync::Once::new();
    // Debug builds need more room than may's default, above all to format messages.
    CONFIGURED.call_once(|| {
        may::config().set_workers(4).set_stack_size(0x8000);
    });
    // SAFETY: the bodies use no thread-local storage across a switch, and little stack.
    unsafe { may::coroutine::spawn(move || enter(body).expect("a fresh coroutine")) }
}

#[test]
fn storage_moves_with_a_may_coroutine_from_worker_to_worker() {
    let moves = Arc::new(AtomicUsize::new(0));
    // The scheduler chooses the worker on which a coroutine resumes. The test gives it many
    // chances, so that it moves some.
    for _ in 0..1000 {
        let coroutines: Vec<_> = (1..=64)
            .map(|number| {
                let moves = Arc::clone(&moves);
                go(move || {
                    let worker = || -> ThreadId { std::thread::current().id() };
                    LOCAL.set(number);
                    set("k", number).unwrap();
                    let (id, mut last) = (exeunt::id().unwrap(), worker());
                    for _ in 0..20 {
                        may::coroutine::yield_now();
                        assert_eq!((LOCAL.get(), get::<usize>(&"k"), exeunt::id()), (number, Some(number), Ok(id)));
                        moves.fetch_add(usize::from(worker() != last), Ordering::SeqCst);
                        last = worker();
                    }
                })
            })
            .collect();
        coroutines.into_iter().for_each(|coroutine| coroutine.join().unwrap());
        if moves.load(Ordering::SeqCst) > 10 {
            return;
        }
    }
    panic!("no coroutine ever moved, so this has shown nothing");
}

#[test]
fn a_may_coroutine_is_drained_when_it_returns_and_its_pooled_stack_keeps_nothing() {
    let alive: Arc<AtomicUsize> = Arc::default();
    for round in 0..200 {
        let theirs = Arc::clone(&alive);
        let seen = go(move || {
            let before = (LOCAL.get(), get::<usize>(&"k"));
            LOCAL.set(round + 1);
            set("k", round).unwrap();
            set("alive", Alive::new(&theirs)).unwrap();
            before
        });
        assert_eq!(seen.join().unwrap(), (0, None));
        assert_eq!(alive.load(Ordering::SeqCst), 0);
    }
}

#[test]
fn cancelling_a_may_coroutine_drains_it() {
    let alive: Arc<AtomicUsize> = Arc::default();
    let theirs = Arc::clone(&alive);
    let (ready, is_ready) = std::sync::mpsc::channel();
    let coroutine = go(move || {
        set("k", Alive::new(&theirs)).unwrap();
        let alive = Alive::new(&theirs);
        at_exit(move || drop(alive)).unwrap();
        ready.send(()).unwrap();
        may::coroutine::park();
        unreachable!("nothing unparks it");
    });
    is_ready.recv().unwrap();
    assert_eq!(alive.load(Ordering::SeqCst), 2);
    // SAFETY: everything that the coroutine owns may be dropped.
    unsafe { coroutine.coroutine().cancel() };
    assert!(coroutine.join().is_err());
    assert_eq!(alive.load(Ordering::SeqCst), 0);
}

#[test]
fn a_panicking_may_coroutine_is_drained_and_its_join_gets_the_panic() {
    let alive: Arc<AtomicUsize> = Arc::default();
    let theirs = Arc::clone(&alive);
    let coroutine = go(move || {
        set("k", Alive::new(&theirs)).unwrap();
        std::panic::panic_any(5);
    });
    let panic = coroutine.join().expect_err("it panicked");
    assert_eq!(panic.downcast_ref(), Some(&5));
    assert_eq!(alive.load(Ordering::SeqCst), 0);
}

#[test]
fn storage_in_a_may_coroutine_without_enter_is_an_error() {
    // SAFETY: as in `go`.
    let coroutine = unsafe { may::coroutine::Builder::new().stack_size(0x10000).spawn(|| set("k", 1)) }.unwrap();
    assert!(matches!(coroutine.join().unwrap(), Err(Error::UnknownTrampoline(_))));
}
