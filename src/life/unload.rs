//! Empties a stack that goes on, and restores its exit: `unload`, `clear`, and `undo` after an
//! error.

use super::lent::lent_by_frames;
#[cfg(target_env = "gnu")]
use super::main_key;
use super::{lookup, safety_net};
use crate::base::error::Error;
use crate::exit::redirect;
use crate::record::header::Record;
use crate::storage::slot_table;

/// After an error, restores the exit of the running stack if it was armed for nothing.
#[cold]
pub(crate) fn undo(record: &'static Record, is_new: bool, error: Error) -> Error {
    // Not where the allocator, or a handler of an abandoned stack, has stored something meanwhile.
    if is_new && !record.is_draining() && record.is_empty() {
        disarm(record);
    }
    error
}

/// Drops the values and the handlers of the running stack, whose record this is. Restores its exit
/// if nothing is left and the stack does not drain. An error from inside a key's `Eq`.
pub(crate) fn unload(record: &'static Record) -> Result<(), Error> {
    record.may_change()?;
    forget_all(record)?;
    if record.is_draining() || !record.is_empty() {
        let before = record.id();
        record.renew_id();
        safety_net::update_id(record, before);
        #[cfg(target_env = "gnu")]
        main_key::update_id(record, before);
        return Ok(());
    }
    disarm(record);
    Ok(())
}

/// Drops the handlers and the values of the running stack, whose record this is.
pub(super) fn forget_all(record: &'static Record) -> Result<(), Error> {
    // A destructor that runs here may unload.
    let _kept_armed = record.keep_armed();
    record.forget_handlers();
    clear(record)
}

/// Restores the exit of the running stack, whose record this is. The record is empty, and does not
/// drain.
fn disarm(record: &'static Record) {
    invalidate_caches(record);
    // SAFETY: this is the running stack's record, and it is not draining.
    if lookup::locate_foot(record) && unsafe { redirect::plan::restore(record) } {
        record.release();
    } else {
        // The place of the word that must be restored is unknown. So the stack stays armed, with
        // nothing stored.
        let before = record.id();
        record.renew_id();
        safety_net::update_id(record, before);
    }
}

/// Destructors may have read cells after these were cleared.
pub(super) fn invalidate_caches(record: &Record) {
    if let Some(table) = record.slots() {
        slot_table::invalidate_caches(table);
    }
}

/// Drops all values of the running stack, whose record this is. An error from inside a key's `Eq`.
pub(crate) fn clear(record: &'static Record) -> Result<(), Error> {
    record.may_change()?;
    let _kept_armed = record.keep_armed();
    if record.has_had_values() {
        // Not for nothing: this may walk the stack.
        let lent = lent_by_frames(record);
        record.forget_values(|local| lent.may_include(local, record.base()));
    } else {
        record.drop_pending();
    }
    if let Some(table) = record.slots() {
        slot_table::clear(table);
    }
    Ok(())
}
