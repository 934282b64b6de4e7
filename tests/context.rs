//! Scoped context: what is visible on one stack, and on the stacks that the context is handed to.

use corosensei::{Coroutine, CoroutineResult};
use exeunt::context;
use std::cell::Cell;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

#[derive(Clone, Debug, PartialEq)]
struct User(&'static str);

#[derive(Clone, Debug, PartialEq)]
struct Depth(usize);

/// Runs `body` on a thread of its own, with room for deep recursion in a debug build.
fn on_thread<R: Send + 'static>(body: impl FnOnce() -> R + Send + 'static) -> R {
    let builder = std::thread::Builder::new().stack_size(256 << 20);
    builder.spawn(body).expect("a thread starts").join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

#[inline(never)]
fn far_below(frames: usize) -> Option<User> {
    if frames == 0 { context::try_get() } else { std::hint::black_box(far_below(frames - 1)) }
}

#[test]
fn a_value_is_visible_to_everything_below() {
    on_thread(|| {
        let result = context::with(User("ann"), || {
            assert_eq!(context::get::<User>(), User("ann"));
            assert_eq!(far_below(1_000), Some(User("ann")));
            "the scope's result"
        });
        assert_eq!(result, "the scope's result");
        assert_eq!(context::try_get::<User>(), None);
    });
}

#[test]
fn an_inner_value_shadows_the_outer_one_of_its_type_until_it_returns() {
    on_thread(|| {
        context::with(User("ann"), || {
            context::with(Depth(1), || {
                context::with(User("bob"), || {
                    assert_eq!(context::get::<User>(), User("bob"));
                    assert_eq!(context::get::<Depth>(), Depth(1));
                });
                assert_eq!(context::get::<User>(), User("ann"));
            });
            assert_eq!(context::try_get::<Depth>(), None);
            assert_eq!(context::get::<User>(), User("ann"));
        });
    });
}

#[test]
fn unwinding_restores_the_outer_value() {
    on_thread(|| {
        context::with(User("ann"), || {
            let panic = catch_unwind(AssertUnwindSafe(|| {
                context::with(User("bob"), || context::with(User("eve"), || panic!("out of here")))
            }));
            assert!(panic.is_err());
            assert_eq!(context::get::<User>(), User("ann"));
        });
        assert_eq!(context::try_get::<User>(), None);
    });
}

#[test]
fn get_panics_where_there_is_none_with_the_missing_type_and_advice() {
    let panic = on_thread(|| catch_unwind(context::get::<User>)).expect_err("there is no such value");
    let message = panic.downcast_ref::<String>().expect("a message");
    assert!(message.contains("User"), "{message}");
    assert!(message.contains("context::with") && message.contains("context::go"), "{message}");
}

#[test]
fn look_does_not_arm_the_stack_and_with_does() {
    on_thread(|| {
        assert_eq!(context::try_get::<User>(), None);
        context::look(|user: Option<&User>| assert!(user.is_none()));
        let _ = format!("{:?}", context::capture());
        assert!(!exeunt::Stack::current().is_armed());
        context::with(User("ann"), || assert!(exeunt::Stack::current().is_armed()));
    });
}

#[test]
fn look_needs_no_clone() {
    struct Unclonable(u32);
    on_thread(|| {
        context::with(Unclonable(3), || {
            assert_eq!(context::look(|value: Option<&Unclonable>| value.map(|value| value.0)), Some(3));
        });
    });
}

#[test]
fn look_may_use_the_context_itself() {
    on_thread(|| {
        context::with(User("ann"), || {
            context::look(|user: Option<&User>| {
                let user = user.expect("it is there");
                context::with(User("bob"), || {
                    assert_eq!(context::get::<User>(), User("bob"));
                    assert_eq!(user, &User("ann"));
                });
                context::Captured::enter(&context::capture(), || assert_eq!(context::get::<User>(), User("ann")));
                exeunt::reset().unwrap();
                assert_eq!(context::try_get::<User>(), None);
                assert_eq!(user, &User("ann"), "a value that look lends outlives a reset");
            });
        });
    });
}

#[test]
fn a_clone_may_use_the_context() {
    struct Odd;
    impl Clone for Odd {
        fn clone(&self) -> Self {
            context::with(User("made by clone"), || assert!(context::try_get::<User>().is_some()));
            Odd
        }
    }
    on_thread(|| context::with(Odd, || std::hint::black_box(context::get::<Odd>())));
}

#[test]
fn a_value_is_dropped_when_its_scope_is_over_and_its_destructor_may_use_the_context() {
    struct Noisy(Arc<Mutex<Vec<Option<User>>>>);
    impl Drop for Noisy {
        fn drop(&mut self) {
            self.0.lock().unwrap().push(context::try_get());
            context::with(User("in a destructor"), || self.0.lock().unwrap().push(context::try_get()));
        }
    }
    on_thread(|| {
        let seen = Arc::default();
        context::with(User("ann"), || {
            context::with(Noisy(Arc::clone(&seen)), || assert!(seen.lock().unwrap().is_empty()));
            assert_eq!(*seen.lock().unwrap(), [Some(User("ann")), Some(User("in a destructor"))]);
        });
    });
}

fn nest(depth: usize, limit: usize) -> usize {
    if depth == limit {
        return context::get::<Depth>().0;
    }
    context::with(Depth(depth), || {
        let deepest = nest(depth + 1, limit);
        // On the way out every level reads its own value again.
        assert_eq!(context::get::<Depth>(), Depth(depth));
        deepest
    })
}

#[test]
fn depth_is_unlimited() {
    // The system that this one replaces failed past 100 levels.
    for limit in [100, 101, 10_000, 30_000] {
        assert_eq!(on_thread(move || nest(0, limit)), limit - 1);
    }
}

#[test]
fn a_deep_context_is_dropped_on_a_small_stack() {
    fn capture_at(depth: usize) -> context::Captured {
        if depth == 0 { context::capture() } else { context::with(Depth(depth), || capture_at(depth - 1)) }
    }
    let deep = on_thread(|| capture_at(30_000));
    let dropper = std::thread::Builder::new().stack_size(64 << 10).spawn(move || {
        assert!(format!("{deep:?}").contains("30000"));
        drop(deep);
    });
    dropper.unwrap().join().unwrap();
}

#[test]
fn an_outermost_value_is_found_below_many_of_other_types() {
    fn below(depth: usize) -> User {
        if depth == 0 { context::get() } else { context::with(Depth(depth), || below(depth - 1)) }
    }
    assert_eq!(on_thread(|| context::with(User("ann"), || below(10_000))), User("ann"));
}

#[test]
fn go_forwards_the_context_to_the_thread_that_it_starts() {
    on_thread(|| {
        let there = context::with(User("ann"), || {
            context::with(Depth(7), || {
                context::go(|| {
                    let seen = (context::get::<User>(), context::get::<Depth>());
                    // A nested context of the new thread has no effect here.
                    let nested = context::with(User("eve"), || context::go(context::get::<User>).join().unwrap());
                    assert_eq!(context::get::<User>(), User("ann"));
                    (seen, nested)
                })
            })
        });
        // The scope has ended here. It lasts on the thread as long as the thread.
        assert_eq!(context::try_get::<User>(), None);
        assert_eq!(there.join().unwrap(), ((User("ann"), Depth(7)), User("eve")));
    });
}

#[test]
fn go_without_a_context_is_a_plain_thread() {
    on_thread(|| {
        let armed = context::go(|| (context::try_get::<User>(), exeunt::Stack::current().is_armed()));
        assert_eq!(armed.join().unwrap(), (None, false));
    });
}

#[test]
fn join_returns_the_panic_of_go() {
    on_thread(|| {
        let there = context::with(User("ann"), || context::go(|| panic!("from {}", context::get::<User>().0)));
        let panic = there.join().expect_err("it panicked");
        assert_eq!(panic.downcast_ref::<String>().map(String::as_str), Some("from ann"));
    });
}

#[test]
fn a_captured_context_is_entered_on_any_thread_and_the_previous_one_is_restored() {
    let captured = on_thread(|| context::with(User("ann"), || context::with(Depth(2), context::capture)));
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let captured = captured.clone();
            std::thread::spawn(move || {
                context::with(User("local"), || {
                    for _ in 0..100 {
                        captured.enter(|| {
                            assert_eq!((context::get(), context::get()), (User("ann"), Depth(2)));
                            context::with(Depth(3), || assert_eq!(context::get::<Depth>(), Depth(3)));
                        });
                        assert_eq!(context::get::<User>(), User("local"));
                        assert_eq!(context::try_get::<Depth>(), None);
                    }
                    let panic = catch_unwind(AssertUnwindSafe(|| captured.enter(|| panic!("out of here"))));
                    assert!(panic.is_err());
                    assert_eq!(context::get::<User>(), User("local"));
                });
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

#[test]
fn a_captured_empty_context_hides_the_current_one() {
    on_thread(|| {
        let empty = context::capture();
        context::with(User("ann"), || {
            empty.enter(|| assert_eq!(context::try_get::<User>(), None));
            assert_eq!(context::get::<User>(), User("ann"));
        });
    });
}

type Job = Box<dyn FnOnce() + Send>;

/// A thread pool that does not use contexts.
struct Pool {
    jobs: std::sync::mpsc::Sender<Job>,
    workers: Vec<std::thread::JoinHandle<()>>,
}

impl Pool {
    fn new(workers: usize) -> Self {
        let (jobs, queue) = channel::<Job>();
        let queue = Arc::new(Mutex::new(queue));
        let work = |queue: Arc<Mutex<Receiver<Job>>>| {
            move || {
                loop {
                    let job = queue.lock().unwrap().recv();
                    match job {
                        Ok(job) => job(),
                        Err(_) => return,
                    }
                }
            }
        };
        let workers = (0..workers).map(|_| std::thread::spawn(work(Arc::clone(&queue)))).collect();
        Self { jobs, workers }
    }

    fn finish(self) {
        drop(self.jobs);
        self.workers.into_iter().for_each(|worker| worker.join().unwrap());
    }
}

#[test]
fn a_captured_context_moves_with_jobs_into_a_thread_pool() {
    let pool = Pool::new(3);
    let (sender, results) = channel();
    for number in 0..60 {
        let sender = sender.clone();
        context::with(Depth(number), || {
            let captured = context::capture();
            let job = move || {
                assert_eq!(context::try_get::<Depth>(), None, "a worker keeps no job's context");
                let seen = captured.enter(|| context::get::<Depth>().0);
                sender.send((number, seen)).unwrap();
            };
            pool.jobs.send(Box::new(job)).unwrap();
        });
    }
    drop(sender);
    pool.finish();
    let mut results: Vec<_> = results.iter().collect();
    results.sort_unstable();
    assert_eq!(results, (0..60).map(|number| (number, number)).collect::<Vec<_>>());
}

/// Ready at its fourth poll; records the value that it reads at each.
struct Polled(Vec<Option<User>>);

impl Future for Polled {
    type Output = Vec<Option<User>>;
    fn poll(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.push(context::try_get());
        if self.0.len() < 4 { Poll::Pending } else { Poll::Ready(std::mem::take(&mut self.0)) }
    }
}

#[test]
fn a_captured_context_moves_with_a_future_from_thread_to_thread() {
    let future = context::with(User("ann"), || context::wrap(Polled(Vec::new())));
    let mut future = Box::pin(future);
    let seen = loop {
        // Every poll is on a new thread, as an executor may do.
        let polled = std::thread::spawn(move || {
            let poll = future.as_mut().poll(&mut Context::from_waker(Waker::noop()));
            assert_eq!(context::try_get::<User>(), None);
            (future, poll)
        });
        match polled.join().unwrap() {
            (_, Poll::Ready(seen)) => break seen,
            (unfinished, Poll::Pending) => future = unfinished,
        }
    };
    assert_eq!(seen, vec![Some(User("ann")); 4]);
}

/// Waits once, so that the executor may go on elsewhere, and returns the user that it sees then.
async fn user_later() -> Option<User> {
    tokio::task::yield_now().await;
    context::try_get()
}

#[test]
fn a_wrapped_future_keeps_its_context_on_all_of_tokios_workers() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).build().unwrap();
    runtime.block_on(async {
        let mut tasks = Vec::new();
        for number in 0..100 {
            let task = async move {
                let mut threads = std::collections::HashSet::new();
                for _ in 0..100 {
                    tokio::task::yield_now().await;
                    threads.insert(std::thread::current().id());
                    assert_eq!(context::get::<Depth>(), Depth(number));
                }
                threads.len()
            };
            tasks.push(tokio::spawn(context::with(Depth(number), || context::wrap(task))));
            // These get none: a worker's context is back after each poll.
            tasks.push(tokio::spawn(async {
                tokio::task::yield_now().await;
                assert_eq!(context::try_get::<Depth>(), None);
                1
            }));
        }
        for task in tasks {
            assert!(task.await.unwrap() >= 1);
        }
    });
}

#[test]
fn wrapped_futures_nest_and_the_inner_one_has_its_own_context() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    let inner = context::with(User("inner"), || context::wrap(user_later()));
    let outer = context::with(User("outer"), || {
        context::with(Depth(1), || {
            context::wrap(async {
                let before = user_later().await;
                let inner = inner.await;
                // `inner` was wrapped where there was no `Depth`.
                (before, inner, user_later().await, context::try_get::<Depth>())
            })
        })
    });
    let seen = runtime.block_on(runtime.spawn(outer)).unwrap();
    assert_eq!(seen, (Some(User("outer")), Some(User("inner")), Some(User("outer")), Some(Depth(1))));
}

#[test]
fn a_wrapped_future_is_dropped_in_its_context_when_its_task_is_cancelled() {
    struct Guard(std::sync::mpsc::Sender<Option<User>>);
    impl Drop for Guard {
        fn drop(&mut self) {
            self.0.send(context::try_get()).unwrap();
        }
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    let (sender, dropped) = channel();
    let (has_begun, begins) = channel();
    let waits = context::with(User("ann"), || {
        context::wrap(async move {
            let _guard = Guard(sender);
            has_begun.send(()).unwrap();
            std::future::pending::<()>().await;
        })
    });
    runtime.block_on(async {
        let task = tokio::spawn(waits);
        begins.recv().unwrap();
        task.abort();
        assert!(task.await.unwrap_err().is_cancelled());
    });
    assert_eq!(dropped.recv(), Ok(Some(User("ann"))));
    // A future that was never polled drops what it has captured.
    let (sender, dropped) = channel();
    let guard = Guard(sender);
    drop(context::with(User("bob"), || context::wrap(async move { drop(guard) })));
    assert_eq!(dropped.recv(), Ok(Some(User("bob"))));
}

#[test]
fn a_wrapped_future_with_an_empty_context_arms_nothing_and_hides_the_pollers_context() {
    on_thread(|| {
        let mut future = Box::pin(context::wrap(async { context::try_get::<User>() }));
        let mut again = Box::pin(context::wrap(async { context::try_get::<User>() }));
        let poll = future.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        assert_eq!(poll, Poll::Ready(None));
        drop(future);
        assert!(!exeunt::Stack::current().is_armed());
        context::with(User("poller"), || {
            let poll = again.as_mut().poll(&mut Context::from_waker(Waker::noop()));
            assert_eq!(poll, Poll::Ready(None));
            assert_eq!(context::get::<User>(), User("poller"));
        });
    });
}

#[test]
fn a_panic_in_a_wrapped_future_leaves_the_pollers_context() {
    on_thread(|| {
        let mut future = Box::pin(context::with(User("ann"), || context::wrap(async { panic!("in poll") })));
        context::with(User("poller"), || {
            let polled = catch_unwind(AssertUnwindSafe(|| {
                let _: Poll<()> = future.as_mut().poll(&mut Context::from_waker(Waker::noop()));
            }));
            assert!(polled.is_err());
            assert_eq!(context::get::<User>(), User("poller"));
        });
    });
}

/// `InContext` is `Send`, `Sync` and `Unpin` where its future is.
#[test]
fn a_wrapped_future_may_go_where_the_future_may() {
    fn everything<T: Send + Sync + Unpin>(_: &T) {}
    everything(&context::wrap(std::future::ready(1)));
    everything(&context::capture());
}

#[test]
fn a_fiber_that_is_suspended_in_a_scope_does_not_change_its_resumer_s_context() {
    on_thread(|| {
        let mut fiber = Coroutine::new(|yielder, ()| {
            exeunt::enter(|| {
                assert_eq!(context::try_get::<User>(), None, "a stack starts without its resumer's context");
                context::with(User("fiber"), || {
                    yielder.suspend(());
                    assert_eq!(context::get::<User>(), User("fiber"));
                });
            })
            .unwrap();
        });
        context::with(User("thread"), || {
            assert_eq!(fiber.resume(()), CoroutineResult::Yield(()));
            assert_eq!(context::get::<User>(), User("thread"));
        });
        assert_eq!(context::try_get::<User>(), None);
        assert_eq!(fiber.resume(()), CoroutineResult::Return(()));
    });
}

#[test]
fn forced_unwinding_out_of_a_scope_drops_its_value() {
    let dropped = Arc::new(AtomicUsize::new(0));
    struct Counted(Arc<AtomicUsize>);
    impl Drop for Counted {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
    let value = Counted(Arc::clone(&dropped));
    let mut fiber = Coroutine::<(), (), ()>::new(|yielder, ()| {
        exeunt::enter(|| context::with(value, || yielder.suspend(()))).unwrap();
    });
    fiber.resume(());
    assert_eq!(dropped.load(Ordering::Relaxed), 0);
    drop(fiber);
    assert_eq!(dropped.load(Ordering::Relaxed), 1);
}

#[test]
fn where_the_stack_cannot_be_armed_try_with_is_an_error_and_its_scope_has_not_run() {
    let mut fiber = Coroutine::<(), (), ()>::new(|_, ()| {
        let ran = Cell::new(false);
        let result = context::try_with(User("ann"), || ran.set(true));
        assert!(matches!(result, Err(exeunt::Error::UnknownTrampoline(_))), "{result:?}");
        assert!(!ran.get());
        assert_eq!(context::try_get::<User>(), None);
    });
    assert_eq!(fiber.resume(()), CoroutineResult::Return(()));
}

#[test]
fn reset_and_unload_hide_the_context_and_open_scopes_still_restore_theirs() {
    on_thread(|| {
        context::with(User("ann"), || {
            context::with(User("bob"), || {
                exeunt::reset().unwrap();
                assert_eq!(context::try_get::<User>(), None);
            });
            assert_eq!(context::get::<User>(), User("ann"), "the outer scope is in force again");
        });
        context::with(User("ann"), || exeunt::unload().unwrap());
        assert!(!exeunt::Stack::current().is_armed(), "leaving the scope has nothing to restore, so it does not arm");
        assert_eq!(context::try_get::<User>(), None);
    });
}

#[test]
fn a_handler_runs_outside_of_the_scope_that_registered_it() {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        context::with(User("ann"), || {
            exeunt::at_exit(move || sender.send(context::try_get::<User>()).unwrap()).unwrap();
        });
    })
    .join()
    .unwrap();
    assert_eq!(receiver.recv(), Ok(None));
}
