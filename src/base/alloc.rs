//! Memory that may not be there. What std allocates ends the process where there is none; what is
//! here says so.
//!
//! The allocator may be the program's own code, and use storage itself. So nothing of a record is
//! half done while one of these functions runs: whoever calls them looks again afterwards at what
//! may have changed. An allocator that uses storage in every call would come back here without end,
//! so calls nest to a certain depth only ([`DEEPEST`]).

use crate::base::error::Error;
use std::alloc::{Layout, alloc, alloc_zeroed, dealloc};
use std::cell::Cell;
use std::ptr::NonNull;

/// How many calls of the allocator that are made here may be within each other on one thread. An
/// allocator that keeps itself from coming back when it uses storage takes two. Each takes some KiB
/// of stack.
const DEEPEST: u32 = 3;

thread_local! {
    /// In how many of them this thread is.
    static DEPTH: Cell<u32> = const { Cell::new(0) };
}

/// Calls the allocator, or gives what `refuse` gives where this thread is in too many such calls.
#[inline]
fn nested<R>(allocate: impl FnOnce() -> R, refuse: impl FnOnce() -> R) -> R {
    DEPTH.with(|depth| {
        if depth.get() == DEEPEST {
            return refuse();
        }
        depth.set(depth.get() + 1);
        let result = allocate();
        depth.set(depth.get() - 1);
        result
    })
}

/// The error of an allocation that has just failed on this thread.
#[cold]
pub(crate) fn refused() -> Error {
    if DEPTH.get() == DEEPEST { Error::Reentered } else { Error::OutOfMemory }
}

/// Lets a collection of std's or of hashbrown's reserve memory by `reserve`.
pub(crate) fn try_reserve<E>(reserve: impl FnOnce() -> Result<(), E>) -> Result<(), Error> {
    nested(|| reserve().ok(), || None).ok_or_else(refused)
}

/// A value in a box, or the value back.
#[inline]
pub(crate) fn try_box<T>(value: T) -> Result<Box<T>, T> {
    if size_of::<T>() == 0 {
        return Ok(Box::new(value));
    }
    // SAFETY: not of size zero.
    let memory = nested(|| unsafe { alloc(Layout::new::<T>()) }, std::ptr::null_mut).cast::<T>();
    if memory.is_null() {
        return Err(value);
    }
    // SAFETY: fresh memory of this layout, which is that of a box.
    unsafe {
        memory.write(value);
        Ok(Box::from_raw(memory))
    }
}

/// A box of zeroes.
///
/// # Safety
/// All zeroes must be a valid `T`, which must not be of size zero.
pub(crate) unsafe fn try_zeroed<T>() -> Option<Box<T>> {
    // SAFETY: the caller's promises.
    let memory = nested(|| unsafe { alloc_zeroed(Layout::new::<T>()) }, std::ptr::null_mut);
    let memory = NonNull::new(memory)?;
    // SAFETY: as above.
    Some(unsafe { Box::from_raw(memory.cast().as_ptr()) })
}

/// Many values side by side, which are never freed.
pub(crate) fn try_many<T>(count: usize, make: impl Fn() -> T) -> Option<Box<[T]>> {
    let mut many = Vec::new();
    try_reserve(|| many.try_reserve_exact(count)).ok()?;
    // There is room for all of them, and for no more: a box needs no other memory.
    many.extend((0..count).map(|_| make()));
    Some(many.into_boxed_slice())
}

/// Room for a value that has an address of its own, also where it is of size zero.
pub(crate) struct Room<T>(NonNull<T>);

impl<T> Room<T> {
    fn layout() -> Layout {
        let layout = Layout::new::<T>();
        if layout.size() > 0 { layout } else { Layout::from_size_align(1, layout.align()).unwrap_or(layout) }
    }

    pub(crate) fn new() -> Result<Self, Error> {
        // SAFETY: never of size zero.
        let memory = nested(|| unsafe { alloc(Self::layout()) }, std::ptr::null_mut);
        NonNull::new(memory.cast()).map(Self).ok_or_else(refused)
    }

    /// Moves the value in. The room is the value's from now on, until [`Room::destroy`].
    pub(crate) fn fill(self, value: T) -> *mut T {
        let place = std::mem::ManuallyDrop::new(self).0.as_ptr();
        // SAFETY: memory of this value's layout, which nobody else has.
        unsafe { place.write(value) };
        place
    }

    /// Drops the value and frees its room, also where the value's destructor panics.
    ///
    /// # Safety
    /// `place` must come from [`Room::fill`] of the same type, and nobody may use it any more.
    pub(crate) unsafe fn destroy(place: *mut T) {
        // SAFETY: what `fill` gives is not null.
        let _freed_at_the_end = Self(unsafe { NonNull::new_unchecked(place) });
        // SAFETY: a value that `fill` has moved in, and the caller's promise.
        unsafe { place.drop_in_place() };
    }
}

impl<T> Drop for Room<T> {
    fn drop(&mut self) {
        // SAFETY: allocated by `new` with this layout, and no value is in it.
        unsafe { dealloc(self.0.as_ptr().cast(), Self::layout()) };
    }
}

/// The capacity that `now` has to grow to for `wanted` elements; `None` if there is room.
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

/// Moves what is in `vec` to the larger `other`, and gives back what is to be freed. It neither
/// allocates nor frees.
pub(crate) fn move_to<T>(vec: &mut Vec<T>, mut other: Vec<T>) -> Vec<T> {
    // Somebody may have been here meanwhile, with a larger one still.
    if other.capacity() > vec.capacity() {
        other.append(vec);
        std::mem::swap(vec, &mut other);
    }
    other
}
