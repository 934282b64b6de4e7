//! The self-tests: each kind of stack, each way to end, and backtraces. Each runs in a child
//! process, on its main thread.

mod backtrace;
mod fiber;
mod load;
mod main_thread;
mod pthread;
mod thread;

use super::child::SelfTest;
use crate::stacks::HAS_FIBERS;

/// The self-tests for this system.
pub fn all() -> impl Iterator<Item = &'static SelfTest> {
    let fibers: &[SelfTest] = if HAS_FIBERS { &fiber::SELF_TESTS } else { &[] };
    [&thread::SELF_TESTS, &main_thread::SELF_TESTS, fibers, &backtrace::SELF_TESTS].into_iter().flatten()
}
