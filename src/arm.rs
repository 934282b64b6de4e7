//! From the running stack to its record: find it, or arm the stack.

use crate::arch::{self, Registers};
use crate::error::Error;
use crate::foot::{self, Bottom, Foot};
use crate::record::Record;
use crate::redirect;
use crate::unwind::memo;
use crate::{net, registry};
use std::hint::cold_path;

/// The record of the running stack; `None` where it is not armed. Never arms.
#[inline(always)]
pub(crate) fn lookup() -> Option<&'static Record> {
    match registry::find(arch::stack_pointer()) {
        Some(record) => Some(record),
        None => search(arch::stack_pointer()),
    }
}

/// The record of the running stack, which is armed if it was not.
#[inline(always)]
pub(crate) fn record() -> Result<&'static Record, Error> {
    record_from(arch::stack_pointer())
}

/// As [`record`], for a function further out with the stack pointer `sp`, which will look there again.
#[inline(always)]
pub(crate) fn record_from(sp: usize) -> Result<&'static Record, Error> {
    match registry::find(sp) {
        Some(record) => Ok(record),
        None => find_or_arm(sp),
    }
}

#[cold]
#[inline(never)]
fn search(sp: usize) -> Option<&'static Record> {
    if !registry::is_used() {
        return None;
    }
    let here = Registers::here();
    // SAFETY: these are registers of the running stack.
    match unsafe { foot::known_bottom(here) } {
        Some(Bottom::Armed(record, contiguous)) => {
            remember(sp, record, contiguous);
            Some(record)
        }
        _ => None,
    }
}

#[cold]
#[inline(never)]
fn find_or_arm(sp: usize) -> Result<&'static Record, Error> {
    let here = Registers::here();
    // SAFETY: these are registers of the running stack, and this is the one place that remembers walks.
    let (foot, contiguous) = if let Some((foot, contiguous)) = unsafe { memo::recall(here) } {
        if let Some(record) = redirect::code::owner(foot) {
            cold_path();
            remember(sp, record, contiguous);
            return Ok(record);
        }
        (foot, contiguous)
    } else {
        // SAFETY: these are registers of the running stack.
        match unsafe { foot::bottom(here) }? {
            Bottom::Armed(record, contiguous) => {
                remember(sp, record, contiguous);
                return Ok(record);
            }
            Bottom::Bare(foot, way) => {
                if way.memorable {
                    // SAFETY: the walk has just led to this foot, in the way that can be remembered.
                    unsafe { memo::learn(here, foot) };
                }
                (foot, way.in_one_piece)
            }
        }
    };
    // SAFETY: the way from here leads to this foot.
    let record = unsafe { arm(foot) }?;
    remember(sp, record, contiguous);
    Ok(record)
}

/// Lets the next look-up with the stack pointer `sp` be quick, if that is on the very memory that ends in the record's
/// foot. It is not on a segment that was switched to (which will serve other stacks), nor on a signal stack.
#[inline]
fn remember(sp: usize, record: &'static Record, contiguous: bool) {
    if contiguous && sp < record.top() {
        registry::prove(sp, record);
    }
}

/// Arms the running stack. After an error nothing has changed.
///
/// # Safety
/// Unwinding the running stack must have led to `foot`.
#[inline]
unsafe fn arm(foot: Foot) -> Result<&'static Record, Error> {
    // SAFETY: planned for this stack.
    let (record, abandoned) = unsafe { arm_at(redirect::plan(foot)?) }?;
    if let Some(abandoned) = abandoned {
        cold_path();
        record.drain_found(abandoned);
    }
    Ok(record)
}

/// Arms the stack that `place` is of; after an error nothing has changed. Where another one on its memory was abandoned, its
/// record comes along, taken away from there and still to be drained.
///
/// # Safety
/// As for [`redirect::Place::redirect`].
#[inline]
pub(crate) unsafe fn arm_at(place: redirect::Place) -> Result<(&'static Record, Option<&'static Record>), Error> {
    let (record, abandoned) = match registry::found(place.top, place.is_found_by_pages_alone()) {
        registry::Found::Waiting(record) => (record, None),
        // It is of a stack that was abandoned half-way: this one starts empty.
        registry::Found::Abandoned(abandoned) => (registry::take().ok_or(Error::OutOfMemory)?, Some(abandoned)),
        registry::Found::Nothing => (registry::take().ok_or(Error::OutOfMemory)?, None),
    };
    if let Some(abandoned) = abandoned {
        cold_path();
        abandoned.detach();
    }
    record.prepare(&place);
    // Where one was abandoned the map has its entry, so this does not fail.
    if !registry::insert(record) {
        record.retire();
        return Err(Error::OutOfMemory);
    }
    let (canary, word) = place.canary(record);
    record.watch(canary, word);
    // SAFETY: the caller's promise, and the record is ready. A signal that comes before this store finds an unarmed stack,
    // one that comes after it an armed one. (Where nothing is stored there, `watch` has made it live.)
    unsafe { place.redirect(record) };
    record.armed();
    if place.needs_net() {
        cold_path();
        net::spread(record);
    }
    Ok((record, abandoned))
}
