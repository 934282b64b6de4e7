//! Replaces one word of code while threads may be running it.
//!
//! ```text
//!   membarrier: register, try once      ─ refused: nothing happened
//!   mprotect  r-x → rwx                 ─ refused: nothing happened, or /proc/self/mem
//!   compare-and-swap the word           ─ another word there: back to r-x
//!   caches, membarrier                  ─ refused: word back, protection back
//!   mprotect  rwx → r-x                 ─ refused twice: word back, reported
//! ```
//!
//! # Why the whole mapping changes its protection, and not the page alone
//!
//! The kernel accounts a private mapping of a file that was ever writable as memory of the process
//! (`VM_ACCOUNT`), and merges neighbours only if their flags are equal. So a page that was writable
//! for a moment stays a separate mapping:
//!
//! ```text
//!   the page alone                                    the whole mapping
//!
//!   |            r-xp            |  before            |            r-xp            |  before
//!   |  r-xp  |rwxp|     r-xp     |                    |            rwxp            |
//!   |  r-xp  |r-xp|     r-xp     |  three, for good   |            r-xp            |  after: one
//! ```
//!
//! Unwinders in other processes and profilers search for an object's code in the mapping that
//! begins where its headers say, and do not find code in another piece. The price is that the
//! mapping's pages count against a limit of committed memory (`vm.overcommit_memory = 2`); only the
//! page that is written is copied. The page alone changes its protection where the change of the
//! whole mapping is refused, and where
//!
//! - the mapping is locked in memory (`mlockall`): the kernel would copy all of it at once;
//! - the memory has no file: its parts merge again, and a JIT compiler may be changing other pages
//!   of it;
//! - the caller passed the protection, so the mapping's bounds are unknown.

use super::arch;
use super::mapping::Mapping;
use super::refusal::{Reason, Refusal};
use super::store::{Store, Word};
use super::syscall::{self, File, PROT_EXEC, PROT_READ, PROT_WRITE};

/// What to do when `mprotect` of the code page is refused (seccomp, SELinux `execmod`, a sealed
/// mapping).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fallback {
    /// Refuse the change.
    Refuse,
    /// Write through `/proc/self/mem`, for which the page need not be writable.
    ///
    /// The kernel then copies the bytes, and no manual says that its copy is one store. In Linux's
    /// own `memcpy` it is one `mov` (x86_64) or `str` (aarch64), except on x86_64 processors with
    /// fast short `rep movsb`, where it is that instruction. No torn store was ever observed, but
    /// the guarantee is weaker than with `mprotect`.
    ProcMem,
}

/// Replaces one word of code. On every refusal the word and its mapping's protection are as before
/// (but see [`Reason::NotRestored`]).
///
/// # Safety
///
/// The word lies in exactly this mapping, and no other code changes any part of the mapping during
/// the call. No other call runs at the same time in this process. Either word, together with the
/// bytes around it, is code that a thread may run there.
pub unsafe fn write(store: Store, mapping: Mapping, fallback: Fallback) -> Result<(), Refusal> {
    if let Err(errno) = syscall::prepare_synchronise_cores() {
        return Err(Refusal::with(Reason::Membarrier, errno));
    }
    // SAFETY: each has the contract of this function.
    unsafe {
        match WritablePages::new(store.at, mapping) {
            Ok(pages) => in_place(store, pages),
            Err(errno) if fallback == Fallback::Refuse => Err(Refusal::with(Reason::Protect, errno)),
            Err(_) => through_file(store),
        }
    }
}

/// Whole pages that are writable until [`restore`](Self::restore).
struct WritablePages {
    at: usize,
    len: usize,
    protection: u32,
}

impl WritablePages {
    /// # Safety
    ///
    /// The address lies in this mapping, and no other code changes the mapping while this value
    /// exists.
    unsafe fn new(address: usize, mapping: Mapping) -> Result<Self, u16> {
        let Mapping { start, end, protection, of_file } = mapping;
        if protection & PROT_WRITE != 0 {
            // The owner of this memory keeps it writable.
            return Ok(Self { at: address, len: 0, protection });
        }
        // It stays executable, because threads may be running there.
        let open = protection | PROT_READ | PROT_WRITE | PROT_EXEC;
        if of_file && !syscall::is_locked(start, end.wrapping_sub(start)) {
            let len = end.wrapping_sub(start);
            // SAFETY: the mapping keeps every permission it had, and `restore` removes the others.
            // A refusal changes nothing, because it is one mapping.
            if unsafe { syscall::mprotect(start, len, open) }.is_ok() {
                return Ok(Self { at: start, len, protection });
            }
        }
        let mut errno = syscall::EINVAL;
        // aarch64 has pages of 4, 16 or 64 KiB. An address that is not aligned to them gives EINVAL
        // and has no effect.
        for len in [0x1000, 0x4000, 0x1_0000] {
            let at = address & !(len - 1);
            // SAFETY: as above.
            match unsafe { syscall::mprotect(at, len, open) } {
                Ok(()) => {
                    return Ok(Self { at, len, protection });
                }
                Err(refused) => errno = refused,
            }
            if errno != syscall::EINVAL {
                break;
            }
        }
        Err(errno)
    }

    fn restore(&self) -> Result<(), u16> {
        if self.len == 0 {
            return Ok(());
        }
        // SAFETY: the pages had this protection before `new`, and only this file writes there.
        unsafe { syscall::mprotect(self.at, self.len, self.protection) }
    }
}

/// # Safety
///
/// As for [`write()`]; `pages` holds the word.
unsafe fn in_place(store: Store, pages: WritablePages) -> Result<(), Refusal> {
    let Store { at, before, after } = store;
    // SAFETY: the word is writable until `restore`, and the caller promises that both words may be
    // executed there.
    let done = unsafe {
        if !arch::compare_and_store(at, before, after) {
            Err(Refusal::new(Reason::Changed))
        } else {
            arch::flush(at);
            syscall::synchronise_cores().map_err(|errno| {
                undo_store(store);
                Refusal::with(Reason::Membarrier, errno)
            })
        }
    };
    if let Err(errno) = pages.restore() {
        // A second attempt, for a kernel that was short of memory for a moment (it splits and
        // merges mappings here).
        if pages.restore().is_err() {
            if done.is_ok() {
                // SAFETY: `restore` failed, so the word is still writable.
                unsafe { undo_store(store) };
            }
            return Err(Refusal::with(Reason::NotRestored, errno));
        }
    }
    done
}

/// # Safety
///
/// As for [`in_place`], with the word still writable.
unsafe fn undo_store(store: Store) {
    // SAFETY: the caller's promise. A word that other code has changed in between is left alone.
    unsafe {
        if arch::compare_and_store(store.at, store.after, store.before) {
            arch::flush(store.at);
        }
    }
    // Best effort: this runs after a refusal, possibly of this same system call.
    let _ = syscall::synchronise_cores();
}

/// # Safety
///
/// As for [`write()`].
unsafe fn through_file(store: Store) -> Result<(), Refusal> {
    let Store { at, before, after } = store;
    // SAFETY: mapped readable, by the caller's promise. `/proc/self/mem` has no compare-and-swap,
    // so the word is compared first.
    if unsafe { arch::read(at) } != before {
        return Err(Refusal::new(Reason::Changed));
    }
    // SAFETY: either word may be executed there, by the caller's promise.
    let wrote = unsafe {
        // The second path is for a process whose main thread, which is `/proc/self`, has ended.
        write_word(b"/proc/self/mem\0", at, before, after)
            .or_else(|_| write_word(b"/proc/thread-self/mem\0", at, before, after))
    };
    if let Err(errno) = wrote {
        return Err(Refusal::with(Reason::Protect, errno));
    }
    // SAFETY: mapped readable, by the caller's promise.
    unsafe { arch::flush(at) };
    syscall::synchronise_cores().map_err(|errno| {
        // SAFETY: as for the write above; best effort, as in `undo_store`.
        unsafe {
            let _ = write_word(b"/proc/thread-self/mem\0", at, after, before);
            arch::flush(at);
        }
        Refusal::with(Reason::Membarrier, errno)
    })
}

/// Changes the word by one `pwrite`: of one byte if only one differs, because one byte is never
/// torn.
///
/// # Safety
///
/// As for [`write()`].
unsafe fn write_word(path: &[u8], at: usize, before: Word, after: Word) -> Result<(), u16> {
    let file = File::open_to_write(path)?;
    let changed = before ^ after;
    let first = changed.trailing_zeros() / 8;
    let one_byte = changed != 0 && changed.leading_zeros() / 8 + first + 1 == Word::BITS / 8;
    let (from, len) = if one_byte { (first as usize, 1) } else { (0, size_of::<Word>()) };
    let bytes = (&raw const after).cast::<u8>();
    // SAFETY: `from + len` is at most the word's size. Both processors are little-endian, so byte n
    // of the value is byte n in memory.
    let wrote = unsafe { file.write_at(bytes.add(from), len, at.wrapping_add(from))? };
    // SAFETY: mapped readable, by the caller's promise.
    if wrote == len && unsafe { arch::read(at) } == after { Ok(()) } else { Err(syscall::EINVAL) }
}
