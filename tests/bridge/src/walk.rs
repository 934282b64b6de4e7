//! Walking the running stack with libgcc's unwinder, in a way that suits signal handlers: no allocation, no names.

use std::ffi::c_void;

unsafe extern "C" {
    /// The start of the function that a program counter is in: libgcc, by the unwind tables.
    safe fn _Unwind_FindEnclosingFunction(pc: *mut c_void) -> *mut c_void;
}

/// The start of the function that calls from, or is at, `address`; zero where no table covers it.
pub fn function_at(address: usize) -> usize {
    _Unwind_FindEnclosingFunction(address as *mut c_void) as usize
}

/// Fills `addresses` with the return addresses of the running stack, innermost first, and gives how many there are.
pub fn walk(addresses: &mut [usize]) -> usize {
    let mut count = 0;
    // SAFETY: `trace_unsynchronized` shares state between concurrent calls only where an unwinder has to be loaded first,
    // and Linux is not such a system.
    unsafe {
        backtrace::trace_unsynchronized(|frame| {
            let address = frame.ip() as usize;
            // A return address of zero is how some bottoms are marked.
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

/// How a complete walk of some kind of stack ends: the functions of its two outermost frames, which are the exit
/// trampoline and the code that started the stack, whether the stack is armed or not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bottom {
    trampoline: usize,
    start: usize,
}

impl Bottom {
    /// Of the running stack. Only a stack that is not armed can be trusted to tell.
    #[inline(never)]
    pub fn here() -> Self {
        let mut addresses = [0; 128];
        let count = walk(&mut addresses);
        assert!((3..128).contains(&count), "a walk of {count} frames");
        Self { trampoline: function_at(addresses[count - 2] - 1), start: function_at(addresses[count - 1] - 1) }
    }

    /// Whether a walk from here ends in the same way. Safe in a signal handler.
    #[inline(never)]
    pub fn is_reached(&self) -> bool {
        let mut addresses = [0; 128];
        let count = walk(&mut addresses);
        (3..128).contains(&count)
            && function_at(addresses[count - 1] - 1) == self.start
            && function_at(addresses[count - 2] - 1) == self.trampoline
    }

    /// Whether `pc` is in the exit trampoline or beyond: then the stack's own life is over, or has not begun.
    pub fn is_beyond(&self, pc: usize) -> bool {
        [self.trampoline, self.start].contains(&function_at(pc))
    }
}
