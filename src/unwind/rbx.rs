//! What rbx has in a frame further out, by a quick walk: x86_64's `makecontext` leaves the address of
//! `uc_link` there.
//!
//! Every fiber asks for it when it is armed by code redirect. To read the unwind tables of all its
//! frames would take tens of KiB of stack each time (without optimisation), which a fiber need not
//! have. So it is kept for each place in the code where its function has saved rbx, as the other
//! rules are kept.

use super::frame::{Step, Steps};
use super::quick::Unwinder;
use super::rule::{Base, Rule};
use super::{cache, tables, thorough};
use crate::machine::arch::Registers;
use std::arch::asm;

/// What sets the keys of these rules apart from those of others for the same place.
const KEY: usize = 1 << 62;
/// System V ABI, x86_64, figure 3.36.
const RBX: u16 = 3;

/// What rbx has in the frame that is returned to at `address`, the first such one of the running stack.
#[inline(never)]
pub(crate) fn saved_rbx(address: usize) -> Option<usize> {
    let here = Registers::here();
    let mut rbx: usize;
    // SAFETY: reads a register. Where this function has changed it, its own table says where the
    // caller's is.
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
    thorough::saved_register(address, RBX)
}

/// Where the function that `pc` is in has saved its caller's rbx, counted from its canonical frame
/// address; `Some(None)` if it has not.
fn saved_at(pc: usize) -> Option<Option<i32>> {
    if let Some(Rule::Frame { return_at, .. }) = cache::get(pc ^ KEY) {
        return Some(return_at);
    }
    let (at, owner) = tables::saved(pc, RBX)?;
    if owner == tables::Owner::Permanent {
        // The one place of such a rule says it.
        cache::put(pc ^ KEY, Rule::Frame { base: Base::StackPointer, offset: 0, return_at: at, fp_at: None });
    }
    Some(at)
}
