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
//! (`VM_ACCOUNT`), and merges neighbours only if their flags are equal. Before its commit
//! 879bca0a2c4f ("mm/vma: fix incorrectly disallowed anonymous VMA merges"), it also refused to
//! merge a piece that has a copied page with one that has none. So a page that was writable for a
//! moment stays a separate mapping:
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
//! - the memory has no file: its parts merge again, and a JIT compiler may be changing other pages
//!   of it;
//! - the caller passed the protection, so the mapping's bounds are unknown.
//!
//! A mapping that is locked in memory (`mlockall`) would be copied as a whole when it becomes
//! writable (`mprotect_fixup` in Linux's `mm/mprotect.c` fills locked mappings). It is not if its
//! pages are locked when they are first used, so its lock is of that kind meanwhile (`mlock2(2)`).
//! Its pages are there, and stay locked.
//!
//! # Other ways, and why not
//!
//! Measured on Linux 6.18, a private mapping of a file:
//!
//! | | mappings after | one store |
//! |---|---|---|
//! | a page writable and back | 3, for good | yes |
//! | the whole mapping writable and back | 1, also after a debugger's write | yes |
//! | the first of three pieces that another program left, and back | 2 of the 3 | yes |
//! | a page, after the whole mapping once | 1 | yes |
//! | `/proc/self/mem` | 1 | no promise |
//!
//! The fourth would spare time, since the kernel visits each page of the mapping that is in memory:
//! there and back 50 to 120 µs per MiB of such pages on the virtual machine of these measurements,
//! and 7 to 10 µs for one page. But it rests on flags that the mapping has since the first change.
//! Only `smaps` shows them, and for that the kernel visits all pages as well.
//!
//! There is no second address to write to: a private copy of a page has one, and the file's own
//! page must not change.
//!
//! # Two copies of this crate
//!
//! A process can contain this code more than once. One copy would store where the other has just
//! taken back the right to write. So [`write()`] waits for the exclusive use of the process's code
//! ([`Exclusive`]), and looks the mapping up again if it was writable before: by its owner, or for
//! another copy's store.

use super::arch;
use super::mapping::{self, Mapping};
use super::refusal::{Reason, Refusal};
use super::store::{Store, Word};
use super::syscall::{self, Exclusive, File, PROT_EXEC, PROT_READ, PROT_WRITE};

/// What to do when `mprotect` of the code page is refused (seccomp, SELinux's `execmem`,
/// `PR_SET_MDWE`, a sealed mapping).
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
/// the call, but for other copies of this crate. No other call of this copy runs at the same time.
/// Either word, together with the bytes around it, is code that a thread may run there.
pub unsafe fn write(store: Store, mapping: Mapping, fallback: Fallback) -> Result<(), Refusal> {
    if let Err(errno) = syscall::prepare_synchronise_cores() {
        return Err(Refusal::with(Reason::Membarrier, errno));
    }
    let _exclusive = Exclusive::wait();
    let is_known = mapping.start < mapping.end;
    let maybe_of_another = is_known && mapping.protection & PROT_WRITE != 0;
    let mapping = if maybe_of_another { mapping::executable(store.at)? } else { mapping };
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
    /// Whether all pages were locked in memory at once, which is not so now.
    relock: bool,
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
            return Ok(Self { at: address, len: 0, protection, relock: false });
        }
        // It stays executable, because threads may be running there.
        let open = protection | PROT_READ | PROT_WRITE | PROT_EXEC;
        let len = end.wrapping_sub(start);
        let lock = if of_file { prepare_lock(start, len) } else { None };
        if let Some(relock) = lock {
            // SAFETY: the mapping keeps every permission it had, and `restore` removes the others.
            // A refusal changes nothing, because it is one mapping.
            let writable = unsafe { syscall::mprotect(start, len, open) };
            let whole = Self { at: start, len, protection, relock };
            if writable.is_ok() {
                return Ok(whole);
            }
            whole.restore_lock();
        }
        let mut errno = syscall::EINVAL;
        // aarch64 has pages of 4, 16 or 64 KiB. An address that is not aligned to them gives EINVAL
        // and has no effect.
        for len in [0x1000, 0x4000, 0x1_0000] {
            let at = address & !(len - 1);
            // SAFETY: as above.
            match unsafe { syscall::mprotect(at, len, open) } {
                Ok(()) => {
                    return Ok(Self { at, len, protection, relock: false });
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
        unsafe { syscall::mprotect(self.at, self.len, self.protection) }?;
        self.restore_lock();
        Ok(())
    }

    fn restore_lock(&self) {
        if self.relock {
            // If it is refused, which it was not a moment ago, the pages are locked all the same.
            let _ = syscall::lock(self.at, self.len, false);
        }
    }
}

/// Changes the lock of a mapping in memory, if there is one, so that the mapping can be writable
/// without being copied. Returns whether the lock has to be restored; `None` where that fails.
fn prepare_lock(start: usize, len: usize) -> Option<bool> {
    if !syscall::is_locked(start, len) || mapping::is_locked_on_fault(start).ok()? {
        return Some(false);
    }
    syscall::lock(start, len, true).ok()?;
    Some(true)
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
