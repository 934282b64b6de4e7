//! Threads of pools that do not use exeunt: they drain the values of their jobs when the pool ends
//! its threads.

mod common;

use common::Log;
use std::cell::Cell;
use std::collections::HashSet;
use std::sync::mpsc;
use std::sync::{Arc, Barrier};
use std::time::Duration;

const THREADS: usize = 3;

exeunt::stack_local! {
    static JOBS: Cell<usize> = const { Cell::new(0) };
}

/// A thread that has not ended after this long will not end.
const PATIENCE: Duration = Duration::from_secs(60);

/// The report of a pool's thread when it drains: its stack, and how many jobs it has run.
type Ended = (exeunt::StackId, usize);

/// A job: counts, and reports the count when its thread ends.
fn job(ended: &mpsc::Sender<Ended>) {
    JOBS.set(JOBS.get() + 1);
    if JOBS.get() == 1 {
        let ended = ended.clone();
        let id = exeunt::id().unwrap();
        exeunt::at_exit(move || ended.send((id, JOBS.get())).unwrap()).unwrap();
    }
}

/// All reports. It returns when every sender is dropped, that is, when every thread's handlers have
/// run.
fn all(ended: &mpsc::Receiver<Ended>) -> Vec<Ended> {
    std::iter::from_fn(|| match ended.recv_timeout(PATIENCE) {
        Ok(report) => Some(report),
        Err(mpsc::RecvTimeoutError::Disconnected) => None,
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("a thread has not drained"),
    })
    .collect()
}

#[test]
fn rayons_threads_keep_their_storage_from_job_to_job_and_drain_when_the_pool_is_dropped() {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(THREADS).build().unwrap();
    let (sender, ended) = mpsc::channel();
    for _ in 0..100 {
        let sender = &sender;
        pool.broadcast(move |_| job(sender));
    }
    drop(sender);
    assert!(ended.try_recv().is_err(), "no thread has ended");
    drop(pool);
    let reports = all(&ended);
    assert_eq!(reports.iter().map(|&(_, jobs)| jobs).collect::<Vec<_>>(), [100; THREADS]);
    assert_eq!(reports.iter().map(|&(id, _)| id).collect::<HashSet<_>>().len(), THREADS);
}

#[test]
fn jobs_that_rayon_steals_from_each_other_find_the_storage_of_the_thread_that_they_run_on() {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(THREADS).build().unwrap();
    let (sender, ended) = mpsc::channel();
    fn divide(count: usize, sender: &mpsc::Sender<Ended>) {
        if count == 1 {
            return job(sender);
        }
        rayon::join(|| divide(count / 2, sender), || divide(count - count / 2, sender));
    }
    // A sender cannot be shared between threads, so each job gets a clone.
    let shared = std::sync::Mutex::new(sender);
    pool.install(|| {
        rayon::scope(|scope| {
            for _ in 0..20 {
                scope.spawn(|_| {
                    let sender = shared.lock().unwrap().clone();
                    divide(50, &sender);
                });
            }
        });
    });
    drop((pool, shared));
    assert_eq!(all(&ended).iter().map(|&(_, jobs)| jobs).sum::<usize>(), 20 * 50);
}

#[test]
fn tokios_workers_and_blocking_threads_drain_when_the_runtime_is_dropped() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(THREADS).build().unwrap();
    let (sender, ended) = mpsc::channel();
    // Blocking jobs that wait for each other, so that each has a thread of its own.
    let together = Arc::new(Barrier::new(THREADS));
    let jobs = (0..THREADS).flat_map(|_| {
        let (on_worker, on_blocking, together) = (sender.clone(), sender.clone(), together.clone());
        let blocking = move || {
            together.wait();
            job(&on_blocking);
        };
        [runtime.spawn(async move { job(&on_worker) }), runtime.spawn_blocking(blocking)]
    });
    let jobs: Vec<_> = jobs.collect();
    runtime.block_on(async {
        for job in jobs {
            job.await.unwrap();
        }
    });
    drop(sender);
    drop(runtime);
    let reports = all(&ended);
    assert_eq!(reports.iter().map(|&(_, jobs)| jobs).sum::<usize>(), 2 * THREADS);
    assert!((THREADS + 1..=2 * THREADS).contains(&reports.len()), "{reports:?}");
}

#[test]
fn a_task_that_moves_between_workers_finds_each_workers_own_storage() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(THREADS).build().unwrap();
    let (sender, ended) = mpsc::channel();
    let tasks: Vec<_> = (0..20)
        .map(|_| {
            let sender = sender.clone();
            runtime.spawn(async move {
                for _ in 0..50 {
                    job(&sender);
                    tokio::task::yield_now().await;
                }
            })
        })
        .collect();
    runtime.block_on(async {
        for task in tasks {
            task.await.unwrap();
        }
    });
    drop(sender);
    drop(runtime);
    assert_eq!(all(&ended).iter().map(|&(_, jobs)| jobs).sum::<usize>(), 20 * 50);
}

#[test]
fn a_panic_in_a_job_that_the_pool_catches_does_not_change_the_threads_storage() {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).panic_handler(|_| ()).build().unwrap();
    let log = Log::new();
    let theirs = log.clone();
    let (sender, ended) = mpsc::channel::<()>();
    pool.install(|| {
        exeunt::set("kept", theirs.loud("value")).unwrap();
        exeunt::at_exit(move || drop(sender)).unwrap();
    });
    pool.spawn(|| panic!("in a job"));
    assert!(pool.install(|| exeunt::with(&"kept", |value: Option<&common::Loud>| value.is_some())));
    drop(pool);
    assert_eq!(ended.recv_timeout(PATIENCE), Err(mpsc::RecvTimeoutError::Disconnected));
    // The value is dropped right after the handlers.
    for _ in 0..PATIENCE.as_millis() {
        if log.take() == ["drop value"] {
            return;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    panic!("the value was not dropped");
}
