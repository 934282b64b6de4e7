//! Allocation that can fail. Where there is no memory, std's collections end the process; the
//! functions in this file return an error, and the caller reports it.
//!
//! | function | allocates |
//! |---|---|
//! | [`try_box`], [`try_zeroed`] | one value in a box |
//! | [`try_many`] | many values side by side, for ever |
//! | [`try_vec`], [`larger`], [`move_to`] | a vector, and a larger one in its place |
//! | [`try_reserve`] | what a collection reserves itself |
//! | [`Room`] | a value with an address of its own, also where its size is zero |
//!
//! The allocator may be the program's own code, and that code may use storage itself. So every
//! record is in a consistent state while one of these functions runs, and the caller then checks
//! again whatever may have changed. An allocator that uses storage in every call would recurse
//! without end, so calls nest to a limited depth ([`MOST_NESTED`]).

use crate::base::error::Error;
use std::alloc::{Layout, alloc, alloc_zeroed, dealloc};
use std::cell::Cell;
use std::ptr::NonNull;

/// How many of these calls may be nested on one thread. An allocator that guards against its own
/// recursion and uses storage takes two. Each takes some KiB of stack.
const MOST_NESTED: u32 = 3;

thread_local! {
    /// How many of these calls are running on this thread.
    static DEPTH: Cell<u32> = const { Cell::new(0) };
}

/// Calls the allocator. Returns the result of `refuse` instead where too many calls are nested.
#[inline]
fn nested<R>(allocate: impl FnOnce() -> R, refuse: impl FnOnce() -> R) -> R {
    DEPTH.with(|depth| {
        if depth.get() == MOST_NESTED {
            return refuse();
        }
        depth.set(depth.get() + 1);
        let result = allocate();
        depth.set(depth.get() - 1);
        result
    })
}

/// The error for an allocation that has just failed on this thread.
#[cold]
pub(crate) fn refused() -> Error {
    if DEPTH.get() == MOST_NESTED { Error::Reentered } else { Error::OutOfMemory }
}

/// Reserves memory for a collection of std's or of hashbrown's by calling `reserve`.
pub(crate) fn try_reserve<E>(reserve: impl FnOnce() -> Result<(), E>) -> Result<(), Error> {
    nested(|| reserve().ok(), || None).ok_or_else(refused)
}

/// A box with the value; the value itself where there is no memory.
#[inline]
pub(crate) fn try_box<T>(value: T) -> Result<Box<T>, T> {
    if size_of::<T>() == 0 {
        return Ok(Box::new(value));
    }
    // SAFETY: the size is not zero (checked above).
    let memory = nested(|| unsafe { alloc(Layout::new::<T>()) }, std::ptr::null_mut).cast::<T>();
    if memory.is_null() {
        return Err(value);
    }
    // SAFETY: fresh memory with the layout of a `T`, which is what a box of a `T` has.
    unsafe {
        memory.write(value);
        Ok(Box::from_raw(memory))
    }
}

/// A box whose bytes are all zero.
///
/// # Safety
/// All zeros must be a valid `T`, and the size of `T` must not be zero.
pub(crate) unsafe fn try_zeroed<T>() -> Option<Box<T>> {
    // SAFETY: the caller promises that the size is not zero.
    let memory = nested(|| unsafe { alloc_zeroed(Layout::new::<T>()) }, std::ptr::null_mut);
    let memory = NonNull::new(memory)?;
    // SAFETY: fresh memory with the layout of a `T`; the caller promises that zeros are a valid
    // one.
    Some(unsafe { Box::from_raw(memory.cast().as_ptr()) })
}

/// Many values side by side. The callers never free them.
pub(crate) fn try_many<T>(count: usize, make: impl Fn() -> T) -> Option<Box<[T]>> {
    let mut many = Vec::new();
    try_reserve(|| many.try_reserve_exact(count)).ok()?;
    // The capacity is exactly `count`, so that the conversion to a box does not reallocate.
    many.extend((0..count).map(|_| make()));
    Some(many.into_boxed_slice())
}

/// Memory for a value that has an address of its own, also where the size of the value is zero.
pub(crate) struct Room<T>(NonNull<T>);

impl<T> Room<T> {
    fn layout() -> Layout {
        let layout = Layout::new::<T>();
        if layout.size() > 0 { layout } else { Layout::from_size_align(1, layout.align()).unwrap_or(layout) }
    }

    pub(crate) fn new() -> Result<Self, Error> {
        // SAFETY: `layout` never has a size of zero.
        let memory = nested(|| unsafe { alloc(Self::layout()) }, std::ptr::null_mut);
        NonNull::new(memory.cast()).map(Self).ok_or_else(refused)
    }

    /// Moves the value in. The memory belongs to the value until [`Room::destroy`].
    pub(crate) fn fill(self, value: T) -> *mut T {
        let place = std::mem::ManuallyDrop::new(self).0.as_ptr();
        // SAFETY: memory with the layout of a `T`, which only this `Room` refers to.
        unsafe { place.write(value) };
        place
    }

    /// Drops the value and frees its memory, also where the value's destructor panics.
    ///
    /// # Safety
    /// `place` must come from [`Room::fill`] of the same type, and nothing may refer to it any
    /// more.
    pub(crate) unsafe fn destroy(place: *mut T) {
        // SAFETY: `fill` never returns null.
        let _freed_at_the_end = Self(unsafe { NonNull::new_unchecked(place) });
        // SAFETY: `fill` has moved a value in; the caller promises that nothing else refers to it.
        unsafe { place.drop_in_place() };
    }
}

impl<T> Drop for Room<T> {
    fn drop(&mut self) {
        // SAFETY: `new` has allocated this memory with this layout; it holds no value.
        unsafe { dealloc(self.0.as_ptr().cast(), Self::layout()) };
    }
}

/// The capacity that `now` has to grow to for `wanted` elements; `None` if it has room for them.
#[inline]
pub(crate) fn larger<T>(now: &Vec<T>, wanted: usize) -> Option<usize> {
    (now.capacity() < wanted).then(|| wanted.max(2 * now.capacity()).max(4))
}

/// An empty vector with that capacity.
pub(crate) fn try_vec<T>(capacity: usize) -> Result<Vec<T>, Error> {
    let mut vec = Vec::new();
    try_reserve(|| vec.try_reserve_exact(capacity))?;
    Ok(vec)
}

/// Moves the elements of `vec` to the larger `other`, and returns the vector that is to be freed.
/// It neither allocates nor frees.
pub(crate) fn move_to<T>(vec: &mut Vec<T>, mut other: Vec<T>) -> Vec<T> {
    // The allocator may have run code that has installed a still larger vector meanwhile.
    if other.capacity() > vec.capacity() {
        other.append(vec);
        std::mem::swap(vec, &mut other);
    }
    other
}
