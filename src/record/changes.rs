//! Adds to a record's contents (`push`, `room_for`, `slots_or_new`), and drops them while the stack
//! goes on (`forget_handlers`, `forget_values`, `drop_pending`).

use super::contents::Contents;
use super::header::Record;
use crate::base::alloc::{refused, try_vec};
use crate::base::cold::cold_path;
use crate::base::error::Error;
use crate::base::guard::isolated;
use crate::storage::handlers::Handler;
use crate::storage::slot_table::{self, Table};
use crate::storage::values::{Addition, LocalValue, Values};
use std::sync::atomic::Ordering;

impl Record {
    /// Its dynamic slots, allocated on first use.
    pub(crate) fn slots_or_new(&self) -> Result<&Table, Error> {
        if let Some(table) = self.slots() {
            return Ok(table);
        }
        let table = slot_table::new_table().ok_or_else(refused)?;
        // Only the stack itself gets here. The allocator may have done so meanwhile: then that
        // table stays.
        if self.slots().is_none() {
            self.slots.store(Box::leak(table), Ordering::Release);
        }
        self.slots().ok_or_else(refused)
    }

    /// Registers a handler, and returns the number of this registration; or returns the handler with
    /// the error. Not inlined: each call that comes from a
    /// user's crate goes through a table of addresses, which is slow where indirect branches are
    /// not predicted (against Spectre). This makes one such call of two.
    #[inline(never)]
    pub(crate) fn push(&self, handler: Handler) -> Result<u64, (Error, Handler)> {
        if let Err(error) = self.room_for_handler() {
            return Err((error, handler));
        }
        match self.change_handlers() {
            // Within the capacity: the allocator, which may be user code, does not run in a change.
            Ok(mut handlers) => {
                let number = self.fresh_id();
                handlers.push(number, handler);
                Ok(number)
            }
            Err(error) => Err((error, handler)),
        }
    }

    /// Takes back the handler with this number. `None` if it is not there: it runs or has run, was
    /// dropped or taken back, or belongs to another stack.
    pub(crate) fn take_back(&self, number: u64) -> Option<Handler> {
        let mut change = self.change_handlers().ok()?;
        let (handlers, gaps) = change.with_gaps();
        handlers.take(number, gaps)
    }

    /// Makes room for one more handler.
    #[inline]
    fn room_for_handler(&self) -> Result<(), Error> {
        // SAFETY: this is the record's own stack. A change that a signal handler has interrupted is
        // refused by `change_handlers` below.
        let handlers = || unsafe { &(*self.contents.get()).handlers };
        while let Some(capacity) = handlers().new_capacity() {
            cold_path();
            let _kept_armed = self.keep_armed();
            let larger_vec = try_vec(capacity)?;
            // The old memory is freed after the change.
            let _free = self.change_handlers()?.move_to(larger_vec);
        }
        Ok(())
    }

    /// Makes room for this addition, so that the change which adds it does not allocate.
    pub(crate) fn room_for(&self, addition: Addition) -> Result<(), Error> {
        loop {
            let capacities = self.read_values(|values| values.new_capacities(addition)).ok_or(Error::Busy)?;
            if capacities.is_empty() {
                return Ok(());
            }
            cold_path();
            // The allocator may be user code, and unload.
            let _kept_armed = self.keep_armed();
            let tables = capacities.allocate()?;
            let _free = self.change_values(|values| values.move_to(tables))?;
        }
    }

    /// Forgets the handlers without running them. They are dropped here, the first one first.
    pub(crate) fn forget_handlers(&self) {
        let _kept_armed = self.keep_armed();
        // SAFETY: this is the record's own stack, and no code changes the record while the
        // reference lives.
        let count = || unsafe { (*self.contents.get()).handlers.len_with_gaps() };
        // A single one leaves none to be kept meanwhile.
        let pending = count() > 1 && self.defer(count, |own| own.values.defer_handlers(&mut own.handlers));
        for _ in 0..if pending { 0 } else { count() } {
            // Without memory for pending drops they go one by one.
            let first = self.change_handlers().ok().and_then(|mut handlers| handlers.take_first());
            isolated(|| drop(first));
        }
        self.drop_pending();
    }

    /// Drops all values, last set first, except those for which `keep` is true.
    pub(crate) fn forget_values(&self, keep: impl Fn(&LocalValue) -> bool) {
        let _kept_armed = self.keep_armed();
        if !self.defer(|| 0, |own| own.values.defer_all(&keep)) {
            let mut index = self.read_values(Values::len_with_gaps).unwrap_or(0);
            while let Ok(Some(taken)) = self.change_values(|values| values.take_before(&mut index, &keep)) {
                isolated(|| taken.drop_now(self));
            }
        }
        self.drop_pending();
    }

    /// Makes room for pending drops, and moves to them what `defer` moves. Returns whether that was
    /// done: not without memory.
    fn defer(&self, handlers: impl Fn() -> usize, defer: impl Fn(&mut Contents) -> bool) -> bool {
        loop {
            if self.room_for(Addition::PendingDrops(handlers())).is_err() {
                return false;
            }
            match self.change() {
                // The allocator may have added some.
                Ok(mut own) => {
                    if defer(&mut own) {
                        return true;
                    }
                }
                Err(_) => return false,
            }
        }
    }

    /// Drops what is pending.
    pub(crate) fn drop_pending(&self) {
        let _kept_armed = self.keep_armed();
        while let Ok(Some(pending)) = self.change_values(Values::pop_pending) {
            isolated(|| pending.drop_now(self));
        }
    }

    /// Whether there is a value, or a gap that one has left.
    pub(crate) fn has_had_values(&self) -> bool {
        // SAFETY: this is the record's own stack, and no code changes the record while the reference
        // lives.
        unsafe { (*self.contents.get()).values.has_had_values() }
    }

    /// Whether nothing is stored here, and no outer frame goes on to use the record.
    pub(crate) fn is_empty(&self) -> bool {
        self.read_values(Values::is_empty).unwrap_or(false)
            // SAFETY: this is the record's own stack, and no code changes it now.
            && unsafe { &(*self.contents.get()).handlers }.is_empty()
            && self.reentrancy().get() == 0
            && self.slots().is_none_or(slot_table::is_empty)
    }
}
