//! The nine system calls. Each returns the kernel's error number as its error.

use super::arch::{nr, syscall};

/// `PROT_…`, the same on every Linux.
pub const PROT_READ: u32 = 1;
/// Writable.
pub const PROT_WRITE: u32 = 2;
/// Executable.
pub const PROT_EXEC: u32 = 4;
/// aarch64: indirect branches must land on `BTI`.
pub const PROT_BTI: u32 = 0x10;
/// aarch64: memory tags are checked.
pub const PROT_MTE: u32 = 0x20;

/// The kernel does not accept the address or an argument, e.g. it is not aligned to the page size.
pub const EINVAL: u16 = 22;

const EBUSY: u16 = 16;
const MS_INVALIDATE: usize = 2;
const MLOCK_ONFAULT: usize = 1;

const EINTR: u16 = 4;
const LOCK_EX: usize = 2;
const LOCK_UN: usize = 8;

const AT_FDCWD: usize = -100isize as usize;
const O_RDONLY: usize = 0;
const O_WRONLY: usize = 1;
const O_CLOEXEC: usize = 0o2_000_000;

const PRIVATE_EXPEDITED_SYNC_CORE: usize = 1 << 5;
const REGISTER_PRIVATE_EXPEDITED_SYNC_CORE: usize = 1 << 6;

fn answer(raw: isize) -> Result<usize, u16> {
    if raw < 0 { Err(raw.unsigned_abs() as u16) } else { Ok(raw as usize) }
}

/// Changes the protection of whole pages.
///
/// # Safety
///
/// No code relies on the pages having another protection.
pub unsafe fn mprotect(at: usize, len: usize, protection: u32) -> Result<(), u16> {
    // SAFETY: the caller's promise.
    answer(unsafe { syscall(nr::MPROTECT, at, len, protection as usize, 0) }).map(|_| ())
}

/// Whether pages of this range are locked in memory (`mlock(2)`).
///
/// `msync(2)` with `MS_INVALIDATE` fails with `EBUSY` for such pages, and on Linux does nothing
/// else.
pub fn is_locked(at: usize, len: usize) -> bool {
    // SAFETY: no memory is changed.
    answer(unsafe { syscall(nr::MSYNC, at, len, MS_INVALIDATE, 0) }) == Err(EBUSY)
}

/// Locks pages in memory: those that are there, and others when they are first used, or at once
/// (`mlock2(2)`).
pub(super) fn lock(at: usize, len: usize, on_fault: bool) -> Result<(), u16> {
    let how = if on_fault { MLOCK_ONFAULT } else { 0 };
    // SAFETY: no memory is changed.
    answer(unsafe { syscall(nr::MLOCK2, at, len, how, 0) }).map(|_| ())
}

/// Registers this process for [`synchronise_cores`], and tries it once, so that a refusal comes
/// before any change.
pub fn prepare_synchronise_cores() -> Result<(), u16> {
    // SAFETY: the command does not change memory.
    answer(unsafe { syscall(nr::MEMBARRIER, REGISTER_PRIVATE_EXPEDITED_SYNC_CORE, 0, 0, 0) })?;
    synchronise_cores()
}

/// Returns when every running thread of the process has executed a core-serialising instruction
/// (`membarrier(2)`).
pub fn synchronise_cores() -> Result<(), u16> {
    // SAFETY: as above.
    answer(unsafe { syscall(nr::MEMBARRIER, PRIVATE_EXPEDITED_SYNC_CORE, 0, 0, 0) }).map(|_| ())
}

/// An open file.
pub struct File(usize);

impl File {
    /// Opens a file for reading. `path` must end with a zero byte; otherwise nothing is opened.
    pub fn open(path: &[u8]) -> Result<Self, u16> {
        Self::open_as(path, O_RDONLY)
    }

    /// Opens an existing file for writing.
    pub fn open_to_write(path: &[u8]) -> Result<Self, u16> {
        Self::open_as(path, O_WRONLY)
    }

    fn open_as(path: &[u8], how: usize) -> Result<Self, u16> {
        if path.last() != Some(&0) {
            return Err(EINVAL);
        }
        // SAFETY: a zero-terminated path.
        let fd = answer(unsafe { syscall(nr::OPENAT, AT_FDCWD, path.as_ptr() as usize, how | O_CLOEXEC, 0) })?;
        Ok(Self(fd))
    }

    /// Reads up to `len` bytes into `to`; 0 means the end of the file.
    ///
    /// # Safety
    ///
    /// `to` points to `len` bytes that may be overwritten.
    pub unsafe fn read(&self, to: *mut u8, len: usize) -> Result<usize, u16> {
        // SAFETY: the caller's promise.
        answer(unsafe { syscall(nr::READ, self.0, to as usize, len, 0) })
    }

    /// Writes up to `len` bytes at an offset of the file.
    ///
    /// # Safety
    ///
    /// `from` points to `len` readable bytes, and the file may be changed there.
    pub unsafe fn write_at(&self, from: *const u8, len: usize, offset: usize) -> Result<usize, u16> {
        // SAFETY: the caller's promise.
        answer(unsafe { syscall(nr::PWRITE64, self.0, from as usize, len, offset) })
    }
}

/// The exclusive use of the process's code among all copies of this crate in the process.
pub(super) struct Exclusive(File);

impl Exclusive {
    /// Waits until no other thread of the process has it. `None` where the kernel refuses.
    ///
    /// Copies share no variable, so they share a file that belongs to the process alone: they lock
    /// `/proc/self/comm` by `flock(2)`, for which each open file is another owner. A child of
    /// `fork` has a `/proc/self` of its own, and no lock on it.
    pub(super) fn wait() -> Option<Self> {
        let file = File::open(b"/proc/self/comm\0").ok()?;
        // A signal's handler ends the wait. Bounded, as every loop here.
        for _ in 0..1000 {
            // SAFETY: the command does not change memory.
            match answer(unsafe { syscall(nr::FLOCK, file.0, LOCK_EX, 0, 0) }) {
                Ok(_) => return Some(Self(file)),
                Err(EINTR) => {}
                Err(_) => break,
            }
        }
        None
    }
}

impl Drop for Exclusive {
    fn drop(&mut self) {
        // Closing the descriptor is not enough: a child of a `fork` meanwhile has a copy of it.
        // SAFETY: as above.
        unsafe { syscall(nr::FLOCK, self.0.0, LOCK_UN, 0, 0) };
    }
}

impl Drop for File {
    fn drop(&mut self) {
        // SAFETY: this value owns the descriptor, which is not used again. An error is ignored: the
        // descriptor is closed in any case.
        unsafe { syscall(nr::CLOSE, self.0, 0, 0, 0) };
    }
}
