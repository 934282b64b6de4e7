//! The three functions that the Go module calls: check, and retarget, one direct call; put a jump in place of an instruction.
//!
//! Compiled alone for each processor into `../internal/patch/*.syso` (see `build`), where Go's linker finds it. No symbol from
//! outside, no static, no allocation, no panic: Go's assembly calls it on a goroutine's stack, which has the room that
//! `internal/patch` reserves and not a byte more.
#![no_std]
#![deny(unsafe_op_in_unsafe_fn)]
#![warn(clippy::undocumented_unsafe_blocks)]

#[allow(dead_code)] // Go does not use all of `raw`.
#[path = "../../patch/src/raw/mod.rs"]
pub mod raw;

#[cfg(target_arch = "x86_64")]
mod straddle;

use raw::{Fallback, Reason, Refusal};

/// What would be found by [`exeunt_go_retarget`], without a change: 0, or the reason in the low 8 bits and an error number above.
///
/// # Safety
///
/// Whatever is mapped at `site` stays mapped during the call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn exeunt_go_check(site: usize, expected: usize, new: usize) -> i32 {
    // SAFETY: protection 0: looked up, so `site` may be any address; it stays mapped by the caller's promise.
    match unsafe { raw::check(site, expected, new, 0) } {
        Ok(_) => 0,
        // `retarget` has a way around this one.
        Err(refusal) if refusal.reason == Reason::Straddles => 0,
        Err(refusal) => refusal.code(),
    }
}

/// Retargets the call at `site` from `expected` to `new`: 0, or what was found, as in [`exeunt_go_check`]. Undo it by exchanging the two.
///
/// # Safety
///
/// `site` is the first byte of an instruction in code that stays mapped, `new` may be called wherever `expected` may, and no
/// other call of this function runs in the process.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn exeunt_go_retarget(site: usize, expected: usize, new: usize) -> i32 {
    // SAFETY: as in `exeunt_go_check`.
    let outcome = match unsafe { raw::check(site, expected, new, 0) } {
        // SAFETY: checked a moment ago; the rest is the caller's promise.
        Ok(found) => unsafe { raw::write(found.store, found.mapping, Fallback::ProcMem) },
        // SAFETY: `check` refuses for this reason only after it found the expected call and that it reaches `new`.
        #[cfg(target_arch = "x86_64")]
        Err(refusal) if refusal.reason == Reason::Straddles => unsafe {
            straddle::retarget(site, new)
        },
        Err(refusal) => Err(refusal),
    };
    code(outcome)
}

/// Puts a jump to `new` in place of the instruction at `site`, of `len` bytes: 0, or what was found, as in [`exeunt_go_check`]. Only by a store
/// that is surely one, as this makes nothing possible, only quicker.
///
/// # Safety
///
/// At `site` is an instruction of that length in code that stays mapped, `new` may be entered wherever it may be run, and no other call of
/// this function or of [`exeunt_go_retarget`] runs in the process.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn exeunt_go_replace(site: usize, len: usize, new: usize) -> i32 {
    // SAFETY: the caller's promise.
    code(unsafe { raw::replace(site, len, new, Fallback::Refuse) })
}

fn code(outcome: Result<(), Refusal>) -> i32 {
    match outcome {
        Ok(()) => 0,
        Err(refusal) => refusal.code(),
    }
}

/// Required of a crate without `std`, and never linked: `build` refuses an object that can panic, by its undefined symbols.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}
