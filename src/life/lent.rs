//! The values that the frames of an armed stack may have lent.

use super::lookup;
use crate::machine::{arch, clib};
use crate::record::header::Record;
use crate::record::stacks::STACKS;
use crate::storage::borrow::Lent;
use std::ops::Range;

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
    // A thread that was unwound by `pthread_exit` runs in memory above its entry function's frame.
    // Then no frame borrows any more.
    let is_unwound =
        |bounds: Range<usize>| bounds.contains(&here) && (bounds.start + 1..=here).contains(&record.base());
    if clib::thread_bounds().is_some_and(is_unwound) { Lent::Nothing } else { Lent::Unknown }
}
