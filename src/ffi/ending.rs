//! How the running stack ends, and which stacks are armed: `exeunt_ending`,
//! `exeunt_returned_value`, `exeunt_stacks`.

use super::code::{Failure, shielded};
use std::ffi::{c_int, c_void};

/// The code that calls belongs to no end of a stack.
pub const EXEUNT_ENDING_NONE: c_int = 0;
/// One of those below, and exeunt cannot find out which: it cannot start a thread for the one
/// experiment that it needs.
pub const EXEUNT_ENDING_UNKNOWN: c_int = 1;
/// The stack's function has returned.
pub const EXEUNT_ENDING_RETURNED: c_int = 2;
/// Unwinding has left the function that `exeunt_enter` runs: an exception, or forced unwinding.
pub const EXEUNT_ENDING_UNWOUND: c_int = 3;
/// The thread ends by `pthread_exit`.
pub const EXEUNT_ENDING_EXITED: c_int = 4;
/// The thread was cancelled. `pthread_exit(PTHREAD_CANCELED)` counts as this, as it does for
/// `pthread_join`.
pub const EXEUNT_ENDING_CANCELLED: c_int = 5;
/// The thread calls `exit`.
pub const EXEUNT_ENDING_PROCESS_EXIT: c_int = 6;
/// The fiber was suspended for ever, and another stack on its memory has just been armed.
pub const EXEUNT_ENDING_ABANDONED: c_int = 7;
/// `exeunt_discard` ends the fiber.
pub const EXEUNT_ENDING_DISCARDED: c_int = 8;
/// `exeunt_scope_end` ends the scope.
pub const EXEUNT_ENDING_SCOPE: c_int = 9;

const _: () = {
    use crate::Ending;
    assert!(EXEUNT_ENDING_UNKNOWN == Ending::Unknown as c_int);
    assert!(EXEUNT_ENDING_RETURNED == Ending::Returned as c_int);
    assert!(EXEUNT_ENDING_UNWOUND == Ending::Unwound as c_int);
    assert!(EXEUNT_ENDING_EXITED == Ending::Exited as c_int);
    assert!(EXEUNT_ENDING_CANCELLED == Ending::Cancelled as c_int);
    assert!(EXEUNT_ENDING_PROCESS_EXIT == Ending::ProcessExit as c_int);
    assert!(EXEUNT_ENDING_ABANDONED == Ending::Abandoned as c_int);
    assert!(EXEUNT_ENDING_DISCARDED == Ending::Discarded as c_int);
    assert!(EXEUNT_ENDING_SCOPE == Ending::Scope as c_int);
};

/// How the running stack ends, for its handlers and its values' destructors: one of the
/// `EXEUNT_ENDING_` numbers above. Later versions may have more of them. In a handler of a stack
/// that was abandoned or discarded it is the ending of that stack, although the handler runs on
/// another one.
///
/// The first call on a thread that may have ended by `pthread_exit` or by cancellation starts a
/// thread, once in a process. It learns where libc keeps how a thread ends.
///
/// Thread-safe: it concerns the running stack alone. Not for signal handlers.
#[unsafe(no_mangle)]
pub extern "C" fn exeunt_ending() -> c_int {
    crate::ending().map_or(EXEUNT_ENDING_NONE, |ending| ending as c_int)
}

/// Stores in `*value` what the stack ends with, where `exeunt_ending` is `EXEUNT_ENDING_RETURNED`
/// or `EXEUNT_ENDING_EXITED`: what its function has returned, or what `pthread_exit` was given. It
/// is what `pthread_join` gives; of `main` and C11's threads it is the `int`. It means nothing if
/// the function returns anything else.
///
/// Returns 0; `EXEUNT_EABSENT` with other endings, and where there is no such value: the functions
/// of `makecontext` fibers and of `exeunt_enter` return none to exeunt; or `EXEUNT_EINVALID` for a
/// null `value`.
///
/// Thread-safe: it concerns the running stack alone. Not for signal handlers.
///
/// # Safety
/// `value` must be null or good to write to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn exeunt_returned_value(value: *mut *mut c_void) -> c_int {
    shielded(|| {
        if value.is_null() {
            return Err(Failure::Invalid("exeunt_returned_value: there is no place for the value"));
        }
        let found = crate::returned_value().ok_or(Failure::Absent)?;
        // SAFETY: not null, so good to write to: the caller's promise.
        unsafe { value.write(std::ptr::with_exposed_provenance_mut(found)) };
        Ok(())
    })
}

/// A stack of a thread.
pub const EXEUNT_KIND_THREAD: c_int = 1;
/// The stack that `main` runs on.
pub const EXEUNT_KIND_MAIN: c_int = 2;
/// A `makecontext` fiber.
pub const EXEUNT_KIND_FIBER: c_int = 3;
/// A fiber in `exeunt_enter`, or a scope.
pub const EXEUNT_KIND_ENTERED: c_int = 4;
/// A fiber whose runtime's code was registered.
pub const EXEUNT_KIND_REGISTERED: c_int = 5;

const _: () = {
    use crate::Kind;
    assert!(EXEUNT_KIND_THREAD == Kind::Thread as c_int);
    assert!(EXEUNT_KIND_MAIN == Kind::Main as c_int);
    assert!(EXEUNT_KIND_FIBER == Kind::Fiber as c_int);
    assert!(EXEUNT_KIND_ENTERED == Kind::Entered as c_int);
    assert!(EXEUNT_KIND_REGISTERED == Kind::Registered as c_int);
};

/// An armed stack, as `exeunt_stacks` describes it.
#[repr(C)]
pub struct exeunt_stack {
    /// Its identity: see `exeunt_id`.
    pub id: u64,
    /// The address of its foot.
    pub foot: *const c_void,
    /// The highest address that belongs to it.
    pub base: *const c_void,
    /// The return address of the call into exeunt that has armed it; null if that is not known.
    /// Give the address less one to tools that name code.
    pub armed_from: *const c_void,
    /// One of the `EXEUNT_KIND_` numbers.
    pub kind: c_int,
    /// 1 if the stack has ended and its handlers are running, otherwise 0.
    pub draining: c_int,
}

/// Lists the armed stacks of the process, in no order: for leak detectors. Stores up to `room` of
/// them in `stacks`, and returns how many there are, which may be more.
///
/// It is a snapshot, taken stack by stack: each may have ended by the time you read about it. A
/// fiber that was suspended for ever is listed until it is discarded, or until another stack on its
/// memory is armed. This takes no lock and allocates nothing.
///
/// Thread-safe. Not for signal handlers.
///
/// # Safety
/// `stacks` must be good for `room` elements; it may be null if `room` is 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn exeunt_stacks(stacks: *mut exeunt_stack, room: usize) -> usize {
    let address = std::ptr::with_exposed_provenance;
    let mut count = 0;
    for stack in crate::stacks() {
        if count < room {
            let described = exeunt_stack {
                id: stack.id.get(),
                foot: address(stack.foot),
                base: address(stack.base),
                armed_from: address(stack.armed_from.unwrap_or(0)),
                kind: stack.kind as c_int,
                draining: c_int::from(stack.is_draining),
            };
            // SAFETY: the caller's promise.
            unsafe { stacks.add(count).write(described) };
        }
        count += 1;
    }
    count
}
