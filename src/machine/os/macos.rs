//! macOS: system calls. The authors have built and linked this file, but never run it.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// Sleeps while `word` holds `value`, at most for `patience`. It may return early without a reason.
/// macOS has no such call that is public in all of its versions, so this function sleeps for a
/// moment.
pub(crate) fn wait_while(word: &AtomicU32, value: u32, patience: Option<Duration>) {
    const MOMENT: Duration = Duration::from_micros(100);
    if word.load(Ordering::Relaxed) == value {
        std::thread::sleep(patience.map_or(MOMENT, |patience| patience.min(MOMENT)));
    }
}

/// Wakes one thread that sleeps on `word`. There is nothing to do: all of them wake by themselves.
pub(crate) fn wake_one(_word: &AtomicU32) {}

/// Reads a word of memory that may not be mapped any more. The kernel returns an error where a load
/// would fault.
pub(crate) fn read_word(address: usize) -> Option<usize> {
    unsafe extern "C" {
        static mach_task_self_: u32;
        fn mach_vm_read_overwrite(task: u32, from: u64, size: u64, to: u64, copied: *mut u64) -> i32;
    }
    let (mut word, mut copied) = (0_usize, 0_u64);
    let size = size_of::<usize>() as u64;
    // SAFETY: the kernel copies within this task, and checks both addresses.
    let result = unsafe {
        mach_vm_read_overwrite(mach_task_self_, address as u64, size, (&raw mut word) as u64, &raw mut copied)
    };
    (result == 0 && copied == size).then_some(word)
}

/// Whether the eight bytes from `address` on can be read.
pub(crate) fn is_readable(address: usize) -> bool {
    read_word(address).is_some()
}

/// A patch of code needs nothing early.
#[cfg(code_redirect)]
pub(crate) fn prepare_for_new_code() {}
