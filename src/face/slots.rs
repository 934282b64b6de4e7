//! Dynamic slots, with the semantics of `TlsAlloc`, `TlsSetValue`, `TlsGetValue` and `TlsFree`, for stacks.
//!
//! A slot is an index from a bitmap. It is zero on every stack when it is allocated, and freeing it clears it on all live
//! stacks. Each allocation has a generation of its own, which is part of the handle and is stored beside every value, so
//! an old handle is an error, and a value from before is never seen again.
//!
//! [`Slot`] is the face for Rust: a double free or a slot that was never allocated do not compile there. The functions
//! are what the C face and other runtimes need.

use crate::base::alloc::refused;
use crate::base::counted::AcrossThreads;
use crate::base::error::Error;
use crate::life::arm;
use crate::life::lookup;
use crate::life::unload;
use crate::record::header::Record;
use crate::record::stacks::STACKS;
use crate::storage::inline_cache::{self};
use crate::storage::slot_table::{ALLOCATIONS, CACHES, Cell, INDEX_BITS, USED, check, destructor, take};
pub use crate::storage::slot_table::{CAPACITY, Destructor};
use std::ffi::c_void;
use std::marker::PhantomData;
use std::ops::Deref;
use std::ptr;
use std::sync::atomic::Ordering;

/// The running stack's cell of a slot, if it has one. Never arms.
#[inline(always)]
fn cell_here(index: usize) -> Option<&'static Cell> {
    let block = inline_cache::Block::here();
    match CACHES[index].find(block) {
        // SAFETY: a cell that `find_cell` remembered: those live for ever.
        Some(cell) => Some(unsafe { cell.cast().as_ref() }),
        None => find_cell(block, index),
    }
}

/// The same by the page map and the record, for a function in `block`, which will look there again.
#[inline(never)]
fn find_cell(block: inline_cache::Block, index: usize) -> Option<&'static Cell> {
    let found = STACKS.find(block.stack_pointer());
    let record = found.or_else(lookup::lookup)?;
    let cell = record.slots()?.cell(index)?;
    // Only a place that the page map vouches for: others may serve another stack next. And only a cell that has had a
    // value, as no others are looked for when places are forgotten.
    if found.is_some() && cell.generation.load(Ordering::Relaxed) != 0 {
        CACHES[index].remember(block, record.canary(), ptr::from_ref(cell).cast_mut().cast());
    }
    Some(cell)
}

/// Allocates a slot, which is null on every stack, and gives its handle, which is never zero.
///
/// # Errors
/// [`Error::SlotsExhausted`].
///
/// # Safety
/// `destructor` must be sound to call with any value that will be set, on the stack that set it when that ends, and on
/// whichever stack frees the slot.
pub unsafe fn alloc(destructor: Option<Destructor>) -> Result<u32, Error> {
    for (word, used) in USED.iter().enumerate() {
        let mut bits = used.load(Ordering::Relaxed);
        while bits != u64::MAX {
            let bit = (!bits).trailing_zeros();
            match used.compare_exchange(bits, bits | 1 << bit, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => {
                    let index = word * 64 + bit as usize;
                    let allocation = &ALLOCATIONS[index];
                    CACHES[index].register();
                    let pointer = destructor.map_or(ptr::null_mut(), |destructor| destructor as *mut c_void);
                    allocation.destructor.store(pointer, Ordering::Relaxed);
                    let generation = allocation.generation.fetch_add(1, Ordering::AcqRel) + 1;
                    return Ok(generation << INDEX_BITS | index as u32);
                }
                Err(now) => bits = now,
            }
        }
    }
    Err(Error::SlotsExhausted)
}

/// Sets the slot's value on the running stack, which is armed if it was not. The value that was there is overwritten, and
/// no destructor is called for it.
///
/// # Errors
/// [`Error::NoSuchSlot`], and where the stack cannot be armed, or there is no memory. Then nothing
/// has changed.
///
/// # Safety
/// The value must be what the slot's destructor, and whoever reads it on this stack, take it for. A [`Slot`] keeps its own in
/// the slot.
pub unsafe fn set(handle: u32, value: *mut c_void) -> Result<(), Error> {
    exchange(handle, value).map(drop)
}

/// Sets the slot's value, and gives the one that was there, or null. All memory is allocated before
/// the one is read and the other is written: the allocator may be code of the user's, and use this
/// very slot.
fn exchange(handle: u32, value: *mut c_void) -> Result<*mut c_void, Error> {
    let (index, generation) = check(handle)?;
    let (record, is_new) = arm::record_or_new()?;
    let cell = cell_of(record, index).map_err(|error| unload::undo(record, is_new, error))?;
    // Never the new value under the old generation, which somebody may be freeing, nor the old one under the new.
    if cell.generation.load(Ordering::Relaxed) != generation {
        cell.value.store(ptr::null_mut(), Ordering::Relaxed);
        cell.generation.store(generation, Ordering::Release);
    }
    // Only this stack's code sets the value, and whoever frees the slot has it to itself.
    let old = cell.value.load(Ordering::Relaxed);
    cell.value.store(value, Ordering::Release);
    Ok(old)
}

/// The record's cell of a slot, made if need be.
fn cell_of(record: &Record, index: usize) -> Result<&'static Cell, Error> {
    if let Some(cell) = record.slots().and_then(|table| table.cell(index)) {
        return Ok(cell);
    }
    // The allocator may unload.
    let _kept_armed = record.keep_armed();
    record.slots_or_new()?.ensure_cell(index)
}

/// The slot's value on the running stack; null where none was set. It never arms the stack.
///
/// # Errors
/// [`Error::NoSuchSlot`].
#[inline]
pub fn get(handle: u32) -> Result<*mut c_void, Error> {
    let (index, generation) = check(handle)?;
    Ok(cell_here(index).map_or(ptr::null_mut(), |cell| cell.value(generation)))
}

/// Frees the slot: its handle is no more, and it is null again on all stacks. Where a value was set, the destructor is
/// called with it, here and now, for the values of all stacks.
///
/// # Errors
/// [`Error::NoSuchSlot`], also when it was freed before.
///
/// # Safety
/// No stack may be using the slot or one of its values meanwhile.
pub unsafe fn free(handle: u32) -> Result<(), Error> {
    let (index, generation) = check(handle)?;
    let allocation = &ALLOCATIONS[index];
    let next = generation.wrapping_add(1);
    if allocation.generation.compare_exchange(generation, next, Ordering::AcqRel, Ordering::Relaxed).is_err() {
        return Err(Error::NoSuchSlot(handle));
    }
    let destructor = destructor(allocation);
    for table in STACKS.all().filter_map(Record::slots) {
        take(table, index, generation, destructor);
    }
    USED[index / 64].fetch_and(!(1 << (index % 64)), Ordering::AcqRel);
    Ok(())
}

/// A [`Slot`]'s value, shared: it lives until the slot has another one, and all of these are
/// dropped.
///
/// As an [`Arc`](std::sync::Arc), but for how it is made: [`Slot::set`] gives an error where there
/// is no memory.
pub struct Shared<T: Send + Sync>(AcrossThreads<T>);

impl<T: Send + Sync> Shared<T> {
    /// Whether both are the same value.
    pub fn ptr_eq(&self, other: &Self) -> bool {
        self.0.is(&other.0)
    }
}

impl<T: Send + Sync> Deref for Shared<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: Send + Sync> Clone for Shared<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T: Send + Sync + PartialEq> PartialEq for Shared<T> {
    /// Whether the values are equal.
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl<T: Send + Sync + Eq> Eq for Shared<T> {}

impl<T: Send + Sync + std::fmt::Debug> std::fmt::Debug for Shared<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        (**self).fmt(f)
    }
}

/// A slot for values of type `T`: made at run time, with a value of its own on every stack, freed when it is dropped.
///
/// # Examples
/// ```
/// let slot = exeunt::Slot::new()?;
/// slot.set(5)?;
/// assert_eq!(slot.get(), Some(5));
/// let there = std::thread::scope(|scope| scope.spawn(|| slot.get()).join().unwrap());
/// assert_eq!(there, None);
/// # exeunt::unload();
/// # Ok::<(), exeunt::Error>(())
/// ```
///
/// What would be a double free or a use after it does not compile, and neither does a slot that was never allocated:
/// ```compile_fail,E0382
/// let slot = exeunt::Slot::<u32>::new()?;
/// drop(slot);
/// slot.set(1)?;
/// # Ok::<(), exeunt::Error>(())
/// ```
/// ```compile_fail,E0382
/// let slot = exeunt::Slot::<u32>::new()?;
/// drop(slot);
/// drop(slot);
/// # Ok::<(), exeunt::Error>(())
/// ```
/// ```compile_fail,E0451
/// let slot = exeunt::Slot::<u32> { handle: 7, generation: 1, values: std::marker::PhantomData };
/// ```
pub struct Slot<T: Send + Sync + 'static> {
    handle: u32,
    /// All of the generation, of which the handle has a part.
    generation: u32,
    values: PhantomData<fn(T) -> T>,
}

impl<T: Send + Sync + 'static> Slot<T> {
    /// Allocates a slot that no stack has a value in.
    ///
    /// # Errors
    /// [`Error::SlotsExhausted`].
    pub fn new() -> Result<Self, Error> {
        unsafe extern "C-unwind" fn release<T>(value: *mut c_void) {
            // SAFETY: values are references that `set` let go of.
            drop(unsafe { AcrossThreads::from_raw(value.cast::<T>()) });
        }
        // SAFETY: only `set` stores values in it, and they may be dropped on any thread.
        let handle = unsafe { alloc(Some(release::<T>)) }?;
        let (_, generation) = check(handle)?;
        Ok(Self { handle, generation, values: PhantomData })
    }

    /// What is stored on the running stack, or null. This slot is allocated, so its handle needs no check.
    #[inline(always)]
    fn value(&self) -> *mut c_void {
        cell_here(self.handle as usize % CAPACITY).map_or(ptr::null_mut(), |cell| cell.value(self.generation))
    }

    /// Sets the running stack's value; the one that was there is dropped.
    ///
    /// # Errors
    /// Where the stack cannot be armed, and [`Error::OutOfMemory`]. Then `value` is dropped, and
    /// nothing has changed.
    pub fn set(&self, value: T) -> Result<(), Error> {
        let value = AcrossThreads::try_new(value).map_err(|_| refused())?.into_raw().cast_mut();
        // What was there is read by this, after all else: handlers of an abandoned stack, which run
        // while this one is armed, and the allocator may set the value as well.
        match exchange(self.handle, value.cast()) {
            Ok(old) => {
                // SAFETY: it was stored by an earlier call, and has just been overwritten.
                drop((!old.is_null()).then(|| unsafe { AcrossThreads::from_raw(old.cast::<T>()) }));
                Ok(())
            }
            Err(error) => {
                // SAFETY: just let go of, and not stored.
                drop(unsafe { AcrossThreads::from_raw(value) });
                Err(error)
            }
        }
    }

    /// The running stack's value, shared; `None` if it has none.
    pub fn share(&self) -> Option<Shared<T>> {
        let value = self.value().cast::<T>();
        if value.is_null() {
            return None;
        }
        // SAFETY: a reference that `set` let go of, and which stays in the slot.
        let stored = std::mem::ManuallyDrop::new(unsafe { AcrossThreads::from_raw(value) });
        Some(Shared(AcrossThreads::clone(&stored)))
    }

    /// A copy of the running stack's value; `None` if it has none.
    #[inline]
    pub fn get(&self) -> Option<T>
    where
        T: Copy,
    {
        let value = self.value().cast::<T>();
        // SAFETY: null, or what `set` let go of. Copying runs no code of the user's that could drop it meanwhile.
        unsafe { value.as_ref() }.copied()
    }

    /// Takes the running stack's value, and leaves none.
    pub fn take(&self) -> Option<Shared<T>> {
        let cell = cell_here(self.handle as usize % CAPACITY)?;
        let value = cell.value(self.generation);
        if value.is_null() {
            return None;
        }
        cell.value.store(ptr::null_mut(), Ordering::Release);
        // SAFETY: what `set` let go of, and no longer stored.
        Some(Shared(unsafe { AcrossThreads::from_raw(value.cast()) }))
    }
}

impl<T: Send + Sync + 'static> Drop for Slot<T> {
    /// Frees the slot, and drops its values on all stacks.
    fn drop(&mut self) {
        // SAFETY: nobody else has this slot any more, so nobody uses it.
        let _ = unsafe { free(self.handle) };
    }
}

impl<T: Send + Sync + 'static> std::fmt::Debug for Slot<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Slot").field("handle", &format_args!("{:#x}", self.handle)).finish()
    }
}
