//! Arming: from the running stack to its record, which is created if there is none.
//!
//! `record_from` and `record_or_new_for` are the entry points. The first use on a stack goes on to
//! `find_or_arm`, `plan` and `arm_at`.

#[cfg(code_redirect)]
use super::fork;
use super::lookup::{add_block_if_contiguous, find_other_stack, is_verified};
#[cfg(target_env = "gnu")]
use super::main_key;
use super::{safety_net, unload};
use crate::base::alloc::refused;
use crate::base::cold::cold_path;
use crate::base::ending::Cause;
use crate::base::error::Error;
use crate::base::foot::Foot;
use crate::base::kind::Kind;
use crate::exit::redirect::plan::Plan;
use crate::exit::redirect::{self, code};
use crate::exit::trampoline;
use crate::exit::walk::{self, Found};
use crate::machine::arch::{self, Registers};
use crate::map::claims::InsertError;
use crate::map::supply::AtBase;
use crate::record::header::Record;
use crate::record::stacks::STACKS;
use crate::unwind::around::return_address_behind;
use crate::unwind::memo::{self, Recalled};
use crate::unwind::memory;

/// No function of exeunt's has a frame of its own between the user's and [`find_or_arm`].
pub(crate) const INLINED: usize = 0;

/// The record of the running stack, which this arms if it was not armed. `sp` is the stack pointer
/// of the caller or of an outer function, where the next look-up will be.
#[inline(always)]
pub(crate) fn record_from(sp: usize) -> Result<&'static Record, Error> {
    record_or_new_for(sp, sp).map(|(record, _)| record)
}

/// As [`record_from`], and whether this call has armed the stack. Then it has noted where the
/// function returns to that has the stack pointer `face`: the outermost function of exeunt's. For
/// [`INLINED`] it is the function that this is inlined into.
#[inline(always)]
pub(crate) fn record_or_new_for(sp: usize, face: usize) -> Result<(&'static Record, bool), Error> {
    match STACKS.find(sp) {
        Some(record) if is_verified(record, sp) => Ok((record, false)),
        _ => find_or_arm(sp, face),
    }
}

#[cold]
#[inline(never)]
fn find_or_arm(sp: usize, face: usize) -> Result<(&'static Record, bool), Error> {
    let here = Registers::here();
    // SAFETY: these are registers of the running stack, and only this place uses remembered walks.
    let recalled = if redirect::plan::has_scopes() { None } else { unsafe { memo::recall(here) } };
    let (foot, contiguous, armed_from) = if let Some(Recalled { foot, contiguous, armed_from }) = recalled {
        if let Some(record) = code::owner(foot) {
            cold_path();
            add_block_if_contiguous(sp, record, contiguous);
            return Ok((record, false));
        }
        (foot, contiguous, armed_from)
    } else {
        // SAFETY: these are registers of the running stack.
        let mut found = unsafe { walk::walk_to_foot(here) }?;
        // The walk may have passed a block that an abandoned stack owns.
        while let Found::Armed(record, _) = found {
            match find_other_stack(record, sp) {
                Some(other) => found = other,
                None => break,
            }
        }
        match found {
            Found::Armed(record, contiguous) => {
                add_block_if_contiguous(sp, record, contiguous);
                return Ok((record, false));
            }
            Found::Unarmed(foot, way) => {
                // SAFETY: as above.
                let armed_from = unsafe { return_address_behind(here, face) };
                if way.cacheable {
                    // SAFETY: the walk has just led to this foot, and says that it may be
                    // remembered.
                    unsafe { memo::remember(here, foot, armed_from) };
                }
                (foot, way.contiguous, armed_from)
            }
        }
    };
    // SAFETY: the walk from here leads to this foot.
    let armed = unsafe { arm(foot, armed_from) }?;
    add_block_if_contiguous(sp, armed.0, contiguous);
    Ok(armed)
}

/// As [`record_or_new_for`], without a walk: for a stack of a thread's or main's with this foot and
/// this base. Where the foot leads to no exit trampoline that was met before, or the stack is armed,
/// a walk decides.
///
/// # Safety
/// They must be the running stack's.
#[inline(never)]
pub(crate) unsafe fn record_at_foot(address: usize, base: usize) -> Result<(&'static Record, bool), Error> {
    // SAFETY: the caller's promise.
    let word = unsafe { arch::word_of_stack(address) };
    let is_of_thread = |number: &usize| {
        matches!(trampoline::kind(*number), Kind::Thread | Kind::Main) && !trampoline::is_landing(*number)
    };
    match trampoline::number_of_original(arch::strip(word)).filter(is_of_thread) {
        Some(trampoline) if STACKS.by_base(base).is_none() => {
            // SAFETY: the caller's promise: where a walk would lead to.
            unsafe { arm(Foot { address, word, base, trampoline, frame_pointer_at: None }, 0) }
        }
        _ => find_or_arm(arch::stack_pointer(), INLINED),
    }
}

/// Arms the running stack. After an error nothing has changed. Returns also whether this call has
/// armed it: the allocator may be user code, and have armed it meanwhile.
///
/// # Safety
/// Unwinding the running stack must have led to `foot`.
#[inline]
unsafe fn arm(foot: Foot, armed_from: usize) -> Result<(&'static Record, bool), Error> {
    // Two calls: where the plan is the usual one, the compiler leaves out all that others need.
    let arming = match redirect::plan::plan_quickly(foot) {
        // SAFETY: the plan is for this stack.
        Some(plan) => unsafe { arm_at_inlined(plan, armed_from) }?,
        // SAFETY: the caller's promise.
        None => unsafe { arm_slowly(foot, armed_from) }?,
    };
    if let Some(abandoned) = arming.abandoned {
        cold_path();
        arming.record.drain_predecessor(abandoned);
    }
    Ok((arming.record, arming.is_new))
}

/// # Safety
/// As [`arm`].
#[cold]
#[inline(never)]
unsafe fn arm_slowly(foot: Foot, armed_from: usize) -> Result<Arming, Error> {
    // SAFETY: the plan is for this stack.
    unsafe { arm_at(plan(foot)?, armed_from) }
}

/// Plans the arming of the stack with this foot.
pub(super) fn plan(foot: Foot) -> Result<Plan, Error> {
    let plan = redirect::plan::plan(foot, before_patching)?;
    if plan.is_lost_without_net() && !safety_net::can_attach() {
        return Err(Error::StackHasEnded);
    }
    Ok(plan)
}

/// What has to be done before code is patched.
pub(super) fn before_patching() -> Result<(), Error> {
    #[cfg(code_redirect)]
    fork::prepare_forks()?;
    Ok(())
}

/// The result of [`arm_at`].
pub(crate) struct Arming {
    pub record: &'static Record,
    /// The record of an abandoned stack on this one's memory: it is detached, and must still be
    /// drained.
    pub abandoned: Option<&'static Record>,
    /// Whether this call has armed the stack, and not the allocator meanwhile.
    pub is_new: bool,
}

/// Arms the stack for which `plan` was made. After an error nothing has changed. The call that arms
/// it returns to `armed_from`, which is zero if that is not known.
///
/// # Safety
/// As for [`Plan::redirect`].
pub(crate) unsafe fn arm_at(plan: Plan, armed_from: usize) -> Result<Arming, Error> {
    // SAFETY: the caller's promise.
    unsafe { arm_at_inlined(plan, armed_from) }
}

/// # Safety
/// As [`arm_at`].
#[inline(always)]
unsafe fn arm_at_inlined(plan: Plan, armed_from: usize) -> Result<Arming, Error> {
    if plan.needs_net() {
        cold_path();
        safety_net::register(plan.kind)?;
        #[cfg(target_env = "gnu")]
        if plan.needs_key() {
            main_key::create()?;
        }
    }
    let (record, abandoned) = match STACKS.take_at_base(plan.base, plan.is_known_by_map_alone()) {
        AtBase::Cached(record) => (record, None),
        AtBase::Abandoned(found) => match armed_meanwhile(found, plan.foot) {
            Some(found) => return Ok(Arming { record: found, abandoned: None, is_new: false }),
            // The record belongs to an abandoned stack. The new stack starts empty.
            None => (STACKS.take().ok_or_else(refused)?, Some(found)),
        },
        AtBase::Nothing => {
            let record = STACKS.take().ok_or_else(refused)?;
            if let Some(found) = STACKS.by_base(plan.base).and_then(|found| armed_meanwhile(found, plan.foot)) {
                cold_path();
                STACKS.give(record);
                return Ok(Arming { record: found, abandoned: None, is_new: false });
            }
            (record, None)
        }
    };
    if let Some(abandoned) = abandoned {
        cold_path();
        abandoned.detach();
    }
    // The memory of live stacks needs no system call when a walk passes it.
    memory::set_known_readable(|address| STACKS.is_of_live_stack(address));
    record.prepare(&plan.stack(), armed_from);
    if let Err(error) = STACKS.insert(record) {
        cold_path();
        record.release();
        if let Some(abandoned) = abandoned {
            // Its end is due anyway.
            abandoned.drain_and_release_abandoned(Cause::Abandoned);
        }
        return match error {
            InsertError::ArmedMeanwhile(found) => Ok(Arming { record: found, abandoned: None, is_new: false }),
            InsertError::NoMemory => Err(refused()),
        };
    }
    let (canary, word) = plan.canary(record);
    record.set_canary(canary, word);
    // SAFETY: the caller's promise, and the record is ready. A signal that comes before this store
    // finds an unarmed stack, and one that comes after it an armed one. (Where nothing is stored on
    // the stack, `set_canary` has made the record live.)
    unsafe { plan.redirect(record) };
    record.set_armed();
    if plan.has_lost_hook() {
        if let Err(error) = plan.patch_again(before_patching) {
            disarm(record, abandoned);
            return Err(error);
        }
    }
    if plan.needs_net() {
        cold_path();
        safety_net::attach(record);
        #[cfg(target_env = "gnu")]
        if plan.needs_key() {
            main_key::attach(record);
        }
    }
    Ok(Arming { record, abandoned, is_new: true })
}

/// Puts the exit of the running stack back, which was armed in vain.
#[cold]
pub(super) fn disarm(record: &'static Record, abandoned: Option<&'static Record>) {
    // The allocator may be user code, and have stored something since the record was armed. No end
    // would meet it, and the record's next stack must not.
    if unload::forget_all(record).is_ok() {
        unload::invalidate_caches(record);
    }
    // SAFETY: this is the running stack's record, which was armed a moment ago and is not draining.
    if unsafe { redirect::plan::restore(record) } {
        record.release();
    }
    if let Some(abandoned) = abandoned {
        // Its end is due anyway.
        abandoned.drain_and_release_abandoned(Cause::Abandoned);
    }
}

/// The record, if it belongs to the running stack, whose foot is at `foot`: then the allocator has
/// used storage since this stack was found unarmed.
#[cold]
fn armed_meanwhile(found: &'static Record, foot: usize) -> Option<&'static Record> {
    found.is_armed_at(foot).then_some(found)
}
