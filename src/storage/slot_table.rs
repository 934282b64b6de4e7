//! Dynamic slots: which are allocated, and one stack's values of them.
//!
//! A slot is an index from a bitmap. Each allocation has a generation of its own. It is part of the
//! handle and is stored beside every value, so an old handle is an error, and a value of an earlier
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

/// What is called with a slot's value when its stack ends, or when the slot is freed, unless the value is null.
pub type Destructor = unsafe extern "C-unwind" fn(*mut c_void);

/// One slot's state for all stacks.
pub(crate) struct Allocation {
    /// Odd while it is allocated.
    pub(crate) generation: AtomicU32,
    /// A [`Destructor`], or null.
    pub(crate) destructor: AtomicPtr<c_void>,
}

pub(crate) static ALLOCATIONS: [Allocation; CAPACITY] =
    [const { Allocation { generation: AtomicU32::new(0), destructor: AtomicPtr::new(ptr::null_mut()) } }; CAPACITY];
/// Where each slot was lately used from: block of the stack → the cell there. Cells live for ever, and are looked into
/// anyway, so it is only when a stack ends that places must be forgotten (`clear`). A mebibyte, untouched where unused.
pub(crate) static CACHES: [InlineCache; CAPACITY] = [const { InlineCache::new() }; CAPACITY];
pub(crate) static USED: [AtomicU64; CAPACITY / 64] = [const { AtomicU64::new(0) }; CAPACITY / 64];

/// One slot's value on one stack; it counts only if the generation is the slot's.
pub(crate) struct Cell {
    pub(crate) generation: AtomicU32,
    pub(crate) value: AtomicPtr<c_void>,
}

type Block = [Cell; BLOCK];

/// A stack's slots, in blocks that are made when they are first used. It stays with its record, which other stacks may
/// look into at any time, to free a slot; all of it is atomic.
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
        // block is the one.
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

/// The index and the generation in a handle, if it is one of an allocated slot.
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
    // SAFETY: `alloc` stored a destructor or null, and an optional function pointer has just that form.
    unsafe { std::mem::transmute::<*mut c_void, Option<Destructor>>(pointer) }
}

/// Takes the value of this generation out of a table, and calls the destructor with it. Whether there was one.
pub(crate) fn take(table: &Table, index: usize, generation: u32, destructor: Option<Destructor>) -> bool {
    let Some(cell) = table.cell(index) else { return false };
    if cell.generation.load(Ordering::Acquire) != generation {
        return false;
    }
    // The swap decides between the stack's own end and a concurrent `free`.
    let value = cell.value.swap(ptr::null_mut(), Ordering::AcqRel);
    if let (false, Some(destructor)) = (value.is_null(), destructor) {
        // SAFETY: the promise of who allocated the slot.
        isolated(|| unsafe { destructor(value) });
    }
    !value.is_null()
}

/// Takes all values of a stack that ends or is cleared. Whether there was one.
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

/// Forgets where the cells of a stack were looked at from: the next stack in its place has other cells. No code of the
/// user's may run between this and the end.
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

/// The table of a record that has none; `None` without memory.
pub(crate) fn new_table() -> Option<Box<Table>> {
    // SAFETY: zeroes are a table without a block.
    unsafe { try_zeroed() }
}
