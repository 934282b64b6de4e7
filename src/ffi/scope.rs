//! `exeunt_scope`: an object in a frame. From `exeunt_scope_begin` to `exeunt_scope_end` the stack
//! has storage.
//!
//! `exeunt_enter` puts a frame of exeunt's outside of the fiber's function. An object cannot do
//! that, as the function that holds it is running already. But it can be the foot itself. Its last
//! word is the canary that shows that the scope is live. The address behind it is the stack's base.
//! A destructor announces its end by a call, on return and on unwinding alike. No return address is
//! rewritten.
//!
//! ```text
//!   | frame that called `holder`         |
//!   +------------------------------------+ <- exeunt takes the end of the object for the base
//!   | frame of `holder`                  |
//!   |   exeunt_scope: ... , canary: foot |
//!   |   other locals                     | <- stack pointer of `holder` in its calls
//!   +------------------------------------+
//!   | code that uses storage             |
//! ```
//!
//! Unwinding from an inner frame has to meet a block that the stack map gives to the scope. A foot
//! that is a return address is found as such. Here `exeunt_scope_begin` adds the blocks of the
//! stack pointer that `holder` has in its calls, and of the 1 KiB below it, as calls with many
//! arguments lower the stack pointer. That is why `holder` must not use `alloca` after the start.

use super::code::{Failure, report, shielded};
use crate::Error;
use crate::base::ending::Cause;
use crate::exit::recognition;
use crate::exit::redirect::plan::Plan;
use crate::exit::trampoline;
use crate::life::arm;
use crate::life::arm::Arming;
use crate::life::drain;
use crate::life::lookup;
use crate::machine::arch::{self, Registers};
use crate::record::header::Record;
use crate::record::stacks::STACKS;
use crate::unwind::around::{frame_around, return_address_behind};
use std::ffi::c_int;
use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};

/// A scope. Make it an automatic variable of the function whose stack it serves. Its contents are
/// private.
// Its size keeps the base of the stack in another cache line than the stack pointer of the function
// that holds it.
#[repr(C)]
pub struct exeunt_scope {
    opaque: [u64; 16],
}

const _: () = assert!(size_of::<exeunt_scope>() == 128);

/// How far the holder's stack pointer may be below its present place in later calls.
const ROOM: usize = 1024;

unsafe extern "C" {
    /// `asm/`: the exit trampoline of `enter`. Scopes use its trampoline.
    safe fn exeunt_enter_return();
}

impl exeunt_scope {
    fn bounds(this: *mut Self) -> (usize, usize) {
        let low = arch::untagged(this.addr());
        (low, low + size_of::<Self>())
    }

    fn foot(this: *mut Self) -> usize {
        this.addr() + size_of::<Self>() - size_of::<u64>()
    }
}

/// The number of the trampoline that scopes use, added at the first use.
fn number() -> Result<usize, Error> {
    let address = exeunt_enter_return as *const () as usize;
    loop {
        if let Some(number) = trampoline::number_of_original(address) {
            return Ok(number);
        }
        recognition::add_enter(address)?;
    }
}

/// Starts a scope: until its end, the running stack has storage and handlers, whatever made the
/// stack. Use it for the function of a fiber whose library never returns from it, if `exeunt_enter`
/// cannot run that function. `exeunt_enter` is cheaper and has no rules about frames.
///
/// The scope must be an automatic variable of the fiber's function. After this call that function
/// must not use `alloca` or arrays of variable length, nor pass more than 1 KiB of arguments by
/// value.
///
/// Returns 0; `EXEUNT_EALREADY_ARMED` if the stack is armed already; `EXEUNT_EINVALID` if `scope`
/// is not in a frame of the running stack (a variable of a C++20 coroutine is not);
/// `EXEUNT_ESHARED_PAGE` on a stack so small that it shares a page with another live one. After an
/// error there is no scope, and nothing to end.
///
/// Thread-safe: it concerns the running stack alone. Not for signal handlers.
///
/// # Safety
/// `scope` must be good to write to. It must stay where it is until `exeunt_scope_end` ends it on
/// the same stack, or until the stack is discarded.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn exeunt_scope_begin(scope: *mut exeunt_scope) -> c_int {
    let face = arch::stack_pointer();
    shielded(|| {
        if scope.is_null() || !scope.is_aligned() {
            return Err(Failure::Invalid("exeunt_scope_begin: the scope is null or not aligned"));
        }
        if let Some(record) = lookup::lookup_verified() {
            return Err(record.id().map_or(Error::Busy, Error::AlreadyArmed).into());
        }
        // SAFETY: registers of this function.
        let Some(holder) = (unsafe { frame_around(Registers::here(), exeunt_scope::bounds(scope)) }) else {
            return Err(Failure::Invalid(
                "exeunt_scope_begin: the scope is not an automatic variable of a function that runs on this stack",
            ));
        };
        let (foot, base) = (exeunt_scope::foot(scope), exeunt_scope::bounds(scope).1);
        let number = number()?;
        // SAFETY: registers of this function.
        let armed_from = unsafe { return_address_behind(Registers::here(), face) };
        // SAFETY: the caller's promise: the scope is good to write to, so its last word is.
        let Arming { record, abandoned, is_new } = unsafe { arm::arm_at(Plan::scope(foot, base, number), armed_from) }?;
        if !is_new {
            return Err(record.id().map_or(Error::Busy, Error::AlreadyArmed).into());
        }
        let claimed = claim_frames(record, holder);
        if !claimed {
            record.release();
        }
        match abandoned {
            Some(abandoned) if claimed => record.drain_predecessor(abandoned),
            Some(abandoned) => abandoned.drain_and_release_abandoned(Cause::Abandoned),
            None => {}
        }
        if claimed { Ok(()) } else { Err(Failure::SharedPage) }
    })
}

/// Adds the blocks around `holder` to the record: those from `ROOM` below it. A frame of that size
/// makes sure that this is stack memory. Returns whether the blocks could be added.
#[inline(never)]
fn claim_frames(record: &'static Record, holder: usize) -> bool {
    let room = [0_u8; ROOM];
    let lowest = arch::untagged(arch::stack_pointer()).min(arch::untagged(black_box(&raw const room).addr()));
    let mut sp = lowest;
    while sp <= holder {
        STACKS.add_block(sp, record);
        sp = (sp | 63) + 1;
    }
    STACKS.add_block(holder, record);
    let is_mine = |sp: usize| STACKS.find(sp).is_some_and(|found| std::ptr::eq(found, record));
    is_mine(lowest) && is_mine(holder)
}

/// Ends a scope: calls the stack's handlers, last in first out, and destroys its values, last set
/// first, here and now.
///
/// Returns 0, also if `exeunt_unload` has ended it already; `EXEUNT_ENOT_ON_THAT_STACK` on another
/// stack than its own; `EXEUNT_EINVALID` for null.
///
/// Thread-safe: it concerns the running stack alone. Not for signal handlers.
///
/// # Safety
/// `exeunt_scope_begin` must have started `scope`, and this function must not have ended it before.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn exeunt_scope_end(scope: *mut exeunt_scope) -> c_int {
    if scope.is_null() {
        return report(Failure::Invalid("exeunt_scope_end: the scope is null"));
    }
    shielded(|| {
        let (foot, base) = (exeunt_scope::foot(scope), exeunt_scope::bounds(scope).1);
        let mine = |record: &&Record| record.canary_at() == foot && record.is_placed();
        let Some(record) = STACKS.by_base(base).filter(mine) else { return Ok(()) };
        if !lookup::lookup().is_some_and(|found| std::ptr::eq(found, record)) {
            return Err(Error::NotOnThatStack { stack_pointer: arch::stack_pointer(), range: 0..base }.into());
        }
        drain::without_return(record, Cause::Scope);
        // SAFETY: the caller's promise: the scope is still there. Clearing the canary makes its
        // memory no live foot.
        unsafe { AtomicU64::from_ptr((foot as *mut u64).cast()) }.store(0, Ordering::Release);
        Ok(())
    })
}
