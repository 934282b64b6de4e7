//! Abandoned stacks: they never run again, although their functions have not returned.

use crate::base::ending::Cause;
use crate::record::stacks::STACKS;
use crate::storage::inline_cache;
use std::ops::Range;

/// Drains the armed stacks in `range` on the running stack. Returns their number.
pub(crate) fn discard(range: Range<usize>) -> usize {
    let mut count = 0;
    for record in STACKS.all_in(range.clone()) {
        record.detach();
        record.drain_and_release_abandoned(Cause::Discarded);
        count += 1;
    }
    STACKS.remove_blocks(&range);
    inline_cache::invalidate_range(&range);
    count
}
