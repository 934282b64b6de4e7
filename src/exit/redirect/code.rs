//! Code redirect: the exit trampoline's own code calls a hook of ours, and every return address stays as it was.
//!
//! ```text
//!   start_thread, as it is              as it is patched, once per process
//!
//!   call *start_routine                 call *start_routine
//!   mov  %rax,%fs:result   <- returns   mov  %rax,%fs:result   <- returns
//!   call __call_tls_dtors               call hook ----------->  the stack is drained, if it is armed
//!   call __nptl_deallocate_tsd          call __nptl_deallocate_tsd       |
//!                          ^                                             v
//!                          +---------- returns here ------------ jmp __call_tls_dtors
//! ```
//!
//! The call that is retargeted is the first one on the one way that leads on from where entry functions return
//! (`sites.rs`). So each of them makes it, with the stack pointer at the stack's base, which is how the hook finds the
//! record. For glibc's threads it is also where `pthread_exit` and cancellation lead to. On macOS these two call the same
//! target from elsewhere, and the safety net catches them (`net.rs`).
//!
//! What arming writes on a stack is one word at the most, a mark (`mark.rs`).

use super::mark;
use super::slot::{self, LandingPlan};
use super::{choice, return_points, sites};
use crate::base::error::Error;
use crate::base::foot::Foot;
use crate::base::kind::Kind;
use crate::base::redirect::Method;
use crate::exit::trampoline;
use crate::machine::arch::word_of_stack;
use crate::record::header::Record;
use crate::record::stacks::STACKS;
use std::hint::cold_path;

/// What to write on the stack with this foot. Its exit trampoline is patched by this, if it was not yet.
///
/// `before_patching` runs before.
pub(super) fn plan(foot: Foot, before_patching: fn() -> Result<(), Error>) -> Result<CodePlan, Error> {
    sites::ensure(foot.trampoline, before_patching)?;
    plan_writes(foot)
}

/// What code redirect writes on a stack.
#[derive(Clone, Copy)]
pub(super) enum CodePlan {
    /// The mark, where there is a word for it.
    Mark(Option<mark::Mark>),
    /// The landing of `main`, where its other end does not come by a hook.
    Landing(LandingPlan),
}

impl CodePlan {
    /// Writes it.
    ///
    /// # Safety
    /// It must come from [`plan`] for the running stack, and that stack's record be ready to be
    /// drained.
    pub(super) unsafe fn write(self, record: &Record) {
        match self {
            Self::Mark(Some(mark)) => {
                cold_path();
                mark.set(record);
            }
            Self::Mark(None) => {}
            // SAFETY: the caller's promise.
            Self::Landing(lands) => unsafe { lands.redirect() },
        }
    }
}

fn plan_writes(foot: Foot) -> Result<CodePlan, Error> {
    if !sites::landing_bypasses_hook(foot.trampoline) {
        return Ok(CodePlan::Mark(mark::find(foot)?));
    }
    // No return address is written by that, so it is right with a shadow stack as well.
    slot::plan_landing(foot)?.map(CodePlan::Landing).ok_or_else(|| {
        Error::NoCodeSite(
            format!(
                "{} ends in two ways, and pthread_exit's neither comes by the hook nor can be redirected",
                trampoline::name(foot.trampoline).to_string_lossy()
            )
            .into(),
        )
    })
}

/// Why the stack with this foot cannot be armed, if it cannot; nothing is changed.
pub(super) fn problem(foot: Foot) -> Option<Error> {
    sites::problem(foot.trampoline).or_else(|| plan_writes(foot).err())
}

/// The record of the running stack, whose foot is this, if it is armed by code redirect: then its return address does not say.
#[inline]
pub(crate) fn owner(foot: Foot) -> Option<&'static Record> {
    if !choice::is_code() {
        return None;
    }
    cold_path();
    let record = STACKS.by_base(foot.base).filter(|record| record.method() == Method::Code)?;
    // A function that has not returned is not of a stack that drains, but for the ends of a thread that unwind nothing.
    let goes_on = record.is_armed() || matches!(record.kind(), Kind::Thread | Kind::Main);
    let is_here = goes_on && record.foot() == foot.address && record.is_live();
    (is_here || cfg!(target_arch = "aarch64") && follow(record, foot)).then_some(record)
}

/// Lets the record follow its stack's foot to this place, as [`Record::follow`] does. Whether it is that stack's.
#[cold]
fn follow(record: &Record, foot: Foot) -> bool {
    if !record.is_armed() {
        return false;
    }
    let (place, word) = record.canary();
    let is_marked = word == mark::word(record);
    let canary = match record.kind() {
        // No other stack can be here before their end is seen.
        Kind::Thread | Kind::Main => Some(place),
        // The mark is in a frame of ours.
        Kind::Entered if is_marked => Some(place),
        // The mark is the frame pointer that the function saved whose frame is gone. It had it back in the register when it jumped, and
        // the next one has saved it again: next to the return address, where the walk cannot say.
        Kind::Fiber if is_marked => {
            let at = foot.frame_pointer_at.unwrap_or(foot.address - 8);
            // SAFETY: a word of the running stack, as the walk found it or right below its foot.
            (unsafe { word_of_stack(at) } == word).then_some(at)
        }
        // Without a mark, memory of a stack that was suspended for ever is to be discarded before another one is here.
        _ if (place, word) == record.own_canary() => Some(place),
        _ => None,
    };
    let Some(canary) = canary else { return false };
    record.move_foot(foot.address, (canary, word));
    record.is_live()
}

/// The record of the stack that a hook drains, where a call at `slot` returns to `address` with the stack pointer `sp`.
#[inline(always)]
pub(crate) fn draining(address: usize, slot: usize, sp: usize) -> Option<&'static Record> {
    if choice::is_code() { draining_by_hook(address, slot, sp) } else { None }
}

fn draining_by_hook(address: usize, slot: usize, sp: usize) -> Option<&'static Record> {
    if !return_points::is_known(address) {
        return None;
    }
    let draining = |record: &&Record| record.method() == Method::Code && record.is_draining() && record.is_live();
    // In x86_64's __start_context, arguments of the entry function may have been between its base and here.
    STACKS
        .by_base(sp)
        .filter(draining)
        .or_else(|| STACKS.all().find(|record| record.canary_at() == slot && draining(record)))
}
