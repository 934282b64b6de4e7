//! Dynamic slots, with the semantics of `TlsAlloc`, `TlsSetValue`, `TlsGetValue` and `TlsFree`, for
//! stacks: [`alloc`], [`set`], [`get`], [`free`].
//!
//! A slot is an index from a bitmap. It is null on every stack when it is allocated. Freeing it
//! clears it on all live stacks. Each allocation has a generation of its own, which is part of the
//! handle and is stored beside every value. So an old handle gives an error, and a value of an
//! earlier allocation is never seen.
//!
//! Use [`Slot`] in Rust: there a double free, or a slot that was never allocated, does not compile.
//! The functions are for the C face and for other runtimes.

use crate::base::alloc::refused;
use crate::base::counted::AcrossThreads;
use crate::base::error::Error;
use crate::life::arm;
use crate::life::lookup;
use crate::life::unload;
use crate::machine::arch::stack_pointer;
use crate::record::header::Record;
use crate::record::stacks::STACKS;
use crate::storage::inline_cache::{self};
pub use crate::storage::slot_table::CAPACITY;
use crate::storage::slot_table::Destructor as Unwinding;
use crate::storage::slot_table::{ALLOCATIONS, CACHES, Cell, INDEX_BITS, USED, check, destructor, take};
use std::any::TypeId;
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
        // SAFETY: `find_cell` stored a cell, and cells are never freed (`storage/slot_table.rs`).
        Some(cell) => Some(unsafe { cell.cast().as_ref() }),
        None => find_cell(block, index),
    }
}

/// The same by the stack map and the record. The inline cache remembers the cell for `block`.
#[inline(never)]
fn find_cell(block: inline_cache::Block, index: usize) -> Option<&'static Cell> {
    let found = STACKS.find(block.stack_pointer());
    let record = found.or_else(lookup::lookup)?;
    let cell = record.slots()?.cell(index)?;
    // Only a block that the stack map gives to a record: another block may serve another stack
    // next. And only a cell that has had a value: `slot_table::invalidate_caches` visits no others.
    if found.is_some() && cell.generation.load(Ordering::Relaxed) != 0 {
        CACHES[index].remember(block, record.canary(), ptr::from_ref(cell).cast_mut().cast());
    }
    Some(cell)
}

/// The type of a slot's destructor.
pub type Destructor = unsafe extern "C" fn(*mut c_void);

/// Allocates a slot, which is null on every stack. Returns its handle, which is never zero.
///
/// `destructor` is a function as C has it, such as `libc::free`. A panic in it ends the process.
/// [`Slot`] has destructors of Rust's.
///
/// # Errors
/// [`Error::SlotsExhausted`].
///
/// # Safety
/// `destructor` must be sound to call with any value that will be set: on the stack that set it,
/// when that ends, and on the stack that frees the slot.
///
/// # Examples
/// ```
/// use exeunt::slots;
///
/// // SAFETY: all values of the slot are of `malloc`.
/// let slot = unsafe { slots::alloc(Some(libc::free)) }?;
/// // SAFETY: as above.
/// unsafe { slots::set(slot, libc::malloc(100)) }?;
/// assert!(!slots::get(slot)?.is_null());
/// // SAFETY: no other code uses the slot.
/// unsafe { slots::free(slot) }?; // calls `libc::free`
/// # exeunt::unload()?;
/// # Ok::<(), exeunt::Error>(())
/// ```
pub unsafe fn alloc(destructor: Option<Destructor>) -> Result<u32, Error> {
    // SAFETY: the two types differ in the suffix of their ABI alone, with which calls are
    // compatible. The caller's promise.
    unsafe { alloc_unwinding(std::mem::transmute::<Option<Destructor>, Option<Unwinding>>(destructor)) }
}

/// As [`alloc`], for a destructor that a panic or an exception may leave.
///
/// # Safety
/// As for [`alloc`].
pub(crate) unsafe fn alloc_unwinding(destructor: Option<Unwinding>) -> Result<u32, Error> {
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

/// Sets the slot's value on the running stack, and arms the stack if it is not armed. The old value
/// is overwritten, and its destructor is not called.
///
/// # Errors
/// [`Error::NoSuchSlot`], an error of arming, or [`Error::OutOfMemory`]. Then nothing has changed.
///
/// # Safety
/// The value must be what the slot's destructor, and the code that reads it on this stack, take it
/// for. A [`Slot`] keeps its own values in the slot.
#[inline(never)]
pub unsafe fn set(handle: u32, value: *mut c_void) -> Result<(), Error> {
    exchange(handle, value, stack_pointer()).map(drop)
}

/// Sets the slot's value, and returns the old one, or null. It allocates all memory before it reads
/// the old value and writes the new one: the allocator may be code of yours that uses this very
/// slot. `face` is the stack pointer of the function that users call.
pub(crate) fn exchange(handle: u32, value: *mut c_void, face: usize) -> Result<*mut c_void, Error> {
    let (index, generation) = check(handle)?;
    let (record, is_new) = arm::record_or_new_for(stack_pointer(), face)?;
    let cell = cell_of(record, index).map_err(|error| unload::undo(record, is_new, error))?;
    // Readers must never see the new value under the old generation, which another thread may be
    // freeing, nor the old value under the new generation.
    if cell.generation.load(Ordering::Relaxed) != generation {
        cell.value.store(ptr::null_mut(), Ordering::Relaxed);
        cell.generation.store(generation, Ordering::Release);
    }
    // Only this stack's code sets the value. The thread that frees the slot promises that no other
    // code uses it.
    let old = cell.value.load(Ordering::Relaxed);
    cell.value.store(value, Ordering::Release);
    Ok(old)
}

/// The record's cell of a slot, made if it is missing.
fn cell_of(record: &Record, index: usize) -> Result<&'static Cell, Error> {
    if let Some(cell) = record.slots().and_then(|table| table.cell(index)) {
        return Ok(cell);
    }
    // The allocator may be code of yours, and unload.
    let _kept_armed = record.keep_armed();
    record.slots_or_new()?.ensure_cell(index)
}

/// The slot's value on the running stack; null if none was set. Never arms the stack.
///
/// # Errors
/// [`Error::NoSuchSlot`].
#[inline]
pub fn get(handle: u32) -> Result<*mut c_void, Error> {
    let (index, generation) = check(handle)?;
    Ok(cell_here(index).map_or(ptr::null_mut(), |cell| cell.value(generation)))
}

/// Frees the slot. Its handle is invalid from then on, and the slot is null again on all stacks.
/// The destructor is called here and now, with each value that any stack has set.
///
/// # Errors
/// [`Error::NoSuchSlot`], also if the slot was freed before.
///
/// # Safety
/// No stack may use the slot or one of its values meanwhile.
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

/// A [`Slot`]'s value, shared. It lives until the slot has another value and all of these are
/// dropped.
///
/// It is like an [`Arc`](std::sync::Arc), but [`Slot::set`], which makes it, returns an error if
/// there is no memory.
pub struct Shared<T: Send + Sync>(AcrossThreads<T>);

impl<T: Send + Sync> Shared<T> {
    /// Whether both refer to the same value.
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

/// A slot for values of type `T`. You create it at run time, every stack has a value of its own in
/// it, and it is freed when you drop it.
///
/// # Examples
/// ```
/// let slot = exeunt::Slot::new()?;
/// slot.set(5)?;
/// assert_eq!(slot.get(), Some(5));
/// let there = std::thread::scope(|scope| scope.spawn(|| slot.get()).join().unwrap());
/// assert_eq!(there, None);
/// # exeunt::unload()?;
/// # Ok::<(), exeunt::Error>(())
/// ```
///
/// A double free or a use after it does not compile, and neither does a slot that was never
/// allocated:
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
    /// The whole generation. The handle has a part of it.
    generation: u32,
    values: PhantomData<fn(T) -> T>,
}

impl<T: Send + Sync + 'static> Slot<T> {
    /// Allocates a slot. No stack has a value in it.
    ///
    /// # Errors
    /// [`Error::SlotsExhausted`].
    pub fn new() -> Result<Self, Error> {
        unsafe extern "C-unwind" fn release<T>(value: *mut c_void) {
            // SAFETY: `set` stores references that it gave up by `into_raw`.
            drop(unsafe { AcrossThreads::from_raw(value.cast::<T>()) });
        }
        // SAFETY: only `Slot::set` stores values in it, and `T: Send` lets any thread drop them.
        let handle = unsafe { alloc_unwinding(Some(release::<T>)) }?;
        let (_, generation) = check(handle)?;
        Ok(Self { handle, generation, values: PhantomData })
    }

    /// The stored pointer on the running stack, or null. The slot is allocated, so the handle needs
    /// no check.
    #[inline(always)]
    fn value(&self) -> *mut c_void {
        cell_here(self.handle as usize % CAPACITY).map_or(ptr::null_mut(), |cell| cell.value(self.generation))
    }

    /// Sets the running stack's value. The old value is dropped.
    ///
    /// # Errors
    /// An error of arming, or [`Error::OutOfMemory`]. Then `value` is dropped, and nothing has
    /// changed.
    #[inline(never)]
    pub fn set(&self, value: T) -> Result<(), Error> {
        let value = AcrossThreads::try_new(value).map_err(|_| refused())?.into_raw().cast_mut();
        // `exchange` reads the old value last: handlers of an abandoned stack, which run while this
        // one is armed, and the allocator may set the value as well.
        match exchange(self.handle, value.cast(), stack_pointer()) {
            Ok(old) => {
                // SAFETY: an earlier call stored it, and this call has just overwritten it.
                drop((!old.is_null()).then(|| unsafe { AcrossThreads::from_raw(old.cast::<T>()) }));
                Ok(())
            }
            Err(error) => {
                // SAFETY: `into_raw` gave it, and it is not stored.
                drop(unsafe { AcrossThreads::from_raw(value) });
                Err(error)
            }
        }
    }

    /// The running stack's value, shared; `None` if it has none.
    #[must_use]
    pub fn share(&self) -> Option<Shared<T>> {
        let value = self.value().cast::<T>();
        if value.is_null() {
            return None;
        }
        // SAFETY: `set` gave it by `into_raw`. `ManuallyDrop` leaves that reference in the slot.
        let stored = std::mem::ManuallyDrop::new(unsafe { AcrossThreads::from_raw(value) });
        Some(Shared(AcrossThreads::clone(&stored)))
    }

    /// A copy of the running stack's value; `None` if it has none.
    ///
    /// For numbers, `bool`, `char` and static strings this is a load. A value of any other type is
    /// shared while its `Clone` runs, as that may set the slot.
    #[inline]
    #[must_use]
    pub fn get(&self) -> Option<T>
    where
        T: Clone,
    {
        if !is_primitive::<T>() {
            return self.share().map(|value| T::clone(&value));
        }
        let value = self.value().cast::<T>();
        // SAFETY: null, or a value that `set` stored. Cloning a primitive type runs no code of
        // yours that could drop it meanwhile.
        unsafe { value.as_ref() }.cloned()
    }

    /// Takes the running stack's value, and leaves none.
    pub fn take(&self) -> Option<Shared<T>> {
        let cell = cell_here(self.handle as usize % CAPACITY)?;
        let value = cell.value(self.generation);
        if value.is_null() {
            return None;
        }
        cell.value.store(ptr::null_mut(), Ordering::Release);
        // SAFETY: `set` gave it by `into_raw`, and it is no longer stored.
        Some(Shared(unsafe { AcrossThreads::from_raw(value.cast()) }))
    }
}

/// Whether the `Clone` of this type is the language's own. The optimiser knows the answer.
#[inline(always)]
fn is_primitive<T: 'static>() -> bool {
    macro_rules! any_of {
        ($($primitive:ty),*) => {
            $(TypeId::of::<T>() == TypeId::of::<$primitive>())||*
        };
    }
    any_of!(u8, u16, u32, u64, u128, usize, i8, i16, i32, i64, i128, isize, f32, f64, bool, char, (), &'static str)
}

impl<T: Send + Sync + 'static> Drop for Slot<T> {
    /// Frees the slot, and drops its values on all stacks.
    fn drop(&mut self) {
        // SAFETY: this was the only owner of the slot, so no code uses it any more.
        let _ = unsafe { free(self.handle) };
    }
}

impl<T: Send + Sync + 'static> std::fmt::Debug for Slot<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Slot").field("handle", &format_args!("{:#x}", self.handle)).finish()
    }
}
