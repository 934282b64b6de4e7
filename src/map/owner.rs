//! The trait that the stack map requires of its owners: the records of armed stacks.

use super::cached::CachedFlag;
use super::pins::PinCount;
use super::slab::SlabItem;
use std::ops::Range;

/// A record, for the stack map. It lies in the map's slab and is never freed.
pub(crate) trait Owner: SlabItem + Sync + 'static {
    /// Whether the record's stack is live: its canary holds the word that it must hold.
    fn is_live(&self) -> bool;

    /// Whether the record's stack went away without an end. Its memory may be unmapped.
    fn is_stale(&self) -> bool;

    /// Whether the record belongs to no stack.
    fn is_free(&self) -> bool;

    /// Whether the record's stack is armed or draining, or was abandoned in one of these states.
    fn is_placed(&self) -> bool;

    /// Whether the record's stack has its foot at this address and is armed.
    fn is_armed_at(&self, foot: usize) -> bool;

    /// Where the foot of the record's stack is.
    fn foot(&self) -> usize;

    /// The base of the record's stack, without a tag; zero for none.
    fn base(&self) -> usize;

    /// Unsets the base.
    fn forget_base(&self);

    /// The pages whose entries may lead to the record.
    fn pages(&self) -> Range<usize>;

    /// Notes that a page's entry may lead to the record.
    fn note_page(&self, page: usize);

    /// The pin count of the record.
    fn pins(&self) -> &PinCount;

    /// Whether the record is cached for the next stack with its base.
    fn cached_flag(&self) -> &CachedFlag;
}
