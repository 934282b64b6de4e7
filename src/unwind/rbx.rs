//! The value of rbx in an outer frame, by a quick walk: x86_64's `makecontext` leaves the address
//! of `uc_link` in it.
//!
//! Code redirect needs it for every fiber that it arms. Without optimisation, interpreting the
//! unwind tables of all its frames would take tens of KiB of stack each time, which a fiber need
//! not have. So the cache of rules also keeps, for each place in the code, where the function has
//! saved rbx.

use super::frame::{Step, Steps};
use super::quick::Unwinder;
use super::rule::{Base, Rule};
use super::{cache, full_walk, tables};
use crate::machine::arch::Registers;
use std::arch::asm;

/// Distinguishes the keys of these rules from those of other rules for the same place.
const KEY: usize = 1 << 62;
/// The number of rbx: System V ABI, x86_64, figure 3.36.
const RBX: u16 = 3;

/// The value of rbx in the frame that is returned to at `address`, the innermost such one of the
/// running stack.
#[inline(never)]
pub(crate) fn saved_rbx(address: usize) -> Option<usize> {
    let here = Registers::here();
    let mut rbx: usize;
    // SAFETY: reads a register. If this function has changed it, the function's own table says
    // where the caller's value is.
    unsafe { asm!("mov {}, rbx", out(reg) rbx, options(nomem, nostack, preserves_flags)) };
    // SAFETY: registers of this function, which returns after the walk.
    let mut walk = unsafe { Unwinder::new(here) };
    loop {
        let pc = walk.frame.place();
        let Step::Caller { frame, .. } = walk.step() else { break };
        match saved_at(pc) {
            Some(Some(at)) => rbx = walk.memory.load(frame.registers.sp.wrapping_add_signed(at as isize))?,
            Some(None) => {}
            None => break,
        }
        if frame.registers.pc == address {
            return Some(rbx);
        }
    }
    // A frame on the way has a rule of another form.
    full_walk::saved_register(address, RBX)
}

/// Where the function at `pc` has saved its caller's rbx, relative to its canonical frame address;
/// `Some(None)` if it has not.
fn saved_at(pc: usize) -> Option<Option<i32>> {
    if let Some(Rule::Frame { return_at, .. }) = cache::get(pc ^ KEY) {
        return Some(return_at);
    }
    let (at, lifetime) = tables::saved(pc, RBX)?;
    if lifetime == tables::Lifetime::Permanent {
        // A simple rule has one place for a register: here it is that of rbx.
        cache::put(pc ^ KEY, Rule::Frame { base: Base::StackPointer, offset: 0, return_at: at, fp_at: None });
    }
    Some(at)
}
