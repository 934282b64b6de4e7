//! Walks the running stack with libgcc's unwinder, in a way that is safe in signal handlers:
//! without allocation, without names.

use std::ffi::c_void;

unsafe extern "C" {
    /// The start of the function that contains a program counter: libgcc, by the unwind tables.
    safe fn _Unwind_FindEnclosingFunction(pc: *mut c_void) -> *mut c_void;
}

/// The start of the function that calls from, or is at, `address`; zero where no table covers it.
pub fn function_at(address: usize) -> usize {
    _Unwind_FindEnclosingFunction(address as *mut c_void) as usize
}

/// Fills `addresses` with the return addresses of the running stack, innermost first, and returns
/// their number.
pub fn walk(addresses: &mut [usize]) -> usize {
    let mut count = 0;
    // SAFETY: `trace_unsynchronized` shares state between concurrent calls only where an unwinder
    // has to be loaded first, and Linux is not such a system.
    unsafe {
        backtrace::trace_unsynchronized(|frame| {
            let address = frame.ip() as usize;
            // Some stacks mark their end with a return address of zero.
            if address == 0 {
                return false;
            }
            if let Some(place) = addresses.get_mut(count) {
                *place = address;
                count += 1;
            }
            count < addresses.len()
        });
    }
    count
}

/// The end of a complete walk of one kind of stack: the functions of its two outermost frames.
/// These are the exit trampoline and the code that started the stack, whether the stack is armed or
/// not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Outermost {
    trampoline: usize,
    start: usize,
}

impl Outermost {
    /// Of the running stack, which must not be armed.
    #[inline(never)]
    pub fn here() -> Self {
        let mut addresses = [0; 128];
        let count = walk(&mut addresses);
        assert!((3..128).contains(&count), "a walk of {count} frames");
        Self { trampoline: function_at(addresses[count - 2] - 1), start: function_at(addresses[count - 1] - 1) }
    }

    /// Whether a walk from here ends in the same functions. Safe in a signal handler.
    #[inline(never)]
    pub fn is_reached(&self) -> bool {
        let mut addresses = [0; 128];
        let count = walk(&mut addresses);
        (3..128).contains(&count)
            && function_at(addresses[count - 1] - 1) == self.start
            && function_at(addresses[count - 2] - 1) == self.trampoline
    }

    /// Whether `pc` is in the exit trampoline or outside of it: then the stack's own code has
    /// ended, or has not begun.
    pub fn is_beyond(&self, pc: usize) -> bool {
        [self.trampoline, self.start].contains(&function_at(pc))
    }
}
