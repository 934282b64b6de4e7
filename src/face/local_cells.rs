//! Stack locals of `Cell` and `RefCell` values: get, set, take, replace.

use super::local::LocalKey;
use crate::storage::inline_cache::Block;
use std::cell::{Cell, RefCell};

impl<T: 'static> LocalKey<Cell<T>> {
    /// Sets the running stack's value. The initialiser does not run.
    ///
    /// # Panics
    /// As [`LocalKey::with`].
    #[inline]
    #[track_caller]
    pub fn set(&'static self, value: T) {
        if let Some(value) = self.start_with(Cell::new(value)) {
            drop(self.replace(value.into_inner()));
        }
    }

    /// A copy of the running stack's value. `T` is `Copy`, as in std: a `Clone` of yours could replace
    /// the value that is being cloned.
    ///
    /// # Panics
    /// As [`LocalKey::with`].
    #[inline]
    #[track_caller]
    pub fn get(&'static self) -> T
    where
        T: Copy,
    {
        let block = Block::here();
        match self.quick(block) {
            // SAFETY: a live value of this stack. Copying runs no code of yours.
            Some(value) => unsafe { (*value).get() },
            None => self.get_slowly(block),
        }
    }

    /// A tail call of the reader: a call for the value's address alone would have to return to it.
    /// So a function that only reads needs no frame.
    #[cold]
    #[inline(never)]
    #[track_caller]
    fn get_slowly(&'static self, block: Block) -> T
    where
        T: Copy,
    {
        // SAFETY: as in `get`.
        unsafe { (*self.slow_or_panic(block)).get() }
    }

    /// Takes the running stack's value, and leaves the default.
    ///
    /// # Panics
    /// As [`LocalKey::with`].
    #[inline]
    #[track_caller]
    pub fn take(&'static self) -> T
    where
        T: Default,
    {
        self.replace(T::default())
    }

    /// Replaces the running stack's value, and returns the one that was there.
    ///
    /// # Panics
    /// As [`LocalKey::with`].
    #[inline]
    #[track_caller]
    pub fn replace(&'static self, value: T) -> T {
        // SAFETY: as in `get`. The old value is moved out before other code can drop it.
        unsafe { (*self.value()).replace(value) }
    }
}

impl<T: 'static> LocalKey<RefCell<T>> {
    /// Calls `look` with the running stack's value borrowed.
    ///
    /// # Panics
    /// As [`LocalKey::with`], and if the value is mutably borrowed.
    #[inline]
    #[track_caller]
    pub fn with_borrow<R>(&'static self, look: impl FnOnce(&T) -> R) -> R {
        // Outside of the closure, so that the panic names the caller's place.
        match self.with(|cell| cell.try_borrow().map(|value| look(&value))) {
            Ok(result) => result,
            Err(_) => borrowed("mutably borrowed"),
        }
    }

    /// Calls `change` with the running stack's value mutably borrowed.
    ///
    /// # Panics
    /// As [`LocalKey::with`], and if the value is borrowed.
    #[inline]
    #[track_caller]
    pub fn with_borrow_mut<R>(&'static self, change: impl FnOnce(&mut T) -> R) -> R {
        match self.with(|cell| cell.try_borrow_mut().map(|mut value| change(&mut value))) {
            Ok(result) => result,
            Err(_) => borrowed("borrowed"),
        }
    }

    /// Sets the running stack's value. The initialiser does not run.
    ///
    /// # Panics
    /// As [`LocalKey::with`], and if the value is borrowed.
    #[track_caller]
    pub fn set(&'static self, value: T) {
        if let Some(value) = self.start_with(RefCell::new(value)) {
            drop(self.replace(value.into_inner()));
        }
    }

    /// Takes the running stack's value, and leaves the default.
    ///
    /// # Panics
    /// As [`LocalKey::with`], and if the value is borrowed.
    #[track_caller]
    pub fn take(&'static self) -> T
    where
        T: Default,
    {
        self.replace(T::default())
    }

    /// Replaces the running stack's value, and returns the one that was there.
    ///
    /// # Panics
    /// As [`LocalKey::with`], and if the value is borrowed.
    #[track_caller]
    pub fn replace(&'static self, value: T) -> T {
        match self.with(|cell| cell.try_borrow_mut().map(|mut old| std::mem::replace(&mut *old, value))) {
            Ok(old) => old,
            Err(_) => borrowed("borrowed"),
        }
    }
}

#[cold]
#[inline(never)]
#[track_caller]
fn borrowed(how: &str) -> ! {
    panic!("an outer frame of this stack has {how} this stack local's value")
}
