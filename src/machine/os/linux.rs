//! Linux: system calls.

use crate::machine::arch;
use std::ffi::c_void;
use std::ptr;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

/// Sleeps while `word` holds `value`, at most for `patience`. It may return early without a reason.
pub(crate) fn wait_while(word: &AtomicU32, value: u32, patience: Option<Duration>) {
    let patience = patience.map(|patience| libc::timespec {
        tv_sec: patience.as_secs().try_into().unwrap_or(i64::MAX),
        tv_nsec: patience.subsec_nanos().into(),
    });
    let patience = patience.as_ref().map_or(ptr::null(), ptr::from_ref);
    let operation = libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG;
    // SAFETY: the kernel compares the word, which is borrowed, and reads the time.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), operation, value, patience) };
}

/// Wakes one thread that sleeps on `word`.
pub(crate) fn wake_one(word: &AtomicU32) {
    // SAFETY: the kernel uses the address only to find the threads that sleep on it.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG, 1) };
}

/// Registers the process for the `membarrier` by which all threads see new code, if that is quick.
///
/// Registering waits until each processor has passed through its scheduler, about ten milliseconds,
/// unless the process has one thread (`sync_runqueues_membarrier_state` in Linux's
/// `kernel/sched/membarrier.c`). Where it was not done, or failed, the patch of code registers.
#[cfg(code_redirect)]
pub(crate) fn prepare_for_new_code() {
    // `<linux/membarrier.h>`.
    const REGISTER_PRIVATE_EXPEDITED_SYNC_CORE: i32 = 1 << 6;
    // A program begins with zero in it (ISO C, 7.5).
    // SAFETY: libc gives the running thread's own.
    let errno = unsafe { *libc::__errno_location() };
    if has_one_thread() {
        // SAFETY: the command changes no memory.
        unsafe { libc::syscall(libc::SYS_membarrier, REGISTER_PRIVATE_EXPEDITED_SYNC_CORE, 0, 0) };
    }
    // SAFETY: as above.
    unsafe { *libc::__errno_location() = errno };
}

/// Whether the process has one thread; `false` also where that is not known.
#[cfg(code_redirect)]
fn has_one_thread() -> bool {
    // SAFETY: all zeros are a valid value.
    let mut found: libc::stat = unsafe { std::mem::zeroed() };
    let path = c"/proc/self/task".as_ptr();
    // By number: before 2.33 glibc has no function `stat`. On these processors its structure is the
    // kernel's, and so is musl's.
    // SAFETY: the path ends in a zero, and the kernel fills in the structure.
    let done = unsafe { libc::syscall(libc::SYS_newfstatat, libc::AT_FDCWD, path, &raw mut found, 0) };
    // The folder has a folder for each thread (`proc_task_getattr` in `fs/proc/base.c`).
    done == 0 && found.st_nlink == 3
}

/// Reads a word of memory that may not be mapped any more. The system call returns an error where a
/// load would fault.
pub(crate) fn read_word(address: usize) -> Option<usize> {
    let mut word = 0_usize;
    let size = size_of::<usize>();
    let local = libc::iovec { iov_base: (&raw mut word).cast(), iov_len: size };
    // The kernel takes tagged addresses only from processes that have enabled them, and untagged
    // ones from all.
    let remote = libc::iovec { iov_base: arch::untagged(address) as *mut c_void, iov_len: size };
    // SAFETY: the system copies within this process, and checks both addresses.
    let copied = unsafe { libc::process_vm_readv(libc::getpid(), &raw const local, 1, &raw const remote, 1, 0) };
    if copied == size as isize {
        return Some(word);
    }
    let error = std::io::Error::last_os_error().raw_os_error();
    if error == Some(libc::EFAULT) {
        return None;
    }
    // A seccomp filter forbids the call. Then only a load is left.
    // SAFETY: the callers promise that the memory of armed stacks is discarded before it is
    // unmapped.
    Some(unsafe { (address as *const usize).read_volatile() })
}
