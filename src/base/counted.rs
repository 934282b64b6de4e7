//! Reference counting whose allocation can fail: std's `Rc` and `Arc` end the process where there
//! is no memory.
//!
//! | type | count |
//! |---|---|
//! | [`OnStack`] | not atomic: all references stay on one stack |
//! | [`AcrossThreads`] | atomic: threads share the value |

use crate::base::alloc::try_box;
use std::cell::Cell;
use std::marker::PhantomData;
use std::mem::offset_of;
use std::ops::Deref;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering, fence};

/// A reference count: for one stack, or for many threads.
pub(crate) trait Count {
    fn one() -> Self;
    fn get(&self) -> usize;
    fn add(&self);
    /// Returns whether that was the last reference.
    fn subtract(&self) -> bool;
}

// No count overflows: with one more reference every nanosecond that takes 292 years.

impl Count for Cell<usize> {
    fn one() -> Self {
        Self::new(1)
    }

    #[inline]
    fn get(&self) -> usize {
        self.get()
    }

    #[inline]
    fn add(&self) {
        self.set(self.get() + 1);
    }

    #[inline]
    fn subtract(&self) -> bool {
        self.set(self.get() - 1);
        self.get() == 0
    }
}

impl Count for AtomicUsize {
    fn one() -> Self {
        Self::new(1)
    }

    #[inline]
    fn get(&self) -> usize {
        self.load(Ordering::Acquire)
    }

    #[inline]
    fn add(&self) {
        self.fetch_add(1, Ordering::Relaxed);
    }

    #[inline]
    fn subtract(&self) -> bool {
        let last = self.fetch_sub(1, Ordering::Release) == 1;
        if last {
            // The other threads' accesses to the value happen before it is dropped.
            fence(Ordering::Acquire);
        }
        last
    }
}

#[repr(C)]
pub(crate) struct Inner<C, T: ?Sized> {
    count: C,
    value: T,
}

/// A counted reference.
pub(crate) struct Counted<C: Count, T: ?Sized> {
    inner: NonNull<Inner<C, T>>,
    owns: PhantomData<Inner<C, T>>,
}

/// A reference that stays on its stack, and moves with that from thread to thread.
pub(crate) type OnStack<T> = Counted<Cell<usize>, T>;
/// A reference that threads share.
pub(crate) type AcrossThreads<T> = Counted<AtomicUsize, T>;

// SAFETY: the count is atomic. As with `Arc`, all threads may read the value (`Sync`), and the
// thread with the last reference drops it (`Send`).
unsafe impl<T: ?Sized + Send + Sync> Send for AcrossThreads<T> {}
// SAFETY: as above.
unsafe impl<T: ?Sized + Send + Sync> Sync for AcrossThreads<T> {}

// The value does not move when the reference does.
impl<C: Count, T: ?Sized> Unpin for Counted<C, T> {}

impl<C: Count, T> Counted<C, T> {
    /// The first reference to a value; the value itself where there is no memory.
    #[inline]
    pub(crate) fn try_new(value: T) -> Result<Self, T> {
        match try_box(Inner { count: C::one(), value }) {
            Ok(inner) => Ok(Self::from_inner(NonNull::from(Box::leak(inner)))),
            Err(inner) => Err(inner.value),
        }
    }

    /// Turns this reference into the address of the value.
    pub(crate) fn into_raw(self) -> *const T {
        &raw const **std::mem::ManuallyDrop::new(self)
    }

    /// Turns an address that [`Counted::into_raw`] has returned into the reference again.
    ///
    /// # Safety
    /// `value` must come from [`Counted::into_raw`], and this function must be called once for it.
    pub(crate) unsafe fn from_raw(value: *const T) -> Self {
        // SAFETY: the value is the field of an `Inner` that `try_new` has allocated, which is not
        // null.
        unsafe {
            let inner = value.byte_sub(offset_of!(Inner<C, T>, value)).cast::<Inner<C, T>>();
            Self::from_inner(NonNull::new_unchecked(inner.cast_mut()))
        }
    }

    /// The same reference with the value's type erased.
    ///
    /// # Safety
    /// `forget` must return the pointer that it takes, as one to another type that the value is
    /// valid as.
    #[inline]
    pub(crate) unsafe fn unsize<U: ?Sized>(
        self,
        forget: impl FnOnce(NonNull<Inner<C, T>>) -> NonNull<Inner<C, U>>,
    ) -> Counted<C, U> {
        Counted::from_inner(forget(std::mem::ManuallyDrop::new(self).inner))
    }
}

impl<C: Count, T: ?Sized> Counted<C, T> {
    #[inline]
    fn from_inner(inner: NonNull<Inner<C, T>>) -> Self {
        Self { inner, owns: PhantomData }
    }

    #[inline]
    fn count(&self) -> &C {
        // SAFETY: this reference keeps the `Inner` alive.
        unsafe { &(*self.inner.as_ptr()).count }
    }

    /// Whether both references are to the same value.
    pub(crate) fn is(&self, other: &Self) -> bool {
        std::ptr::addr_eq(self.inner.as_ptr(), other.inner.as_ptr())
    }

    /// The value, mutable, if this is the only reference.
    pub(crate) fn get_mut(&mut self) -> Option<&mut T> {
        // SAFETY: there is no other reference, and this one is mutably borrowed, so nothing else
        // reads the value.
        (self.count().get() == 1).then(|| unsafe { &mut (*self.inner.as_ptr()).value })
    }
}

impl<T: ?Sized> OnStack<T> {
    /// Makes this the only reference.
    ///
    /// # Safety
    /// All other references must be in frames that neither continue nor are unwound.
    pub(crate) unsafe fn forget_others(&self) {
        self.count().set(1);
    }
}

impl<C: Count, T: ?Sized> Clone for Counted<C, T> {
    #[inline]
    fn clone(&self) -> Self {
        self.count().add();
        Self::from_inner(self.inner)
    }
}

impl<C: Count, T: ?Sized> Deref for Counted<C, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: this reference keeps the value alive. `get_mut` changes it only where there is no
        // other reference.
        unsafe { &(*self.inner.as_ptr()).value }
    }
}

impl<C: Count, T: ?Sized> Drop for Counted<C, T> {
    #[inline]
    fn drop(&mut self) {
        if self.count().subtract() {
            // SAFETY: `try_new` has made it, and this was the last reference.
            unsafe { destroy(self.inner) };
        }
    }
}

/// Frees the value. Not inlined: most references that are dropped are not the last.
///
/// # Safety
/// `try_new` must have made it, and there must be no reference to it.
#[inline(never)]
unsafe fn destroy<C, T: ?Sized>(inner: NonNull<Inner<C, T>>) {
    // SAFETY: `try_new` has made a box of it; the caller promises that there is no reference.
    drop(unsafe { Box::from_raw(inner.as_ptr()) });
}
