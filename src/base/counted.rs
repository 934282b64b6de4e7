//! Counted references whose initializing can fail: std's `Rc` and `Arc` end the process where there is no
//! memory.

use crate::base::alloc::try_box;
use std::cell::Cell;
use std::marker::PhantomData;
use std::mem::offset_of;
use std::ops::Deref;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering, fence};

/// A count of references: on one stack, or among threads.
pub(crate) trait Count {
    fn one() -> Self;
    fn get(&self) -> usize;
    fn add(&self);
    /// Whether that was the last one.
    fn subtract(&self) -> bool;
}

// No count overflows: at one a nanosecond that takes 292 years.

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
            // What the others did with the value comes before its end.
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

/// One that stays on its stack, and goes where that goes.
pub(crate) type OnStack<T> = Counted<Cell<usize>, T>;
/// One that threads share.
pub(crate) type AcrossThreads<T> = Counted<AtomicUsize, T>;

// SAFETY: the count is atomic; as for `Arc`, whoever has the last reference drops the value, and
// all may look at it.
unsafe impl<T: ?Sized + Send + Sync> Send for AcrossThreads<T> {}
// SAFETY: as above.
unsafe impl<T: ?Sized + Send + Sync> Sync for AcrossThreads<T> {}

// The value stays where it is when the reference moves.
impl<C: Count, T: ?Sized> Unpin for Counted<C, T> {}

impl<C: Count, T> Counted<C, T> {
    /// The first reference to a value, or the value back where there is no memory.
    #[inline]
    pub(crate) fn try_new(value: T) -> Result<Self, T> {
        match try_box(Inner { count: C::one(), value }) {
            Ok(inner) => Ok(Self::from_inner(NonNull::from(Box::leak(inner)))),
            Err(inner) => Err(inner.value),
        }
    }

    /// The address of the value, in place of this reference.
    pub(crate) fn into_raw(self) -> *const T {
        &raw const **std::mem::ManuallyDrop::new(self)
    }

    /// The reference that [`Counted::into_raw`] has let go of.
    ///
    /// # Safety
    /// `value` must come from there, and this be called once for it.
    pub(crate) unsafe fn from_raw(value: *const T) -> Self {
        // SAFETY: the value lies there in what `try_new` has made, which is not null.
        unsafe {
            let inner = value.byte_sub(offset_of!(Inner<C, T>, value)).cast::<Inner<C, T>>();
            Self::from_inner(NonNull::new_unchecked(inner.cast_mut()))
        }
    }

    /// The same reference, the value's type forgotten.
    ///
    /// # Safety
    /// `forget` must give the pointer that it takes, with another type that the value may be seen as.
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
        // SAFETY: this is a reference to it, so it is there.
        unsafe { &(*self.inner.as_ptr()).count }
    }

    /// Whether this is the same value as the other's.
    pub(crate) fn is(&self, other: &Self) -> bool {
        std::ptr::addr_eq(self.inner.as_ptr(), other.inner.as_ptr())
    }

    /// The value to change, if this is the only reference.
    pub(crate) fn get_mut(&mut self) -> Option<&mut T> {
        // SAFETY: as there is no other reference, and this one is borrowed, nobody else looks at
        // it.
        (self.count().get() == 1).then(|| unsafe { &mut (*self.inner.as_ptr()).value })
    }
}

impl<T: ?Sized> OnStack<T> {
    /// Makes this the only reference.
    ///
    /// # Safety
    /// All others must be in frames that do not go on, nor are unwound.
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
        // SAFETY: this is a reference to it, so it is there; who changes it has the only one.
        unsafe { &(*self.inner.as_ptr()).value }
    }
}

impl<C: Count, T: ?Sized> Drop for Counted<C, T> {
    #[inline]
    fn drop(&mut self) {
        if self.count().subtract() {
            // SAFETY: made by `try_new`, and that was the last reference to it.
            unsafe { destroy(self.inner) };
        }
    }
}

/// Not inlined: most references that are dropped are not the last.
///
/// # Safety
/// It must have been made by `try_new`, and there be no reference to it.
#[inline(never)]
unsafe fn destroy<C, T: ?Sized>(inner: NonNull<Inner<C, T>>) {
    // SAFETY: `try_new` makes boxes; and the caller's promise.
    drop(unsafe { Box::from_raw(inner.as_ptr()) });
}
