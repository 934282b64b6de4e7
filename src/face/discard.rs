//! Stacks that will never run again.

use crate::life::abandoned;
use std::ops::Range;

/// Declares that the stacks in `range` will never run again, although their functions have not
/// returned, and that other stacks may use this memory from now on. Returns how many of them were
/// armed. It is for runtimes that free the memory of a suspended fiber, or that cut stacks out of
/// memory which was part of a stack before.
///
/// Each of them is drained here and now: its handlers run and its values are dropped, on the
/// calling stack. So storage that they use is the caller's. Call this before you unmap the memory
/// or give it to other code. If a handler leaves the caller's stack for ever (by a fiber that is
/// never resumed, or by `exit`), the handlers after it do not run.
///
/// On aarch64 also call it before the next fiber begins there, if that fiber reads before it has
/// stored something, or uses a stack local. Functions store their return address at places of their
/// own choice there, so the next fiber may leave the word intact by which exeunt recognises the old
/// stack. A call that registers, stores under a key, deletes, resets or unloads makes a walk to
/// check whose stack it is. A read does not, and may find a value of the old stack.
///
/// Also call it before you start a fiber whose stack is a local array of a function. The function's
/// own stack may have been deeper before, and have used storage there. Exeunt would still take
/// those blocks for that stack's. The same holds for a fiber on any other part of an armed stack's
/// memory.
///
/// # Safety
/// The stacks in `range` must be suspended for ever. You must neither resume nor unwind them, as
/// some libraries do with a fiber that they drop. No code may be running in `range`. No other
/// thread may go on using what those stacks have borrowed or lent: their local variables, and the
/// values that a [`with`](crate::with) there has lent to a scoped thread. These are dropped here.
///
/// # Examples
/// ```
/// let memory = vec![0_u8; 64 * 1024];
/// // ... a fiber ran there, was suspended, and will not be resumed ...
/// let range = memory.as_ptr_range();
/// // SAFETY: no code runs on this memory.
/// let armed = unsafe { exeunt::discard(range.start as usize..range.end as usize) };
/// assert_eq!(armed, 0);
/// ```
pub unsafe fn discard(range: Range<usize>) -> usize {
    abandoned::discard(range)
}
