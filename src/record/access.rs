//! Access to a record's contents: like a `RefCell`, but for signal handlers as well.
//!
//! `read_values` reads; `change` and `change_values` change; `compare` finds what is to be changed
//! next; `keep_armed` keeps an inner frame's `unload` from releasing the record. Only compiler
//! fences are needed: all of these run on the record's own stack.

use super::contents::Contents;
use super::header::Record;
use crate::base::cold::cold_path;
use crate::base::error::Error;
use crate::base::guard::OnDrop;
use crate::storage::handlers::Handlers;
use crate::storage::values::Values;
use std::cell::Cell;
use std::sync::atomic::Ordering;

impl Record {
    /// Reads the values, also inside a key's `Eq`; `None` while a change of them is under way, which
    /// only a signal handler can see.
    pub(crate) fn read_values<R>(&self, read: impl FnOnce(&Values) -> R) -> Option<R> {
        let contents = self.contents.get();
        // SAFETY: this is the record's own stack. `access` says whether a change is under way in an
        // outer frame.
        let access = unsafe { &(*contents).access };
        let before = access.get();
        if before == CHANGING {
            return None;
        }
        // A comparison in an outer frame reads as well, and lets nothing change.
        access.set(if before == COMPARING { COMPARING } else { before + 1 });
        let _done = OnDrop(|| access.set(before));
        // SAFETY: as above. `change` refuses while `access` is not zero.
        Some(read(unsafe { &(*contents).values }))
    }

    /// Begins a change of handlers and values; an error from inside a key's `Eq`.
    pub(super) fn change(&self) -> Result<Change<'_>, Error> {
        let contents = self.contents.get();
        // SAFETY: as in `read_values`.
        let access = unsafe { &(*contents).access };
        if access.get() != 0 {
            cold_path();
            return Err(Error::Busy);
        }
        access.set(CHANGING);
        std::sync::atomic::compiler_fence(Ordering::SeqCst);
        Ok(Change { record: self })
    }

    /// Begins a change of the handlers. This is allowed inside a key's `Eq` as well, which compares
    /// values. An error only for a signal handler that has interrupted a change.
    #[inline]
    pub(super) fn change_handlers(&self) -> Result<HandlersChange<'_>, Error> {
        // SAFETY: as in `read_values`.
        let access = unsafe { &(*self.contents.get()).access };
        let before = access.get();
        if before == CHANGING {
            cold_path();
            return Err(Error::Busy);
        }
        access.set(CHANGING);
        std::sync::atomic::compiler_fence(Ordering::SeqCst);
        Ok(HandlersChange { record: self, before })
    }

    /// Finds what is to be changed next; an error from inside a key's `Eq`. This may run a key's
    /// `Eq`, which a change may not.
    pub(crate) fn compare<R>(&self, find: impl FnOnce(&Values) -> R) -> Result<R, Error> {
        let contents = self.contents.get();
        // SAFETY: as in `read_values`.
        let access = unsafe { &(*contents).access };
        if access.get() != 0 {
            return Err(Error::Busy);
        }
        access.set(COMPARING);
        let _done = OnDrop(|| access.set(0));
        // SAFETY: as in `read_values`.
        Ok(find(unsafe { &(*contents).values }))
    }

    /// Refuses a change from inside a key's `Eq`.
    pub(crate) fn may_change(&self) -> Result<(), Error> {
        // SAFETY: as in `read_values`.
        if unsafe { &(*self.contents.get()).access }.get() == 0 { Ok(()) } else { Err(Error::Busy) }
    }

    /// Changes the values.
    pub(crate) fn change_values<R>(&self, change: impl FnOnce(&mut Values) -> R) -> Result<R, Error> {
        let mut own = self.change()?;
        Ok(change(&mut own.values))
    }

    /// Ends an access whose frames do not go on: the stack was abandoned, or ends by `exit`, in a
    /// key's `Eq`, where no change is half done. Returns whether that is so.
    ///
    /// Only the parent of this process can have left a change half done, on a thread that does not
    /// exist here; or a signal handler that ends the stack. Then this returns `false` and changes
    /// nothing: the record must not be used again.
    pub(crate) fn try_reset_access(&self) -> bool {
        // SAFETY: the record's stack does not go on there, so only this code uses the contents.
        let access = unsafe { &(*self.contents.get()).access };
        let whole = access.get() != CHANGING;
        if whole {
            access.set(0);
        }
        whole
    }

    pub(super) fn reentrancy(&self) -> &Cell<u32> {
        // SAFETY: this is the record's own stack, and no code changes the record while the
        // reference lives.
        unsafe { &(*self.contents.get()).reentrancy }
    }

    /// Until the result is dropped, an `unload` does not release the record. For code that goes on
    /// to use the record after user code has run.
    pub(crate) fn keep_armed(&self) -> KeptArmed<'_> {
        self.reentrancy().set(self.reentrancy().get() + 1);
        KeptArmed(self)
    }
}

/// Keeps a record from being released; see [`Record::keep_armed`].
pub(crate) struct KeptArmed<'r>(&'r Record);

impl Drop for KeptArmed<'_> {
    fn drop(&mut self) {
        let reentrancy = self.0.reentrancy();
        reentrancy.set(reentrancy.get() - 1);
    }
}

/// A change is under way; or a comparison, with a change to follow.
const CHANGING: u32 = u32::MAX;
const COMPARING: u32 = CHANGING - 1;

/// A change under way. It ends when this is dropped, also by a panic.
pub(super) struct Change<'r> {
    record: &'r Record,
}

impl std::ops::Deref for Change<'_> {
    type Target = Contents;
    fn deref(&self) -> &Contents {
        // SAFETY: while `access` is `CHANGING`, only this value reaches the contents.
        unsafe { &*self.record.contents.get() }
    }
}

impl std::ops::DerefMut for Change<'_> {
    fn deref_mut(&mut self) -> &mut Contents {
        // SAFETY: as above.
        unsafe { &mut *self.record.contents.get() }
    }
}

impl Drop for Change<'_> {
    fn drop(&mut self) {
        std::sync::atomic::compiler_fence(Ordering::SeqCst);
        self.access.set(0);
    }
}

/// A change of the handlers under way. It ends when this is dropped.
pub(super) struct HandlersChange<'r> {
    record: &'r Record,
    /// The reads or the comparison under way in outer frames, which borrow the values alone.
    before: u32,
}

impl HandlersChange<'_> {
    /// The handlers, and the number of gaps that they have.
    pub(super) fn with_gaps(&mut self) -> (&mut Handlers, &mut usize) {
        let contents = self.record.contents.get();
        // SAFETY: while `access` is `CHANGING`, only this value reaches these two fields.
        unsafe { (&mut (*contents).handlers, &mut (*contents).handler_gaps) }
    }
}

impl std::ops::Deref for HandlersChange<'_> {
    type Target = Handlers;
    fn deref(&self) -> &Handlers {
        // SAFETY: as above.
        unsafe { &(*self.record.contents.get()).handlers }
    }
}

impl std::ops::DerefMut for HandlersChange<'_> {
    fn deref_mut(&mut self) -> &mut Handlers {
        self.with_gaps().0
    }
}

impl Drop for HandlersChange<'_> {
    fn drop(&mut self) {
        std::sync::atomic::compiler_fence(Ordering::SeqCst);
        // SAFETY: as in `read_values`.
        unsafe { &(*self.record.contents.get()).access }.set(self.before);
    }
}
