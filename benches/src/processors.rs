//! Lives of threads depend on what the processors did before: one that had nothing to do was halted, and comes back with cold caches.

use std::sync::atomic::{AtomicBool, Ordering};

fn set_affinity(processors: &libc::cpu_set_t) {
    // SAFETY: reads the set.
    assert_eq!(unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), processors) }, 0);
}

fn affinity() -> libc::cpu_set_t {
    // SAFETY: a set of zeros is an empty one, which is filled in.
    unsafe {
        let mut processors: libc::cpu_set_t = std::mem::zeroed();
        assert_eq!(libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut processors), 0);
        processors
    }
}

fn only(processor: usize) -> libc::cpu_set_t {
    // SAFETY: as above.
    unsafe {
        let mut one: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(processor, &mut one);
        one
    }
}

fn numbers(processors: &libc::cpu_set_t) -> Vec<usize> {
    // SAFETY: looks at bits of the set.
    (0..libc::CPU_SETSIZE as usize).filter(|&processor| unsafe { libc::CPU_ISSET(processor, processors) }).collect()
}

/// What `run` gives while each processor has something to do whenever nothing else is to be done.
pub fn kept_awake<R>(run: impl FnOnce() -> R) -> R {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for processor in numbers(&affinity()) {
            let done = &done;
            scope.spawn(move || {
                set_affinity(&only(processor));
                // SAFETY: all zeros are this policy's parameters.
                let set = unsafe { libc::sched_setscheduler(0, libc::SCHED_IDLE, &std::mem::zeroed()) };
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

/// What `run` gives where all that it starts stays on one processor.
pub fn on_one<R>(run: impl FnOnce() -> R) -> R {
    let all = affinity();
    set_affinity(&only(numbers(&all)[0]));
    let result = run();
    set_affinity(&all);
    result
}
