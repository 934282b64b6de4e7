//! `exeunt_scope`: an object in a frame, from whose initializing to whose end the stack has storage.
//!
//! `exeunt_enter` puts a frame of ours below the fiber's function. An object cannot: the function that holds it is
//! running already. But it can be the foot itself. Its last word is the canary that says the scope is live, the address
//! behind it is the stack's base, and its end is announced by a call, from a destructor on return and on unwinding alike.
//! No return address is rewritten.
//!
//! ```text
//!   | frame that called `holder`         |
//!   +------------------------------------+ <- base, as far as exeunt is concerned, is at the end of the object
//!   | frame of `holder`                  |
//!   |   exeunt_scope: ... , canary: foot |
//!   |   other locals                     | <- stack pointer of `holder` in its calls
//!   +------------------------------------+
//!   | whoever uses storage               |
//! ```
//!
//! Unwinding from further down the stack has to meet a place that is known to be the scope's. Where the foot is a return
//! address, it is found as such. Here it is the stack pointer of `holder` in its calls that is noted at the start, and the
//! 1 KiB below it, as calls with many arguments lower it. That is why `holder` must not use `alloca` after the start.

use super::code::{Failure, report, shielded};
use crate::Error;
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
use crate::unwind::frame::{Step, Steps};
use crate::unwind::quick::Unwinder;
use std::ffi::c_int;
use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};

/// A scope. It is an automatic variable of the function whose stack it serves, and nothing in it is for you.
///
/// Its size keeps the base of the stack in another cache line than the stack pointer of the function that holds it.
#[repr(C)]
pub struct exeunt_scope {
    opaque: [u64; 16],
}

const _: () = assert!(size_of::<exeunt_scope>() == 128);

/// How far below its present place the holder's stack pointer may be in later calls.
const ROOM: usize = 1024;

unsafe extern "C" {
    /// `asm/`: the exit trampoline of `enter`, whose entry in the pool also stands for scopes.
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

/// The stack pointer of the frame of the running stack that holds the scope, or none if no frame does.
///
/// # Safety
/// `here` must be registers of a function of the running stack that has not returned yet.
unsafe fn holder(here: Registers, scope: (usize, usize)) -> Option<usize> {
    // SAFETY: the caller's promise.
    let mut unwinder = unsafe { Unwinder::new(here) };
    let found = frame_around(&mut unwinder, here.sp, scope);
    // Where a frame on the way has a rule that the quick walk cannot follow, the thorough one may.
    #[cfg(target_os = "linux")]
    let found =
        found.or_else(|| crate::unwind::full_walk::from_frame_at(here.sp, |walk| frame_around(walk, here.sp, scope)));
    found
}

/// The stack pointer of the frame that holds what is between `low` and `high`, if the walk, which is at the one with `sp`, comes
/// there on one piece of memory. All without tags.
fn frame_around(walk: &mut impl Steps, sp: usize, (low, high): (usize, usize)) -> Option<usize> {
    let mut sp = arch::untagged(sp);
    while sp <= low {
        let Step::Caller { frame: caller, contiguous: true, .. } = walk.step() else { return None };
        let caller_sp = arch::untagged(caller.registers.sp);
        if high <= caller_sp {
            return Some(sp);
        }
        sp = caller_sp;
    }
    None
}

/// The trampoline whose pool entry scopes are shown under; made known on first use.
fn number() -> Result<usize, Error> {
    let address = exeunt_enter_return as *const () as usize;
    loop {
        if let Some(number) = trampoline::standing_for(address) {
            return Ok(number);
        }
        recognition::add_enter(address)?;
    }
}

/// Starts a scope: until its end, the running stack has storage and handlers, whatever made it. For the function of a
/// fiber whose library never returns from it, if that function cannot be run by `exeunt_enter`, which is cheaper and has
/// no rules about frames.
///
/// The scope must be an automatic variable of the fiber's function, which must not use `alloca` or arrays of variable
/// length after this call, nor pass more than 1 KiB of arguments by value.
///
/// Returns 0; `EXEUNT_EALREADY_ARMED` if the stack has its end already; `EXEUNT_EINVALID` if `scope` is not in a frame of
/// the running stack (but in a C++20 coroutine's, say); `EXEUNT_ESHARED_PAGE` on a stack so small that it shares a page
/// with another live one. Then there is no scope, and nothing to end.
/// Thread-safe: it concerns the running stack alone. Not for signal handlers.
///
/// # Safety
/// `scope` must be good to write to, and stay where it is until it is ended, by `exeunt_scope_end` on the same stack, or
/// until the stack is discarded.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn exeunt_scope_begin(scope: *mut exeunt_scope) -> c_int {
    shielded(|| {
        if scope.is_null() || !scope.is_aligned() {
            return Err(Failure::Invalid("exeunt_scope_begin: the scope is null or not aligned"));
        }
        if let Some(record) = lookup::lookup_verified() {
            return Err(record.id().map_or(Error::Busy, Error::AlreadyArmed).into());
        }
        // SAFETY: registers of this function.
        let Some(holder) = (unsafe { holder(Registers::here(), exeunt_scope::bounds(scope)) }) else {
            return Err(Failure::Invalid(
                "exeunt_scope_begin: the scope is not an automatic variable of a function that runs on this stack",
            ));
        };
        let (foot, base) = (exeunt_scope::foot(scope), exeunt_scope::bounds(scope).1);
        let number = number()?;
        // SAFETY: the caller's promise: the scope is good to write to, so its last word is.
        let Arming { record, abandoned, is_new } = unsafe { arm::arm_at(Plan::scope(foot, base, number)) }?;
        if !is_new {
            return Err(record.id().map_or(Error::Busy, Error::AlreadyArmed).into());
        }
        let proven = claim_frames(record, holder);
        if !proven {
            record.release();
        }
        match abandoned {
            Some(abandoned) if proven => record.drain_predecessor(abandoned),
            Some(abandoned) => abandoned.drain_and_release_abandoned(),
            None => {}
        }
        if proven { Ok(()) } else { Err(Failure::SharedPage) }
    })
}

/// Notes that the stack pointers around `holder` belong to the record's stack: those from `ROOM` below it, which this
/// function makes sure is stack by having a frame of that size. Returns whether they could be noted.
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

/// Ends a scope: calls the stack's handlers, last in first out, and destroys its values, last set first, here and now.
///
/// Returns 0, also where `exeunt_unload` has ended it already; `EXEUNT_ENOT_ON_THAT_STACK` on another stack than its own;
/// `EXEUNT_EINVALID` for null. Thread-safe: it concerns the running stack alone. Not for signal handlers.
///
/// # Safety
/// `scope` must be one that `exeunt_scope_begin` has started, and not have been ended by this function before.
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
            return Err(Error::NotOnThatStack { stack_pointer: arch::stack_pointer(), range: (0, base) }.into());
        }
        drain::without_return(record);
        // SAFETY: the caller's promise: the scope is still there. The canary goes, so that its memory is no live foot.
        unsafe { AtomicU64::from_ptr((foot as *mut u64).cast()) }.store(0, Ordering::Release);
        Ok(())
    })
}
