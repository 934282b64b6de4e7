//! Who may use a record's contents: like a `RefCell`, but for signal handlers as well.

use super::contents::Contents;
use super::header::Record;
use crate::base::error::Error;
use crate::base::guard::OnDrop;
use crate::storage::values::Values;
use std::cell::Cell;
use std::hint::cold_path;
use std::sync::atomic::Ordering;

impl Record {
    /// Looks at the values; `None` while a change of them is under way, which only a signal handler can see.
    pub(crate) fn read_values<R>(&self, read: impl FnOnce(&Values) -> R) -> Option<R> {
        let contents = self.contents.get();
        // SAFETY: this is the record's own stack, and `access` tells whether a change is under way further up on it.
        let access = unsafe { &(*contents).access };
        if access.get() >= COMPARING {
            return None;
        }
        access.set(access.get() + 1);
        let _done = OnDrop(|| access.set(access.get() - 1));
        // SAFETY: as above; changes are refused while `access` is not zero.
        Some(read(unsafe { &(*contents).values }))
    }

    /// Changes handlers and values; an error from inside a key's `Eq`.
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

    /// Looks for what is to be changed next; an error from inside a key's `Eq`, which this may run, and a change may not.
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

    /// Changes the values.
    pub(crate) fn change_values<R>(&self, change: impl FnOnce(&mut Values) -> R) -> Result<R, Error> {
        let mut own = self.change()?;
        Ok(change(&mut own.values))
    }

    /// The code of its stack that was looking at the values does not come back: the stack was abandoned, or ends by `exit`, in
    /// a key's `Eq`, where nothing is half done.
    ///
    /// In a change it can only have been left by the parent of this process, on a thread that is not here; that stays, and
    /// nobody may use the record again. Then this is false.
    pub(crate) fn try_reset_access(&self) -> bool {
        // SAFETY: its stack does not go on there, so this is the only code that uses the record's own part.
        let access = unsafe { &(*self.contents.get()).access };
        let whole = access.get() != CHANGING;
        if whole {
            access.set(0);
        }
        whole
    }

    pub(super) fn reentrancy(&self) -> &Cell<u32> {
        // SAFETY: this is the record's own stack, and nobody changes the record while this is looked at.
        unsafe { &(*self.contents.get()).reentrancy }
    }

    /// While what this gives lives, an `unload` leaves the record to its stack: for those who go on to use it when code of
    /// the user's has run.
    pub(crate) fn keep_armed(&self) -> KeptArmed<'_> {
        self.reentrancy().set(self.reentrancy().get() + 1);
        KeptArmed(self)
    }
}

/// Says that somebody uses a record; see [`Record::keep_armed`].
pub(crate) struct KeptArmed<'r>(&'r Record);

impl Drop for KeptArmed<'_> {
    fn drop(&mut self) {
        let reentrancy = self.0.reentrancy();
        reentrancy.set(reentrancy.get() - 1);
    }
}

/// Something is being changed; or compared, to be changed next.
const CHANGING: u32 = u32::MAX;
const COMPARING: u32 = CHANGING - 1;

/// A change under way; it ends when this is dropped, also by a panic.
pub(super) struct Change<'r> {
    record: &'r Record,
}

impl std::ops::Deref for Change<'_> {
    type Target = Contents;
    fn deref(&self) -> &Contents {
        // SAFETY: `access` makes this the only one that uses the record's own part.
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
