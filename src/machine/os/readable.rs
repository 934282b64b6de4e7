//! Whether memory can be read ([`is_readable`]), by a system call: a load would fault where there
//! is no memory. And whether the process runs under valgrind ([`is_valgrind`]).
//!
//! `rt_sigprocmask` copies the new signal set from the given address before it checks the request.
//! With an invalid request it fails in any case, and the error shows whether the copy succeeded:
//! `EINVAL` if it did, `EFAULT` if not (Linux `kernel/signal.c`). The call changes nothing, a
//! signal handler may make it, and system call filters allow it, as every C program needs it.
//! Abseil's `AddressIsReadable` does the same.

use std::arch::asm;
use std::ffi::c_void;
use std::sync::atomic::{AtomicU8, Ordering};

/// An invalid request for `rt_sigprocmask`: the valid ones are 0 to 2.
const NO_REQUEST: isize = -1;
/// An address at which no program has memory: the end of the address space.
const UNMAPPED: usize = usize::MAX - 15;

/// How this process checks memory.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Check {
    Unknown,
    SignalMask,
    /// `process_vm_readv`, which is slower, and which filters may forbid. For emulators whose
    /// `rt_sigprocmask` differs from Linux, and for valgrind, which reports every signal set whose
    /// memory was never written.
    Copy,
    /// Neither call works: every address counts as readable.
    None,
}

static CHECK: AtomicU8 = AtomicU8::new(Check::Unknown as u8);

/// Whether the eight bytes from `address` on can be read.
pub(crate) fn is_readable(address: usize) -> bool {
    let check = CHECK.load(Ordering::Relaxed);
    if check == Check::SignalMask as u8 {
        return set_mask_from(address) == -libc::EINVAL as isize;
    }
    if check == Check::Unknown as u8 {
        let word = 0_usize;
        let here = (&raw const word).addr();
        let is_as_on_linux =
            || (set_mask_from(here), set_mask_from(UNMAPPED)) == (-libc::EINVAL as isize, -libc::EFAULT as isize);
        // Not even one such call under valgrind: memcheck reports it, and drd ends the process.
        let check = if !is_valgrind() && is_as_on_linux() {
            Check::SignalMask
        } else if can_be_copied(here) {
            Check::Copy
        } else {
            Check::None
        };
        CHECK.store(check as u8, Ordering::Relaxed);
        return is_readable(address);
    }
    check == Check::None as u8 || can_be_copied(address)
}

fn can_be_copied(address: usize) -> bool {
    let mut word = 0_usize;
    let size = size_of::<usize>();
    let local = libc::iovec { iov_base: (&raw mut word).cast(), iov_len: size };
    let remote = libc::iovec { iov_base: address as *mut c_void, iov_len: size };
    let arguments = [
        // SAFETY: `getpid` has no preconditions.
        unsafe { libc::getpid() } as usize,
        (&raw const local).addr(),
        1,
        (&raw const remote).addr(),
        1,
        0,
    ];
    // SAFETY: the kernel copies within this process, and checks both addresses.
    let copied = unsafe { call(libc::SYS_process_vm_readv, arguments) };
    copied == size as isize
}

/// The result of `rt_sigprocmask` with the new signal set at `address` and an invalid request.
fn set_mask_from(address: usize) -> isize {
    let set = size_of::<u64>();
    // SAFETY: the kernel checks the address, and changes nothing because the request is invalid.
    unsafe { call(libc::SYS_rt_sigprocmask, [NO_REQUEST as usize, address, 0, set, 0, 0]) }
}

/// A system call that leaves `errno` alone: a signal handler must not change it.
///
/// # Safety
/// As for that system call.
unsafe fn call(number: libc::c_long, arguments: [usize; 6]) -> isize {
    let [a, b, c, d, e, f] = arguments;
    let result: isize;
    // SAFETY: the caller keeps the system call's rules. The kernel preserves all other registers.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        asm!("syscall", inlateout("rax") number as isize => result, in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d,
            in("r8") e, in("r9") f, lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    // SAFETY: as above.
    #[cfg(target_arch = "aarch64")]
    unsafe {
        asm!("svc #0", in("x8") number, inlateout("x0") a as isize => result, in("x1") b, in("x2") c, in("x3") d,
            in("x4") e, in("x5") f, options(nostack));
    }
    result
}

/// Whether the process runs under valgrind, by its client request `RUNNING_ON_VALGRIND`
/// (`valgrind.h`). On a processor the request does nothing.
pub(crate) fn is_valgrind() -> bool {
    let request: [usize; 6] = [0x1001, 0, 0, 0, 0, 0];
    let result: usize;
    // SAFETY: rotates a register by its width in total, and exchanges another one with itself.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        asm!("rol rdi, 3", "rol rdi, 13", "rol rdi, 61", "rol rdi, 51", "xchg rbx, rbx",
            inlateout("rdx") 0_usize => result, in("rax") &raw const request, inlateout("rdi") 0 => _, options(nostack));
    }
    // SAFETY: as above.
    #[cfg(target_arch = "aarch64")]
    unsafe {
        asm!("ror x12, x12, #3", "ror x12, x12, #13", "ror x12, x12, #51", "ror x12, x12, #61", "orr x10, x10, x10",
            inlateout("x3") 0_usize => result, in("x4") &raw const request, inlateout("x12") 0 => _, options(nostack));
    }
    result != 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::os;

    /// The addresses of a readable and of a forbidden page.
    fn pages() -> (usize, usize) {
        let memory = os::map_zeroes(8192).expect("there is memory");
        // SAFETY: part of the mapping that was just made.
        let forbidden = unsafe { libc::mprotect(memory.wrapping_byte_add(4096), 4096, libc::PROT_NONE) };
        assert_eq!(forbidden, 0);
        (memory.addr(), memory.addr() + 4096)
    }

    /// The usual check, and the one by copying where it works: QEMU's user mode and some filters
    /// have no `process_vm_readv`.
    fn checks() -> Vec<fn(usize) -> bool> {
        let word = 0_usize;
        let mut checks: Vec<fn(usize) -> bool> = vec![is_readable];
        checks.extend(can_be_copied((&raw const word).addr()).then_some(can_be_copied as fn(usize) -> bool));
        checks
    }

    #[test]
    fn each_check_tells_readable_memory_from_unreadable() {
        let (good, bad) = pages();
        for check in checks() {
            let answers = [good, good + 4088, good + 4089, bad, bad - 8, UNMAPPED, 0, 8].map(check);
            assert_eq!(answers, [true, true, false, false, true, false, false, false]);
        }
    }

    #[test]
    fn a_check_changes_neither_the_signal_mask_nor_errno() {
        let mask = || {
            // SAFETY: `pthread_sigmask` fills in the set, which has room for it.
            unsafe {
                let mut mask: [u64; 16] = [0; 16];
                libc::pthread_sigmask(libc::SIG_BLOCK, std::ptr::null(), mask.as_mut_ptr().cast());
                mask[0]
            }
        };
        let before = mask();
        let ones = u64::MAX;
        // SAFETY: `errno` belongs to this thread.
        unsafe { *libc::__errno_location() = 77 };
        for check in checks() {
            assert!(check((&raw const ones).addr()) && !check(UNMAPPED));
        }
        // SAFETY: as above.
        assert_eq!((mask(), unsafe { *libc::__errno_location() }), (before, 77));
    }
}
