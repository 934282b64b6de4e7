//! Lives of threads depend on what the processors did before: a processor that had nothing to do
//! was halted, and comes back with cold caches.

use std::sync::atomic::{AtomicBool, Ordering};

fn processors() -> Vec<core_affinity::CoreId> {
    core_affinity::get_core_ids().expect("the system tells which processors this may run on")
}

/// Runs `run` while a thread of the lowest priority keeps each processor awake.
pub fn kept_awake<R>(run: impl FnOnce() -> R) -> R {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for processor in processors() {
            let done = &done;
            scope.spawn(move || {
                assert!(core_affinity::set_for_current(processor));
                // musl's `sched_setscheduler` fails in every process: to Linux a pid is a thread's.
                // SAFETY: this policy's parameters are all zeros.
                let set =
                    unsafe { libc::pthread_setschedparam(libc::pthread_self(), libc::SCHED_IDLE, &std::mem::zeroed()) };
                assert_eq!(set, 0);
                while !done.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            });
        }
        let result = run();
        done.store(true, Ordering::Relaxed);
        result
    })
}

/// Runs `run` on one processor, with all threads that it starts.
pub fn on_one<R: Send>(run: impl FnOnce() -> R + Send) -> R {
    let on_it = || {
        assert!(core_affinity::set_for_current(processors()[0]));
        run()
    };
    std::thread::scope(|scope| scope.spawn(on_it).join().expect("the benchmark does not panic"))
}

/// How many processors this may run on.
pub fn count() -> usize {
    processors().len()
}

/// Runs `run` on the calling thread, which is on the processor of this number from then on.
pub fn on_one_of<R>(number: usize, run: impl FnOnce() -> R) -> R {
    let processors = processors();
    assert!(core_affinity::set_for_current(processors[number % processors.len()]));
    run()
}
