//! The bug that stack locals avoid: `thread_local!` on a fiber that moves between threads.

mod compile;

use corosensei::{Coroutine, CoroutineResult};
use std::cell::Cell;

thread_local! {
    static OF_THREAD: Cell<u64> = const { Cell::new(0) };
}

exeunt::stack_local! {
    static OF_STACK: Cell<u64> = const { Cell::new(0) };
}

struct Fiber(Coroutine<(), (u64, u64), ()>);

// SAFETY: while it is suspended its stack holds a reference to its own yielder and numbers.
unsafe impl Send for Fiber {}

/// With and without optimisation: a value that a fiber stores in a thread local stays behind when
/// the fiber moves.
#[test]
fn a_thread_local_stays_with_the_thread_and_a_stack_local_moves_with_the_fiber() {
    let mut fiber = Fiber(Coroutine::new(|yielder, ()| {
        exeunt::enter(|| {
            for _ in 0..4 {
                let of_thread = OF_THREAD.with(|turns| turns.replace(turns.get() + 1) + 1);
                let of_stack = OF_STACK.with(|turns| turns.replace(turns.get() + 1) + 1);
                yielder.suspend((of_thread, of_stack));
            }
        })
        .unwrap();
    }));
    for turn in 1..=4 {
        let there = std::thread::spawn(move || {
            OF_THREAD.set(1000 * turn);
            OF_STACK.set(1000 * turn);
            let result = fiber.0.resume(());
            assert_eq!(OF_STACK.get(), 1000 * turn, "nor does the fiber touch its resumer's stack local");
            (fiber, result)
        });
        let (back, result) = there.join().unwrap();
        fiber = back;
        let CoroutineResult::Yield((of_thread, of_stack)) = result else { panic!("it suspends itself") };
        assert_ne!(of_thread, turn, "a thread local that follows the fiber would have counted its turns");
        assert_eq!(of_stack, turn);
    }
    assert_eq!(fiber.0.resume(()), CoroutineResult::Return(()));
}

/// The output of `examples/moving_fiber.rs` for each turn: the thread local in the fiber's loop,
/// the same read by a call from there, and the stack local.
fn turns(output: &str) -> Vec<[u64; 3]> {
    let turn = |line: &str| {
        let words: Vec<_> = line.split_whitespace().collect();
        let [_, "first" | "second", numbers @ ..] = &words[..] else { return None };
        let numbers: Vec<u64> = numbers.iter().filter_map(|word| word.parse().ok()).collect();
        numbers.try_into().ok()
    };
    output.lines().filter_map(turn).collect()
}

/// Only with optimisation: the compiler keeps the *address* of the thread local across the switch,
/// so the fiber continues to count in the memory of the thread that it has left. A debug build
/// computes the address each time.
#[test]
fn with_optimisation_a_moved_fiber_counts_in_the_memory_of_another_thread_but_its_stack_local_is_right() {
    let output = compile::run("release", "moving_fiber");
    let turns = turns(&output);
    assert_eq!(turns.len(), 6, "{output}");
    let mut elsewhere = 0;
    for (index, &[in_loop, in_call, stack_local]) in turns.iter().enumerate() {
        let number = index as u64 + 1;
        assert_eq!(stack_local, number, "the stack local has followed the fiber\n{output}");
        assert_ne!(in_loop, number, "{output}");
        // The threads began with 1000 and 2000. A call finds the running thread's value, the loop
        // another one.
        let running = if number % 2 == 1 { 1000 } else { 2000 };
        assert!((running..running + 1000).contains(&in_call), "{output}");
        elsewhere += usize::from(in_loop != in_call);
    }
    assert!(elsewhere > 0, "this compiler has kept no address across the switch, so the bug was not shown:\n{output}");
}
