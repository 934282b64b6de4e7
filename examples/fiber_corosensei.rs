//! corosensei: storage and handlers for its coroutines, by one line at the top of each.
//!
//! `cargo run --example fiber_corosensei`

use corosensei::stack::{DefaultStack, Stack};
use corosensei::{Coroutine, CoroutineResult, Yielder};
use std::cell::Cell;

exeunt::stack_local! {
    static STEPS: Cell<u32> = const { Cell::new(0) };
}

/// A coroutine whose function runs in a scope of its own: use it in place of
/// `Coroutine::with_stack`.
fn coroutine<Y: 'static, R: 'static>(f: impl FnOnce(&Yielder<(), Y>) -> R + 'static) -> Coroutine<(), Y, R> {
    let stack = DefaultStack::new(64 * 1024).expect("there is memory");
    let range = stack.limit().get()..stack.base().get();
    Coroutine::with_stack(stack, move |yielder, ()| {
        // SAFETY: this is the coroutine's stack, and no outer frame has armed it.
        unsafe { exeunt::enter_on(range, || f(yielder)) }.expect("a fresh coroutine")
    })
}

fn main() {
    let walker = |name: &'static str| {
        coroutine(move |yielder| {
            exeunt::at_exit(move || println!("{name} ends after {} steps", STEPS.get())).expect("it is entered");
            for _ in 0..3 {
                STEPS.set(STEPS.get() + 1);
                yielder.suspend(STEPS.get());
            }
        })
    };
    let (mut ann, mut bob) = (walker("ann"), walker("bob"));
    println!("ann {:?}, ann {:?}, bob {:?}", ann.resume(()), ann.resume(()), bob.resume(()));

    // It runs to its end: the return drains it.
    while let CoroutineResult::Yield(step) = ann.resume(()) {
        println!("ann {step}");
    }
    // It is dropped half-way: corosensei unwinds it, and that drains it as well.
    drop(bob);

    // Without a scope exeunt cannot see an end, and the error says what to do.
    let mut bare = Coroutine::<(), (), _>::new(|_, ()| exeunt::at_exit(|| ()));
    if let CoroutineResult::Return(Err(error)) = bare.resume(()) {
        println!("\nnot entered: {error}");
    }
}
