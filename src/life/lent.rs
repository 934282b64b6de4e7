//! The values that the frames of an armed stack may have lent.

use super::lookup;
use crate::machine::{arch, clib};
use crate::record::header::Record;
use crate::record::stacks::STACKS;
use crate::storage::borrow::Lent;

/// The values that the frames of the stack with this record may have lent, from the caller's frame
/// outwards.
#[inline(always)]
pub(crate) fn lent_by_frames(record: &'static Record) -> Lent {
    let here = arch::stack_pointer();
    // The stack can be searched only where this place is known to be on the same piece of memory as
    // the foot. This frame's own block is looked up first, so that the result does not depend on
    // earlier look-ups.
    let is_its = |found: Option<&'static Record>| found.is_some_and(|found| std::ptr::eq(found, record));
    if is_its(lookup::lookup()) && is_its(STACKS.find(here)) {
        return Lent::ByFramesFrom(here);
    }
    let Some(bounds) = clib::thread_bounds().filter(|bounds| bounds.contains(&here)) else { return Lent::Unknown };
    // A thread that was unwound by `pthread_exit` runs in memory above its entry function's frame.
    // Then no frame borrows any more.
    if (bounds.start + 1..=here).contains(&record.base()) {
        return Lent::Nothing;
    }
    // No walk leads through musl's `exit` and `pthread_exit`, which have no unwind tables and run
    // under all frames. A thread's own stack is one piece of memory.
    let is_below = cfg!(target_env = "musl") && (here + 1..=bounds.end).contains(&record.base());
    if is_below { Lent::ByFramesFrom(here) } else { Lent::Unknown }
}
