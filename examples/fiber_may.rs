//! may: storage that follows a coroutine from worker to worker.
//!
//! `cargo run --example fiber_may`

use may::coroutine::JoinHandle;
use std::cell::RefCell;
use std::collections::BTreeSet;

exeunt::stack_local! {
    static SEEN: RefCell<BTreeSet<String>> = RefCell::default();
}

/// A coroutine whose function runs in a scope of its own: use it in place of `may::go!`.
fn go<R: Send + 'static>(f: impl FnOnce() -> R + Send + 'static) -> JoinHandle<R> {
    // SAFETY: the function keeps no thread local across a switch, and its stack is large enough for
    // it.
    unsafe { may::coroutine::spawn(move || exeunt::enter(f).expect("a fresh coroutine")) }
}

fn main() {
    may::config().set_workers(3).set_stack_size(0x8000);
    let coroutines: Vec<_> = (0..3)
        .map(|number| {
            go(move || {
                exeunt::at_exit(move || println!("coroutine {number} ends")).expect("it is entered");
                for _ in 0..200 {
                    SEEN.with_borrow_mut(|seen| seen.insert(format!("{:?}", std::thread::current().id())));
                    may::coroutine::yield_now();
                }
                // One value, whichever workers ran the coroutine.
                SEEN.with_borrow(BTreeSet::len)
            })
        })
        .collect();
    for (number, coroutine) in coroutines.into_iter().enumerate() {
        let workers = coroutine.join().expect("it does not panic");
        println!("coroutine {number} has run on {workers} workers");
    }

    // A cancelled coroutine is unwound, which drains it.
    let stuck = go(|| {
        exeunt::at_exit(|| println!("the cancelled one ends")).expect("it is entered");
        may::coroutine::park();
    });
    // SAFETY: all that the coroutine owns may be dropped.
    unsafe { stuck.coroutine().cancel() };
    println!("joined: {}", stuck.join().is_err_and(|_| true));
}
