//! From the running stack to its record: find it, or arm the stack.

use crate::base::alloc::refused;
use crate::base::error::Error;
use crate::base::foot::Foot;
use crate::exit::redirect;
use crate::exit::walk::{self, Bottom};
use crate::life::safety_net;
use crate::machine::arch::{self, Registers};
use crate::map::stack_map;
use crate::record::header::{FOOT_MOVES, Record};
use crate::storage::inline_cache;
use crate::unwind::memo;
use std::hint::cold_path;

/// The record of the running stack; `None` where it is not armed. Never arms.
#[inline(always)]
pub(crate) fn lookup() -> Option<&'static Record> {
    match stack_map::find(arch::stack_pointer()) {
        Some(record) => Some(record),
        None => search(arch::stack_pointer()),
    }
}

/// As [`lookup`], for what changes or drops something: never an abandoned stack's.
#[inline(always)]
pub(crate) fn lookup_certain() -> Option<&'static Record> {
    let record = lookup()?;
    if is_certain(record, arch::stack_pointer()) { Some(record) } else { lookup_by_frames() }
}

#[cold]
#[inline(never)]
fn lookup_by_frames() -> Option<&'static Record> {
    // SAFETY: these are registers of the running stack.
    match unsafe { walk::bottom_by_frames(Registers::here()) } {
        Some(Bottom::Armed(record, _)) => Some(record),
        _ => None,
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
    record_or_new_from(sp).map(|(record, _)| record)
}

/// As [`record`]; and whether it was armed by this.
#[inline(always)]
pub(crate) fn record_or_new() -> Result<(&'static Record, bool), Error> {
    record_or_new_from(arch::stack_pointer())
}

/// As [`record_from`]; and whether it was armed by this.
#[inline(always)]
pub(crate) fn record_or_new_from(sp: usize) -> Result<(&'static Record, bool), Error> {
    match stack_map::find(sp) {
        Some(record) if is_certain(record, sp) => Ok((record, false)),
        _ => find_or_arm(sp),
    }
}

/// Whether `record`, which the page map has for `sp`, is the running stack's, and not that of one which was abandoned on the same
/// memory and whose canary is still there.
#[inline(always)]
pub(crate) fn is_certain(record: &'static Record, sp: usize) -> bool {
    !record.may_be_anothers() || mistake(record, sp).is_none()
}

/// Walks to the running stack's foot. If that is not the record's, what the page map has for the places from `sp` on is taken back,
/// and this is what the walk has led to.
#[cold]
#[inline(never)]
pub(crate) fn mistake(record: &'static Record, sp: usize) -> Option<Bottom> {
    if !record.may_be_anothers() || !record.is_found_by_frames() {
        return None;
    }
    // SAFETY: these are registers of the running stack. Where no walk leads to a foot, nobody can tell.
    let bottom = unsafe { walk::bottom_by_frames(Registers::here()) }?;
    let top = match bottom {
        Bottom::Armed(found, _) if std::ptr::eq(found, record) => return None,
        Bottom::Armed(found, _) => found.top(),
        Bottom::Bare(foot, _) => foot.top,
    };
    // From here up to its top all is the running stack's.
    let own = arch::untagged(sp)..arch::untagged(top);
    stack_map::disprove(&own);
    inline_cache::forget_all(&own);
    Some(bottom)
}

/// Whether a walk leads to the running stack's foot, and it is the record's. Then the record knows where the foot is now.
///
/// Only on aarch64 can a foot be elsewhere than it was when the stack was armed ([`Record::follow`]).
pub(crate) fn has_found_foot(record: &'static Record) -> bool {
    if !FOOT_MOVES || !record.is_found_by_frames() {
        return true;
    }
    // SAFETY: these are registers of the running stack.
    let bottom = unsafe { walk::bottom_by_frames(Registers::here()) };
    matches!(bottom, Some(Bottom::Armed(found, _)) if std::ptr::eq(found, record))
}

#[cold]
#[inline(never)]
fn search(sp: usize) -> Option<&'static Record> {
    if !stack_map::is_used() {
        return None;
    }
    let here = Registers::here();
    // SAFETY: these are registers of the running stack.
    match unsafe { walk::known_bottom(here) } {
        Some(Bottom::Armed(record, contiguous)) => {
            remember(sp, record, contiguous);
            Some(record)
        }
        _ => None,
    }
}

#[cold]
#[inline(never)]
fn find_or_arm(sp: usize) -> Result<(&'static Record, bool), Error> {
    let here = Registers::here();
    // SAFETY: these are registers of the running stack, and this is the one place that remembers walks.
    let (foot, contiguous) = if let Some((foot, contiguous)) = unsafe { memo::recall(here) } {
        if let Some(record) = redirect::code::owner(foot) {
            cold_path();
            remember(sp, record, contiguous);
            return Ok((record, false));
        }
        (foot, contiguous)
    } else {
        // SAFETY: these are registers of the running stack.
        let mut bottom = unsafe { walk::bottom(here) }?;
        // The walk may have come by a place that was an abandoned stack's.
        if let Bottom::Armed(record, _) = bottom
            && record.may_be_anothers()
        {
            bottom = mistake(record, sp).unwrap_or(bottom);
        }
        match bottom {
            Bottom::Armed(record, contiguous) => {
                remember(sp, record, contiguous);
                return Ok((record, false));
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
    let armed = unsafe { arm(foot) }?;
    remember(sp, armed.0, contiguous);
    Ok(armed)
}

/// Lets the next look-up with the stack pointer `sp` be quick, if that is on the very memory that ends in the record's
/// foot. It is not on a segment that was switched to (which will serve other stacks), nor on a signal stack.
#[inline]
fn remember(sp: usize, record: &'static Record, contiguous: bool) {
    if contiguous && arch::untagged(sp) < record.top() {
        stack_map::prove(sp, record);
    }
}

/// Arms the running stack. After an error nothing has changed. Whether it was armed by this comes
/// along: the allocator may be code of the user's, and have armed it meanwhile.
///
/// # Safety
/// Unwinding the running stack must have led to `foot`.
#[inline]
unsafe fn arm(foot: Foot) -> Result<(&'static Record, bool), Error> {
    // SAFETY: planned for this stack.
    let arming = unsafe { arm_at(redirect::plan(foot)?) }?;
    if let Some(abandoned) = arming.abandoned {
        cold_path();
        arming.record.drain_found(abandoned);
    }
    Ok((arming.record, arming.is_new))
}

/// What [`arm_at`] has done.
pub(crate) struct Arming {
    pub record: &'static Record,
    /// Another stack on this one's memory that was abandoned: taken away from there, and still to
    /// be drained.
    pub abandoned: Option<&'static Record>,
    /// Whether it was armed by this, and not meanwhile by the allocator.
    pub is_new: bool,
}

/// Arms the stack that `place` is of; after an error nothing has changed.
///
/// # Safety
/// As for [`redirect::Place::redirect`].
#[inline]
pub(crate) unsafe fn arm_at(place: redirect::Place) -> Result<Arming, Error> {
    if place.needs_net() {
        cold_path();
        safety_net::prepare(place.kind)?;
    }
    let (record, abandoned) = match stack_map::found(place.top, place.is_found_by_pages_alone()) {
        stack_map::Found::Waiting(record) => (record, None),
        stack_map::Found::Abandoned(found) => match armed_meanwhile(found, place.foot) {
            Some(found) => return Ok(Arming { record: found, abandoned: None, is_new: false }),
            // It is of a stack that was abandoned half-way: this one starts empty.
            None => (stack_map::take().ok_or_else(refused)?, Some(found)),
        },
        stack_map::Found::Nothing => {
            let record = stack_map::take().ok_or_else(refused)?;
            if let Some(found) = stack_map::by_top(place.top).and_then(|found| armed_meanwhile(found, place.foot)) {
                cold_path();
                stack_map::give(record);
                return Ok(Arming { record: found, abandoned: None, is_new: false });
            }
            (record, None)
        }
    };
    if let Some(abandoned) = abandoned {
        cold_path();
        abandoned.detach();
    }
    record.prepare(&place);
    if let Err(failed) = stack_map::insert(record) {
        cold_path();
        record.retire();
        if let Some(abandoned) = abandoned {
            // Its end is due anyway.
            abandoned.end_abandoned();
        }
        return match failed {
            stack_map::Failed::Taken(found) => Ok(Arming { record: found, abandoned: None, is_new: false }),
            stack_map::Failed::NoMemory => Err(refused()),
        };
    }
    let (canary, word) = place.canary(record);
    record.watch(canary, word);
    // SAFETY: the caller's promise, and the record is ready. A signal that comes before this store finds an unarmed stack,
    // one that comes after it an armed one. (Where nothing is stored there, `watch` has made it live.)
    unsafe { place.redirect(record) };
    record.armed();
    if place.needs_net() {
        cold_path();
        safety_net::spread(record);
        #[cfg(target_os = "linux")]
        if place.needs_key() {
            crate::life::main_key::spread(record);
        }
    }
    Ok(Arming { record, abandoned, is_new: true })
}

/// The record, if it is the running stack's, whose foot is at `foot`: then the allocator has used
/// storage since this stack was found unarmed.
#[cold]
fn armed_meanwhile(found: &'static Record, foot: usize) -> Option<&'static Record> {
    found.is_armed_at(foot).then_some(found)
}
