//! Stacks that will never run again.

use crate::life::abandoned;
use std::ops::Range;

/// Says that the stacks in `range` will never run again, although their functions have not returned, and that other
/// stacks may use this memory from now on. For runtimes that free the memory of a suspended fiber, or that cut stacks out
/// of memory which was part of a stack before. Returns how many armed stacks there were.
///
/// Each of them is drained here and now: its handlers run and its values are dropped, on the stack that calls. So what
/// they do with storage they do with the caller's. Call it before the memory is unmapped or given to somebody else. A handler
/// in which the caller's stack is itself left for ever (a fiber that is never resumed, `exit`) takes those after it along: they
/// do not run.
///
/// On aarch64 also call it before the next fiber begins there, if that reads before it has stored something, or uses a stack local.
/// Functions store their return address where they please there, so the next fiber may leave the word as it is by which the old one is
/// known. What registers, stores under a key, deletes, resets or unloads makes a walk to see whose stack it is; a read does not, and
/// may find a value of the old one.
///
/// A fiber whose stack is a local array of a function needs it too, before it starts: the function's own stack may have
/// been deeper before, have used storage there, and would still be taken for the owner of those places. So does one on
/// any other part of an armed stack's memory.
///
/// # Safety
/// The stacks in `range` must be suspended for ever: neither resumed nor unwound, as some libraries do with a fiber that they
/// drop. Nobody must be running in `range`, and no other thread may go on using what those stacks
/// have borrowed or lent: their local variables, and the values that a [`with`](crate::with) there
/// has lent to a scoped thread. These are dropped here.
///
/// # Examples
/// ```
/// let memory = vec![0_u8; 64 * 1024];
/// // ... a fiber ran there, was suspended, and will not be resumed ...
/// let range = memory.as_ptr_range();
/// // SAFETY: nobody runs on this memory.
/// let armed = unsafe { exeunt::discard(range.start as usize..range.end as usize) };
/// assert_eq!(armed, 0);
/// ```
pub unsafe fn discard(range: Range<usize>) -> usize {
    abandoned::discard(range)
}
