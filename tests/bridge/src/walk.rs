//! Walking the running stack with libgcc's unwinder, in a way that suits signal handlers: no allocation, no names.

/// Fills `addresses` with the return addresses of the running stack, innermost first, and gives how many there are.
pub fn walk(addresses: &mut [usize]) -> usize {
    let mut count = 0;
    // SAFETY: `trace_unsynchronized` shares state between concurrent calls only where an unwinder has to be loaded first,
    // and Linux is not such a system.
    unsafe {
        backtrace::trace_unsynchronized(|frame| {
            if let Some(place) = addresses.get_mut(count) {
                *place = frame.ip() as usize;
                count += 1;
            }
            count < addresses.len()
        });
    }
    count
}

/// How a complete walk of some kind of stack ends: its two outermost return addresses, which lie in the exit trampoline
/// and in the code that started the stack, and are the same whether the stack is armed or not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bottom([usize; 2]);

impl Bottom {
    /// Of the running stack, which is not armed yet.
    #[inline(never)]
    pub fn here() -> Self {
        let mut addresses = [0; 128];
        let count = walk(&mut addresses);
        assert!((3..128).contains(&count), "a walk of {count} frames");
        Self([addresses[count - 2], addresses[count - 1]])
    }

    /// Whether a walk from here ends in the same way. Safe in a signal handler.
    #[inline(never)]
    pub fn is_reached(&self) -> bool {
        let mut addresses = [0; 128];
        let count = walk(&mut addresses);
        count > 2 && addresses[count - 2..count] == self.0
    }
}
