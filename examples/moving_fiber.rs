//! The bug that stack-local storage avoids: a fiber moves between threads, and `thread_local!`
//! gives the wrong value.
//!
//! `cargo run --release --example moving_fiber`
//!
//! A fiber counts its turns, once in a `thread_local!` and once in a `stack_local!`. Two threads
//! take turns in resuming it, and both have used the thread local before, with numbers of their
//! own.
//!
//! Without optimisation the fiber counts in the value of whichever thread it runs on: the count is
//! wrong. With optimisation the compiler may compute the address of the thread local once, before
//! the loop, as nothing tells it that the fiber resumes on another thread. Then the fiber, running
//! on one thread, reads and writes the memory of *another* thread, without any synchronisation, for
//! as long as the loop lasts, even when that thread has ended.

use corosensei::{Coroutine, CoroutineResult, Yielder};
use std::cell::Cell;
use std::sync::mpsc::{Receiver, Sender, channel};

thread_local! {
    static THREAD_TURNS: Cell<u64> = const { Cell::new(0) };
}

exeunt::stack_local! {
    static STACK_TURNS: Cell<u64> = const { Cell::new(0) };
}

/// What the fiber sees in one turn.
#[derive(Clone, Copy, Debug)]
struct Turn {
    /// The thread local, as the loop of the fiber counts in it.
    in_loop: u64,
    /// The same, read by a function that the loop calls, and that computes the address itself.
    in_call: u64,
    /// The stack local, as the loop counts in it.
    stack_local: u64,
}

#[inline(never)]
fn count(turns: &Cell<u64>) -> u64 {
    turns.set(turns.get() + 1);
    turns.get()
}

#[inline(never)]
fn thread_turns() -> u64 {
    THREAD_TURNS.get()
}

/// Counts turns. Nothing here borrows a thread local across `suspend`: each turn accesses it anew.
#[inline(never)]
fn count_turns(yielder: &Yielder<(), Turn>) {
    loop {
        let in_loop = THREAD_TURNS.with(count);
        let stack_local = STACK_TURNS.with(count);
        yielder.suspend(Turn { in_loop, in_call: thread_turns(), stack_local });
    }
}

/// The fiber, on its way from thread to thread.
struct Fiber(Coroutine<(), Turn, ()>);

// SAFETY: while it is suspended there are a reference to its own yielder and numbers on its stack.
unsafe impl Send for Fiber {}

/// A thread that resumes the fiber whenever it receives it, and passes it on. It begins with a
/// number of its own.
fn worker(start: u64, fibers: Receiver<Fiber>, next: Sender<Fiber>, seen: Sender<Turn>) {
    THREAD_TURNS.set(start);
    for mut fiber in fibers {
        let CoroutineResult::Yield(turn) = fiber.0.resume(()) else { return };
        // If the receiver is gone, this drops the fiber, which unwinds it to its outermost frame.
        if seen.send(turn).is_err() || next.send(fiber).is_err() {
            return;
        }
    }
}

fn main() {
    let (to_first, first) = channel();
    let (to_second, second) = channel();
    let (seen, turns) = channel();
    let fiber = Fiber(Coroutine::new(|yielder, ()| {
        // corosensei's functions return to no exit trampoline, so the fiber enters a scope of its
        // own.
        exeunt::enter(|| count_turns(yielder)).expect("a fresh fiber");
    }));
    to_first.send(fiber).expect("nobody has hung up");
    let (back_to_first, seen_too) = (to_first.clone(), seen.clone());
    drop(to_first);
    std::thread::spawn(move || worker(1_000, first, to_second, seen));
    std::thread::spawn(move || worker(2_000, second, back_to_first, seen_too));

    println!("turn  thread  thread_local! in the loop  ... in a call  stack_local!");
    let (mut stale, mut wrong) = (0, 0);
    for (number, turn) in (1..=6).zip(turns) {
        let (thread, start) = if number % 2 == 1 { ("first", 1_000) } else { ("second", 2_000) };
        println!("{number:4}  {thread:6}  {:25}  {:13}  {:12}", turn.in_loop, turn.in_call, turn.stack_local);
        stale += u64::from(turn.in_loop < start || turn.in_loop > start + 999);
        wrong += u64::from(turn.in_loop != number);
        assert_eq!(turn.stack_local, number, "the stack local has followed the fiber");
    }
    println!("thread_local! in the loop: {wrong} of 6 wrong, of which {stale} are another thread's memory");
    println!("stack_local!: 0 of 6 wrong");
}
