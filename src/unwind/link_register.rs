//! Whether the system's unwinder has a frame's own address in `x30` after a step outwards.
//!
//! On aarch64 the unwind table of a trampoline computes the original address from the trampoline's
//! own one, its label. An entry function returns to the label, so it has saved it as its `x30`. When
//! libgcc has unwound that function, `x30` is that saved word. LLVM's libunwind has it in the program
//! counter alone, and `x30` is still the innermost frame's. (libgcc has no number for the program
//! counter.) Which of the two a program is linked with is not known before it runs.

use super::registers::RETURN;
use crate::machine::arch;
use std::ffi::{c_int, c_void};

type Trace = extern "C" fn(*mut c_void, *mut c_void) -> c_int;

// `eh_return.rs` has the reason for this ABI.
unsafe extern "C-unwind" {
    fn _Unwind_Backtrace(trace: Trace, argument: *mut c_void) -> c_int;
    fn _Unwind_GetGR(context: *mut c_void, register: c_int) -> usize;
    fn _Unwind_GetIP(context: *mut c_void) -> usize;
}

/// Has the system's unwinder step once, from its own function to this one, and compares.
pub(crate) fn is_followed() -> bool {
    extern "C" fn compare(context: *mut c_void, answer: *mut c_void) -> c_int {
        /// `_URC_END_OF_STACK`. Anything but zero ends the walk.
        const STOP: c_int = 5;
        // SAFETY: the unwinder passes its context, which has this register.
        let (link, pc) = unsafe { (_Unwind_GetGR(context, RETURN.into()), _Unwind_GetIP(context)) };
        // SAFETY: the unwinder passes what it was given, which lives in the frame below.
        unsafe { answer.cast::<bool>().write(arch::strip(link) == pc) };
        STOP
    }
    // What libgcc's would be, if there is no unwinder that makes the step.
    let mut answer = true;
    // SAFETY: `compare` takes the answer's address for what it is.
    unsafe { _Unwind_Backtrace(compare, (&raw mut answer).cast()) };
    answer
}

#[cfg(all(test, target_env = "gnu"))]
mod tests {
    #[test]
    fn libgcc_has_return_addresses_in_x30() {
        assert!(super::is_followed());
    }
}
