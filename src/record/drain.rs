//! The end of a record's contents: handlers run, values are dropped.

use super::header::Record;
use super::stacks::STACKS;
use crate::base::guard::isolated;
use crate::base::kind::Kind;
use crate::storage::borrow::Lent;
use crate::storage::slot_table;
use crate::storage::values::{Removed, Values};
use std::hint::cold_path;
use std::sync::atomic::Ordering;

impl Record {
    /// Runs the handlers, last in first out, then drops the values, last set first, then clears the slots, until nothing
    /// is left, nor of what was found when the stack was armed.
    ///
    /// Called again from inside (a handler that calls `exit`), it goes on where the outer call was.
    ///
    /// What is still `lent` is taken away, so that nobody else finds it, and never dropped.
    #[inline]
    pub(crate) fn drain(&self, lent: Lent) {
        self.set_draining();
        // SAFETY: this is the record's own stack, and nobody changes the record while this is looked at.
        if self.reentrancy().get() > 0 || unsafe { (*self.contents.get()).values.has_had_values() } {
            cold_path();
            self.abandon_frames(lent);
        }
        loop {
            while let Some(handler) = self.change().ok().and_then(|mut own| own.handlers.pop()) {
                isolated(handler);
            }
            if !self.drop_last(lent) {
                return;
            }
        }
    }

    /// Drops the value that was set last; where there is none, what else is left. Whether there was something.
    #[inline]
    fn drop_last(&self, lent: Lent) -> bool {
        // SAFETY: as in `drain`.
        let may_have_some = unsafe { (*self.contents.get()).values.has_had_values() };
        may_have_some && self.drop_last_value(lent)
            || self.slots().is_some_and(slot_table::clear)
            || self.finish_predecessor()
    }

    /// Drops the value that was set last. Whether there was one. Not inlined: many stacks have handlers and nothing else.
    #[inline(never)]
    fn drop_last_value(&self, lent: Lent) -> bool {
        let Ok(Some(value)) = self.change_values(Values::pop) else { return false };
        if matches!(&value, Removed::Local(local) if lent.may_include(local, self.base())) {
            cold_path();
        } else if value.is_plain() {
            drop(value);
        } else {
            isolated(|| value.drop_now(self));
        }
        true
    }

    /// The code of its stack that was using the record does not come back: the stack was abandoned,
    /// or ends by `exit`, in an initialiser, a destructor, a handler, or a `with`. What it had
    /// still to drop is dropped.
    #[inline(never)]
    fn abandon_frames(&self, lent: Lent) {
        self.reentrancy().set(0);
        // SAFETY: as in `initializing`; the frames that are listed there do not go on.
        unsafe { (*self.contents.get()).initializing.set(std::ptr::null()) };
        if let Lent::Nothing = lent {
            // SAFETY: the frames are gone, or were abandoned together with what they had lent:
            // `Lent` says who promises that.
            let _ = self.change_values(|values| unsafe { values.abandon_frames() });
        }
        // Else a `with` that `exit` has left behind keeps its reference to a keyed value, which is
        // never dropped so.
        self.drop_pending();
    }

    /// Drains the record of an abandoned stack on the stack that found it so. Whether it can be given back.
    ///
    /// A thread does not abandon its stack, all its ends are seen. Where one is found gone, this is a child of `fork`, and
    /// the thread lives on in the parent: there it drains. Here what it stored is forgotten, neither run nor dropped.
    #[must_use]
    pub(crate) fn drain_abandoned(&'static self) -> bool {
        let whole = self.try_reset_access();
        if matches!(self.kind(), Kind::Thread | Kind::Main) {
            self.leak_contents();
        } else {
            self.drain(Lent::Nothing);
        }
        self.set_free();
        self.unlist();
        whole
    }

    /// The same, and gives it back.
    pub(crate) fn drain_and_release_abandoned(&'static self) {
        if self.drain_abandoned() {
            STACKS.give(self);
        }
    }

    /// Drains the record of an abandoned stack that was found when this one was armed. Where that is abandoned in turn, or
    /// ends, in the middle of it, the rest is drained with this record.
    pub(crate) fn drain_predecessor(&'static self, abandoned: &'static Record) {
        // Handlers may unload; but whoever arms is about to use this record.
        let _kept_armed = self.keep_armed();
        self.predecessor.store(std::ptr::from_ref(abandoned).cast_mut(), Ordering::Relaxed);
        self.finish_predecessor();
    }

    /// The record of an abandoned stack that this one's has found and is draining.
    #[cfg(all(test, target_os = "linux", target_arch = "x86_64"))]
    pub(crate) fn has_predecessor(&self) -> Option<&Record> {
        // SAFETY: null, or a record, which live for ever.
        unsafe { self.predecessor.load(Ordering::Acquire).as_ref() }
    }

    /// Goes on with the record of the stack that was found abandoned, if there is one. Whether there was.
    #[inline]
    fn finish_predecessor(&self) -> bool {
        // SAFETY: null, or a record, which live for ever.
        let Some(found) = (unsafe { self.predecessor.load(Ordering::Relaxed).as_ref() }) else { return false };
        cold_path();
        let whole = found.drain_abandoned();
        // It is forgotten here before another stack can have it: this one may be abandoned at any moment.
        self.predecessor.store(std::ptr::null_mut(), Ordering::Release);
        if whole {
            STACKS.give(found);
        }
        true
    }

    fn leak_contents(&self) {
        self.predecessor.store(std::ptr::null_mut(), Ordering::Relaxed);
        if let Ok(mut own) = self.change() {
            own.reentrancy.set(0);
            own.initializing.set(std::ptr::null());
            std::mem::forget(std::mem::take(&mut own.handlers));
            while let Some(value) = own.values.pop().or_else(|| own.values.pop_pending()) {
                std::mem::forget(value);
            }
        }
        if let Some(table) = self.slots() {
            slot_table::leak(table);
        }
    }
}
