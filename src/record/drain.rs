//! The end of a record's contents: handlers run, values are dropped.
//!
//! `drain` is for the running stack. `drain_predecessor` and `drain_and_release_abandoned` are for
//! the record of an abandoned one.

use super::header::Record;
use super::stacks::STACKS;
use crate::base::cold::cold_path;
use crate::base::ending::Cause;
use crate::base::guard::isolated;
use crate::base::kind::Kind;
use crate::storage::borrow::Lent;
use crate::storage::handlers::Handlers;
use crate::storage::slot_table;
use crate::storage::values::{Removed, Values};
use std::cell::Cell;
use std::hint::black_box;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// The drains of abandoned stacks that are under way, or were left by a handler that never came
/// back.
static ABANDONED_DRAINS: AtomicUsize = AtomicUsize::new(0);

/// Whether an abandoned stack may be draining.
pub(crate) fn may_drain_abandoned() -> bool {
    ABANDONED_DRAINS.load(Ordering::Relaxed) != 0
}

thread_local! {
    /// The record whose handler begins. Only the handler's first instructions read it, so no fiber has
    /// moved to another thread since it was set.
    static OF_HANDLER: Cell<*const Record> = const { Cell::new(std::ptr::null()) };
}

/// Whether some handler calls [`of_handler`].
static IS_ASKED_FOR: AtomicBool = AtomicBool::new(false);

/// Makes [`of_handler`] right in handlers that begin from now on.
pub(crate) fn ask_for_record() {
    IS_ASKED_FOR.store(true, Ordering::Relaxed);
}

/// The record of the running handler, for code with which the handler begins.
pub(crate) fn of_handler() -> Option<&'static Record> {
    // SAFETY: null, or a record, which are never freed.
    unsafe { OF_HANDLER.get().as_ref() }
}

impl Record {
    /// Runs the handlers, last in first out, then drops the values, last set first, then clears the
    /// slots, until nothing is left, nor of the abandoned stack that was found when this one was
    /// armed.
    ///
    /// Called again from inside (by a handler that calls `exit`), it goes on where the outer call
    /// was.
    ///
    /// A value that is still `lent` is removed, so that no look-up finds it, and is never dropped.
    #[inline]
    pub(crate) fn drain(&self, lent: Lent) {
        self.set_draining();
        if self.reentrancy().get() > 0 || self.has_had_values() {
            cold_path();
            self.abandon_frames(lent);
        }
        loop {
            while let Some(handler) = self.change().ok().and_then(|mut own| own.handlers.pop()) {
                if IS_ASKED_FOR.load(Ordering::Relaxed) {
                    cold_path();
                    OF_HANDLER.set(self);
                }
                isolated(handler);
            }
            if !self.drop_last(lent) {
                return;
            }
        }
    }

    /// Drops the value that was set last. Where there is none, drops what else is left. Returns
    /// whether there was something.
    #[inline]
    fn drop_last(&self, lent: Lent) -> bool {
        self.has_had_values() && self.drop_last_value(lent)
            || self.slots().is_some_and(slot_table::clear)
            || self.finish_predecessor()
    }

    /// Drops the value that was set last. Returns whether there was one. Not inlined: many stacks
    /// have handlers and nothing else.
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

    /// Ends all uses of the record by outer frames, which do not go on: the stack was abandoned, or
    /// ends by `exit`, in an initialiser, a destructor, a handler, or a `with`. Their pending drops
    /// are done here.
    #[inline(never)]
    fn abandon_frames(&self, lent: Lent) {
        self.reentrancy().set(0);
        // SAFETY: this is the record's own stack, or the one that drains it. The frames that are
        // listed there do not go on.
        unsafe { (*self.contents.get()).initializing.set(std::ptr::null()) };
        if let Lent::Nothing = lent {
            // SAFETY: the frames are gone, or were abandoned together with what they had lent: see
            // [`Lent::Nothing`].
            let _ = self.change_values(|values| unsafe { values.abandon_frames() });
        }
        // Otherwise a `with` that `exit` has left behind keeps its reference to a keyed value,
        // which is therefore never dropped.
        self.drop_pending();
    }

    /// Drains the record of an abandoned stack, on the stack that has found it. Returns whether the
    /// record can be given back.
    ///
    /// A thread never abandons its stack: each of its ends is caught. Where a thread's stack is
    /// found gone, this is a child of `fork`, and the thread lives on in the parent, where its
    /// stack drains. Here its contents are forgotten, neither run nor dropped.
    #[must_use]
    pub(crate) fn drain_abandoned(&'static self, cause: Cause) -> bool {
        let whole = self.try_reset_access();
        if matches!(self.kind(), Kind::Thread | Kind::Main) {
            self.leak_contents();
        } else {
            // Handlers find by this which drain they belong to (`life/ending.rs`).
            let place = Cell::new(0_usize);
            // In this order, as `Record::description` reads the place first.
            self.set_cause(cause);
            self.set_drained_at(place.as_ptr().addr());
            ABANDONED_DRAINS.fetch_add(1, Ordering::Relaxed);
            self.drain(Lent::Nothing);
            ABANDONED_DRAINS.fetch_sub(1, Ordering::Relaxed);
            black_box(&place);
        }
        self.set_free();
        self.unlist();
        whole
    }

    /// Drains the record of an abandoned stack, and gives it back.
    pub(crate) fn drain_and_release_abandoned(&'static self, cause: Cause) {
        if self.drain_abandoned(cause) {
            STACKS.give(self);
        }
    }

    /// Drains the record of an abandoned stack that was found when this one was armed. If this
    /// stack is abandoned in turn, or ends, in the middle of that, the rest is drained with this
    /// record.
    pub(crate) fn drain_predecessor(&'static self, abandoned: &'static Record) {
        // Handlers may unload, but the code that arms is about to use this record.
        let _kept_armed = self.keep_armed();
        self.predecessor.store(std::ptr::from_ref(abandoned).cast_mut(), Ordering::Relaxed);
        self.finish_predecessor();
    }

    /// The record of an abandoned stack that this stack has found and is draining.
    #[cfg(all(test, target_os = "linux", target_arch = "x86_64"))]
    pub(crate) fn has_predecessor(&self) -> Option<&Record> {
        // SAFETY: null, or a record, which live for ever.
        unsafe { self.predecessor.load(Ordering::Acquire).as_ref() }
    }

    /// Goes on with the record of the abandoned stack, if there is one. Returns whether there was.
    #[inline]
    fn finish_predecessor(&self) -> bool {
        // SAFETY: null, or a record, which live for ever.
        let Some(found) = (unsafe { self.predecessor.load(Ordering::Relaxed).as_ref() }) else { return false };
        cold_path();
        let whole = found.drain_abandoned(Cause::Abandoned);
        // `predecessor` is unset before another stack can have that record: this stack may be
        // abandoned at any moment.
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
            std::mem::forget(std::mem::replace(&mut own.handlers, Handlers::new()));
            while let Some(value) = own.values.pop().or_else(|| own.values.pop_pending()) {
                std::mem::forget(value);
            }
        }
        if let Some(table) = self.slots() {
            slot_table::leak(table);
        }
    }
}
