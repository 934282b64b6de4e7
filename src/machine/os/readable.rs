//! Whether memory can be read, asked of the kernel: reading what is not there would be a fault.
//!
//! `rt_sigprocmask` copies the new signal set from the address that it is given before it looks at what is to be done with
//! it. With a request that does not exist it fails in any case, and the error says whether it could copy: `EFAULT` or
//! `EINVAL` (Linux `kernel/signal.c`). Nothing is changed, a signal handler may ask, and system call filters let it pass, as
//! every C program needs it. Abseil's `AddressIsReadable` asks in the same way.

use std::arch::asm;
use std::ffi::c_void;
use std::sync::atomic::{AtomicU8, Ordering};

/// No request of `rt_sigprocmask`: these are 0 to 2.
const NO_REQUEST: isize = -1;
/// No program has memory at the end of the address space.
const NOWHERE: usize = usize::MAX - 15;

/// How to ask here.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Method {
    Unknown,
    Mask,
    /// `process_vm_readv`, which is slower, and which filters may forbid. For emulators that answer otherwise than Linux, and for
    /// valgrind, which reports every set that was not written before.
    Copy,
    /// Neither is possible: what is asked about is believed to be there, as every walk believed that did not ask.
    Trust,
}

static WAY: AtomicU8 = AtomicU8::new(Method::Unknown as u8);

/// Whether the eight bytes from `address` on can be read.
pub(crate) fn is_readable(address: usize) -> bool {
    let way = WAY.load(Ordering::Relaxed);
    if way == Method::Mask as u8 {
        return mask_from(address) == -libc::EINVAL as isize;
    }
    if way == Method::Unknown as u8 {
        let word = 0_usize;
        let here = (&raw const word).addr();
        let answers = || (mask_from(here), mask_from(NOWHERE)) == (-libc::EINVAL as isize, -libc::EFAULT as isize);
        // Valgrind is not asked like that even once: memcheck reports it, and drd ends the process.
        let way = if !is_valgrind() && answers() {
            Method::Mask
        } else if can_be_copied(here) {
            Method::Copy
        } else {
            Method::Trust
        };
        WAY.store(way as u8, Ordering::Relaxed);
        return is_readable(address);
    }
    way == Method::Trust as u8 || can_be_copied(address)
}

fn can_be_copied(address: usize) -> bool {
    let mut word = 0_usize;
    let size = size_of::<usize>();
    let local = libc::iovec { iov_base: (&raw mut word).cast(), iov_len: size };
    let remote = libc::iovec { iov_base: address as *mut c_void, iov_len: size };
    let arguments = [
        // SAFETY: only asks.
        unsafe { libc::getpid() } as usize,
        (&raw const local).addr(),
        1,
        (&raw const remote).addr(),
        1,
        0,
    ];
    // SAFETY: the kernel copies between this process and itself, and checks both sides.
    let copied = unsafe { call(libc::SYS_process_vm_readv, arguments) };
    copied == size as isize
}

/// What the kernel says to a new signal set from `address`, and a request that does not exist.
fn mask_from(address: usize) -> isize {
    let set = size_of::<u64>();
    // SAFETY: the kernel checks the address, and changes nothing for want of a request.
    unsafe { call(libc::SYS_rt_sigprocmask, [NO_REQUEST as usize, address, 0, set, 0, 0]) }
}

/// A system call, without `errno`, which is the thread's: a signal handler must leave it as it is.
///
/// # Safety
/// As the system call says.
unsafe fn call(number: libc::c_long, arguments: [usize; 6]) -> isize {
    let [a, b, c, d, e, f] = arguments;
    let result: isize;
    // SAFETY: the caller's promise. The kernel keeps all other registers.
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

/// Whether this runs under valgrind: its request `RUNNING_ON_VALGRIND` (`valgrind.h`), which does nothing on a processor.
pub(crate) fn is_valgrind() -> bool {
    let request: [usize; 6] = [0x1001, 0, 0, 0, 0, 0];
    let result: usize;
    // SAFETY: rotates a register by its width in all, and exchanges another one with itself.
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

    /// The readable and the forbidden page of a mapping.
    fn pages() -> (usize, usize) {
        let memory = os::map_zeroes(8192).expect("there is memory");
        // SAFETY: a part of the mapping that was just made.
        let forbidden = unsafe { libc::mprotect(memory.wrapping_byte_add(4096), 4096, libc::PROT_NONE) };
        assert_eq!(forbidden, 0);
        (memory.addr(), memory.addr() + 4096)
    }

    /// Both ways to ask, or the one that there is: QEMU's user mode and some filters have no `process_vm_readv`.
    fn ways() -> Vec<fn(usize) -> bool> {
        let word = 0_usize;
        let mut ways: Vec<fn(usize) -> bool> = vec![is_readable];
        ways.extend(can_be_copied((&raw const word).addr()).then_some(can_be_copied as fn(usize) -> bool));
        ways
    }

    #[test]
    fn what_can_be_read_is_told_from_what_cannot_in_either_way() {
        let (good, bad) = pages();
        for way in ways() {
            let answers = [good, good + 4088, good + 4089, bad, bad - 8, NOWHERE, 0, 8].map(way);
            assert_eq!(answers, [true, true, false, false, true, false, false, false]);
        }
    }

    #[test]
    fn to_ask_changes_neither_the_signal_mask_nor_errno() {
        let mask = || {
            // SAFETY: fills in the set that it is given.
            unsafe {
                let mut mask: [u64; 16] = [0; 16];
                libc::pthread_sigmask(libc::SIG_BLOCK, std::ptr::null(), mask.as_mut_ptr().cast());
                mask[0]
            }
        };
        let before = mask();
        let ones = u64::MAX;
        // SAFETY: the thread's own.
        unsafe { *libc::__errno_location() = 77 };
        for way in ways() {
            assert!(way((&raw const ones).addr()) && !way(NOWHERE));
        }
        // SAFETY: as above.
        assert_eq!((mask(), unsafe { *libc::__errno_location() }), (before, 77));
    }
}
