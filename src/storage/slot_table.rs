//! Dynamic slots: which slots are allocated (`check`, `ALLOCATIONS`), and the values of one stack
//! (`Table`, `take`, `clear`).
//!
//! A slot is an index from a bitmap. Each allocation has a generation of its own. It is part of the
//! handle and is stored beside every value. So an old handle is an error, and a value of an earlier
//! allocation is never seen.

use super::inline_cache::InlineCache;
use crate::base::alloc::{refused, try_zeroed};
use crate::base::error::Error;
use crate::base::guard::isolated;
use crate::base::limits;
use std::ffi::c_void;
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering};

/// How many slots there are.
pub const CAPACITY: usize = limits::SLOTS;

pub(crate) const INDEX_BITS: u32 = CAPACITY.ilog2();
const BLOCK: usize = 64;

/// The function that is called with a slot's value, unless that is null, when its stack ends, or
/// when the slot is freed.
pub type Destructor = unsafe extern "C-unwind" fn(*mut c_void);

/// One slot's state for all stacks.
pub(crate) struct Allocation {
    /// Odd while the slot is allocated.
    pub(crate) generation: AtomicU32,
    /// A [`Destructor`], or null.
    pub(crate) destructor: AtomicPtr<c_void>,
}

pub(crate) static ALLOCATIONS: [Allocation; CAPACITY] =
    [const { Allocation { generation: AtomicU32::new(0), destructor: AtomicPtr::new(ptr::null_mut()) } }; CAPACITY];
/// The cells that each slot was lately used from, by block of the stack. Cells live for ever, and a
/// reader checks the cell's generation anyway. So entries are removed only when a stack ends
/// (`clear`). A mebibyte, untouched where unused.
pub(crate) static CACHES: [InlineCache; CAPACITY] = [const { InlineCache::new() }; CAPACITY];
pub(crate) static USED: [AtomicU64; CAPACITY / 64] = [const { AtomicU64::new(0) }; CAPACITY / 64];

/// One slot's value on one stack. It counts only if the generation is the slot's.
pub(crate) struct Cell {
    pub(crate) generation: AtomicU32,
    pub(crate) value: AtomicPtr<c_void>,
}

type Block = [Cell; BLOCK];

/// A stack's slots, in blocks that are allocated when they are first used. The table stays with its
/// record. Other stacks may read it at any time, to free a slot, so all of it is atomic.
pub(crate) struct Table {
    blocks: [AtomicPtr<Block>; CAPACITY / BLOCK],
}

impl Table {
    pub(crate) fn cell(&self, index: usize) -> Option<&'static Cell> {
        // SAFETY: null, or a block that was leaked when it was published.
        let block = unsafe { self.blocks[index / BLOCK].load(Ordering::Acquire).as_ref() }?;
        Some(&block[index % BLOCK])
    }

    /// The cells that have ever had a value, and their indices.
    fn used(&self) -> impl Iterator<Item = (usize, &'static Cell)> {
        let blocks = self.blocks.iter().enumerate().filter_map(|(number, block)| {
            // SAFETY: as in `cell`.
            let block = unsafe { block.load(Ordering::Acquire).as_ref() }?;
            Some((number * BLOCK..).zip(block))
        });
        blocks.flatten().filter(|(_, cell)| cell.generation.load(Ordering::Relaxed) != 0)
    }

    pub(crate) fn ensure_cell(&self, index: usize) -> Result<&'static Cell, Error> {
        if let Some(cell) = self.cell(index) {
            return Ok(cell);
        }
        // SAFETY: zeroes are cells that have had no value.
        let block = unsafe { try_zeroed::<Block>() }.ok_or_else(refused)?;
        let place = &self.blocks[index / BLOCK];
        // Only the stack itself adds blocks. The allocator may have done so meanwhile: then that
        // block stays.
        if place.load(Ordering::Acquire).is_null() {
            place.store(Box::leak(block), Ordering::Release);
        }
        self.cell(index).ok_or_else(refused)
    }
}

impl Cell {
    /// The value, if it is of this allocation of the slot.
    #[inline(always)]
    pub(crate) fn value(&self, generation: u32) -> *mut c_void {
        let value = self.value.load(Ordering::Relaxed);
        if self.generation.load(Ordering::Relaxed) == generation { value } else { ptr::null_mut() }
    }
}

/// The index and the generation in a handle, if it is the handle of an allocated slot.
#[inline(always)]
pub(crate) fn check(handle: u32) -> Result<(usize, u32), Error> {
    let index = handle as usize % CAPACITY;
    let generation = ALLOCATIONS[index].generation.load(Ordering::Acquire);
    if generation & 1 == 1 && generation << INDEX_BITS | index as u32 == handle {
        Ok((index, generation))
    } else {
        Err(Error::NoSuchSlot(handle))
    }
}

pub(crate) fn destructor(allocation: &Allocation) -> Option<Destructor> {
    let pointer = allocation.destructor.load(Ordering::Relaxed);
    // SAFETY: `alloc` has stored a destructor or null, and an optional function pointer has just
    // that form.
    unsafe { std::mem::transmute::<*mut c_void, Option<Destructor>>(pointer) }
}

/// Takes the value of this generation out of a table, and calls the destructor with it. Returns
/// whether there was a value.
pub(crate) fn take(table: &Table, index: usize, generation: u32, destructor: Option<Destructor>) -> bool {
    let Some(cell) = table.cell(index) else { return false };
    if cell.generation.load(Ordering::Acquire) != generation {
        return false;
    }
    // The swap decides between the end of the stack and a concurrent `free`: only one of them gets
    // the value.
    let value = cell.value.swap(ptr::null_mut(), Ordering::AcqRel);
    if let (false, Some(destructor)) = (value.is_null(), destructor) {
        // SAFETY: the caller of `alloc` has promised that the destructor may be called with the
        // value.
        isolated(|| unsafe { destructor(value) });
    }
    !value.is_null()
}

/// Takes all values of a stack that ends or is cleared. Returns whether there was one.
pub(crate) fn clear(table: &Table) -> bool {
    let mut any = false;
    // This may be the last time, before the stack ends.
    invalidate_caches(table);
    for (index, _) in table.used() {
        let allocation = &ALLOCATIONS[index];
        let generation = allocation.generation.load(Ordering::Acquire);
        if generation & 1 == 1 {
            any |= take(table, index, generation, destructor(allocation));
        }
    }
    any
}

/// Removes a stack's cells from the inline caches: the next stack on its memory has other cells. No
/// user code may run between this and the end of the stack.
pub(crate) fn invalidate_caches(table: &Table) {
    for (index, cell) in table.used() {
        CACHES[index].forget(ptr::from_ref(cell).cast_mut().cast());
    }
}

/// Whether a table holds no value.
pub(crate) fn is_empty(table: &Table) -> bool {
    let holds = |(index, cell): (usize, &Cell)| {
        let generation = ALLOCATIONS[index].generation.load(Ordering::Acquire);
        generation & 1 == 1 && !cell.value(generation).is_null()
    };
    !table.used().any(holds)
}

/// Takes all values out of a table, and calls no destructor.
pub(crate) fn leak(table: &Table) {
    for (_, cell) in table.used() {
        cell.value.store(ptr::null_mut(), Ordering::Release);
    }
}

/// A table for a record that has none; `None` without memory.
pub(crate) fn new_table() -> Option<Box<Table>> {
    // SAFETY: zeroes are a table without a block.
    unsafe { try_zeroed() }
}
