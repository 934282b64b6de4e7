//! Code redirect: the exit trampoline's own code calls a hook of exeunt's, and every return address
//! stays as it was. `plan` says what to write on a stack, `owner` and `draining` find the record of
//! an armed one.
//!
//! ```text
//!   start_thread, as it is              as it is patched, once per process
//!
//!   call *start_routine                 call *start_routine
//!   mov  %rax,%fs:result   <- returns   mov  %rax,%fs:result   <- returns
//!   call __call_tls_dtors               call hook --------->  the stack is drained, if it is armed
//!   call __nptl_deallocate_tsd          call __nptl_deallocate_tsd       |
//!                          ^                                             v
//!                          +---------- returns here ------------ jmp __call_tls_dtors
//! ```
//!
//! Every entry function's exit runs through the first call behind the return address
//! (`site_search.rs`). That call is retargeted. The stack pointer is the stack's base there, and
//! the hook finds the record by it. `pthread_exit` and cancellation of glibc's threads lead there,
//! too. On macOS these two call the same target from elsewhere, and the safety net catches them
//! (`life/safety_net.rs`).
//!
//! Arming writes at most one word on a stack, a mark (`mark.rs`).

use super::mark;
use super::slot::{self, LandingPlan};
use super::{choice, return_points, sites};
use crate::base::cold::cold_path;
use crate::base::error::Error;
use crate::base::foot::Foot;
use crate::base::kind::Kind;
use crate::base::redirect::Method;
use crate::exit::trampoline;
use crate::machine::arch::word_of_stack;
use crate::record::header::Record;
use crate::record::stacks::STACKS;

/// What to write on the stack with this foot. This patches the stack's exit trampoline, if that was
/// not done yet.
///
/// `before_patching` runs first.
pub(super) fn plan(foot: Foot, before_patching: fn() -> Result<(), Error>) -> Result<CodePlan, Error> {
    sites::ensure(foot.trampoline, before_patching)?;
    plan_writes(foot)
}

/// What code redirect writes on a stack.
#[derive(Clone, Copy)]
pub(super) enum CodePlan {
    /// The mark, if there is a word for it.
    Mark(Option<mark::Mark>),
    /// The landing of `main`, if its other end meets no hook.
    Landing(LandingPlan),
}

impl CodePlan {
    /// Writes it.
    ///
    /// # Safety
    /// It must come from [`plan`] for the running stack, and that stack's record must be ready to
    /// be drained.
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
    // This writes no return address, so it is right with a shadow stack as well.
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

/// Why the stack with this foot cannot be armed, if it cannot. Changes nothing.
pub(super) fn problem(foot: Foot) -> Option<Error> {
    sites::problem(foot.trampoline).or_else(|| plan_writes(foot).err())
}

/// The record of the running stack, whose foot is this, if code redirect has armed it. Its return
/// address does not show that.
#[inline]
pub(crate) fn owner(foot: Foot) -> Option<&'static Record> {
    if !choice::is_code() {
        return None;
    }
    cold_path();
    let record = STACKS.by_base(foot.base).filter(|record| record.method() == Method::Code)?;
    // The stack of a function that has not returned does not drain, except at the ends of a thread
    // that unwind nothing.
    let goes_on = record.is_armed() || matches!(record.kind(), Kind::Thread | Kind::Main);
    let is_here = goes_on && record.foot() == foot.address && record.is_live();
    (is_here || cfg!(target_arch = "aarch64") && follow(record, foot)).then_some(record)
}

/// Updates the record if its stack's foot has moved to this place, as `follow` in `exit/walk.rs`
/// does. Returns whether the record is that stack's.
#[cold]
fn follow(record: &Record, foot: Foot) -> bool {
    if !record.is_armed() {
        return false;
    }
    let (place, word) = record.canary();
    let is_marked = word == mark::word(record);
    let canary = match record.kind() {
        // No other stack can be here before exeunt has noticed their end.
        Kind::Thread | Kind::Main => Some(place),
        // The mark is in a frame of exeunt's.
        Kind::Entered if is_marked => Some(place),
        // The mark is the frame pointer that the former function has saved. That function's frame
        // is gone: it restored the frame pointer and jumped, and the next function has saved it
        // again. It is next to the return address, if the walk cannot say where.
        Kind::Fiber if is_marked => {
            let at = foot.frame_pointer_at.unwrap_or(foot.address - 8);
            // SAFETY: a word of the running stack, as the walk found it or right below its foot.
            (unsafe { word_of_stack(at) } == word).then_some(at)
        }
        // Without a mark, the user has to discard the memory of a stack that was suspended for ever
        // before another one is here.
        _ if (place, word) == record.own_canary() => Some(place),
        _ => None,
    };
    let Some(canary) = canary else { return false };
    record.move_foot(foot.address, (canary, word));
    record.is_live()
}

/// The record of the stack that a hook drains, if a call at `slot` returns to `address` with the
/// stack pointer `sp`.
#[inline(always)]
pub(crate) fn draining(address: usize, slot: usize, sp: usize) -> Option<&'static Record> {
    if choice::is_code() { draining_by_hook(address, slot, sp) } else { None }
}

fn draining_by_hook(address: usize, slot: usize, sp: usize) -> Option<&'static Record> {
    if !return_points::is_known(address) {
        return None;
    }
    let draining = |record: &&Record| record.method() == Method::Code && record.is_draining() && record.is_live();
    // In x86_64's `__start_context`, arguments of the entry function may have been between its base
    // and here.
    STACKS
        .by_base(sp)
        .filter(draining)
        .or_else(|| STACKS.all().find(|record| record.canary_at() == slot && draining(record)))
}
