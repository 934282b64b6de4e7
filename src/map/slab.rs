//! The slab: the memory of records. It hands out and takes back slots without locks.
//!
//! The operations are `take`, `give`, `get`, `all` and `at`.
//!
//! A reader may follow a stale entry of the stack map to a record that was given back. So a slot is
//! never unmapped or used for anything else: the reader always reads a record, which fails its
//! checks. There are no locks, because `fork` would copy a held lock into the child, and because a
//! signal handler cannot wait for the code that it interrupted.
//!
//! | word | ordering | without it |
//! |---|---|---|
//! | a chunk's pointer | published with Release, loaded with Acquire | a slot is read before it is initialised |
//! | `free` | loaded with Acquire, exchanged with Release by `give` | `take` reads an old `next`: one slot for two users |
//! | `fresh` | exchanged with AcqRel, loaded with Acquire by `all` | `all` skips a slot whose chunk it does not see |

use crate::base::alloc::try_many;
use crate::base::atomics::{AtomicPtr, AtomicU32, AtomicU64, Ordering};

/// The trait that the slab requires of its items.
pub(crate) trait SlabItem {
    /// The slot's number, which the slab gives it once, and, while the slot is free, the number of
    /// the next free slot.
    fn links(&self) -> &Links;
    /// A new item, which is not in use.
    fn vacant() -> Self;
}

/// The slab's part of a slot.
pub(crate) struct Links {
    number: AtomicU32,
    next: AtomicU32,
}

impl Links {
    pub(crate) fn new() -> Self {
        Self { number: AtomicU32::new(0), next: AtomicU32::new(0) }
    }

    /// The slot's number.
    pub(crate) fn number(&self) -> u32 {
        self.number.load(Ordering::Relaxed)
    }
}

/// Chunk K holds `FIRST << K` slots.
const FIRST: u32 = if cfg!(test) { 2 } else { 64 };
const CHUNKS: usize = 26;

/// Slots in chunks that double in size. Numbers count from one; zero is none.
pub(crate) struct Slab<T> {
    chunks: [AtomicPtr<T>; CHUNKS],
    /// Numbers given out for the first time so far.
    fresh: AtomicU32,
    /// The free list: the number of the first slot, and above it a count of changes. The count
    /// reveals a list that has changed and changed back meanwhile.
    free: AtomicU64,
}

impl<T: SlabItem> Slab<T> {
    pub(crate) const fn from_parts(chunks: [AtomicPtr<T>; CHUNKS], fresh: AtomicU32, free: AtomicU64) -> Self {
        Self { chunks, fresh, free }
    }

    /// A slot that no other code has, or `None` when the numbers or the memory are used up.
    pub(crate) fn take(&self) -> Option<&T> {
        let mut head = self.free.load(Ordering::Acquire);
        while head as u32 != 0 {
            let slot = self.slot(head as u32);
            let next = slot.links().next.load(Ordering::Relaxed);
            match self.free.compare_exchange(head, retag(head, next), Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return Some(slot),
                Err(now) => head = now,
            }
        }
        let mut fresh = self.fresh.load(Ordering::Relaxed);
        let number = loop {
            let (chunk, _) = place(fresh + 1);
            // First the chunk, so that no number is lost where there is no memory.
            if chunk >= CHUNKS || !self.ensure_chunk(chunk) {
                return None;
            }
            match self.fresh.compare_exchange(fresh, fresh + 1, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => break fresh + 1,
                Err(now) => fresh = now,
            }
        };
        let slot = self.slot(number);
        slot.links().number.store(number, Ordering::Relaxed);
        Some(slot)
    }

    /// Whether [`Slab::take`] would have to make a new slot, of a higher number than this.
    #[inline]
    pub(crate) fn has_none_up_to(&self, number: u32) -> bool {
        self.free.load(Ordering::Relaxed) as u32 == 0 && self.fresh.load(Ordering::Relaxed) >= number
    }

    /// The slot with a number, free or not; `None` where its chunk does not exist yet.
    pub(crate) fn get(&self, number: u32) -> Option<&T> {
        let (chunk, index) = place(number);
        let first = self.chunks.get(chunk)?.load(Ordering::Acquire);
        // SAFETY: chunks are complete when they are published, and live for ever. `place` keeps
        // `index` within the chunk.
        (!first.is_null()).then(|| unsafe { &*first.add(index) })
    }

    /// Takes back a slot that [`Slab::take`] gave.
    pub(crate) fn give(&self, slot: &T) {
        let number = slot.links().number();
        let mut head = self.free.load(Ordering::Relaxed);
        loop {
            slot.links().next.store(head as u32, Ordering::Relaxed);
            match self.free.compare_exchange(head, retag(head, number), Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return,
                Err(now) => head = now,
            }
        }
    }

    /// Whether a slot was ever handed out.
    pub(crate) fn is_used(&self) -> bool {
        self.fresh.load(Ordering::Relaxed) != 0
    }

    /// Every slot that was ever handed out, free or not.
    pub(crate) fn all(&self) -> impl Iterator<Item = &T> {
        let count = self.fresh.load(Ordering::Acquire);
        (1..=count).filter_map(|number| self.get(number))
    }

    /// The slot at an address, free or not.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn at(&self, address: usize) -> Option<&T> {
        (0..CHUNKS).find_map(|chunk| {
            let first = self.chunks[chunk].load(Ordering::Acquire);
            let offset = address.checked_sub(first.addr())?;
            let index = offset / size_of::<T>();
            let inside = !first.is_null() && offset % size_of::<T>() == 0 && index < (FIRST as usize) << chunk;
            // SAFETY: chunks are complete when they are published, and live for ever. `index` is
            // within the chunk, as just checked.
            inside.then(|| unsafe { &*first.add(index) })
        })
    }

    fn slot(&self, number: u32) -> &T {
        let (chunk, index) = place(number);
        let first = self.chunks[chunk].load(Ordering::Acquire);
        // SAFETY: a number is in use only after `ensure_chunk` has published its chunk, which lives
        // for ever.
        unsafe { &*first.add(index) }
    }

    /// Makes sure that there is a chunk; `false` without memory for it.
    fn ensure_chunk(&self, chunk: usize) -> bool {
        if !self.chunks[chunk].load(Ordering::Acquire).is_null() {
            return true;
        }
        let Some(fresh) = try_many((FIRST as usize) << chunk, T::vacant) else { return false };
        let fresh = Box::into_raw(fresh);
        let published = self.chunks[chunk].compare_exchange(
            std::ptr::null_mut(),
            fresh.cast(),
            Ordering::AcqRel,
            Ordering::Acquire,
        );
        if published.is_err() {
            // SAFETY: another thread was first, so this box was never shared.
            drop(unsafe { Box::from_raw(fresh) });
        }
        true
    }
}

/// The chunk and the index in it of a number.
fn place(number: u32) -> (usize, usize) {
    let from_first = (number - 1) / FIRST + 1;
    let chunk = from_first.ilog2() as usize;
    (chunk, (number - 1) as usize - (FIRST as usize) * ((1 << chunk) - 1))
}

/// The free list's word with another first slot, and with a count of changes that is one higher.
fn retag(head: u64, number: u32) -> u64 {
    ((head >> 32).wrapping_add(1) << 32) | u64::from(number)
}
