//! One word of code, replaced while it may be running.
//!
//! ```text
//!   membarrier: register, try once      ─ refused: nothing happened
//!   mprotect  r-x → rwx                 ─ refused: nothing happened, or /proc/self/mem
//!   compare-and-swap the word           ─ another word there: back to r-x
//!   caches, membarrier                  ─ refused: word back, protection back
//!   mprotect  rwx → r-x                 ─ refused twice: word back, and say so
//! ```
//!
//! # The whole mapping is re-protected, and not the page alone
//!
//! A private mapping of a file that was ever writable counts as memory of the process's own (the
//! kernel's `VM_ACCOUNT`), and neighbours are merged only if their flags are equal. So a page that
//! was writable for a moment stays a mapping of its own:
//!
//! ```text
//!   the page alone                                    the whole mapping
//!
//!   |            r-xp            |  before            |            r-xp            |  before
//!   |  r-xp  |rwxp|     r-xp     |                    |            rwxp            |
//!   |  r-xp  |r-xp|     r-xp     |  three, for good   |            r-xp            |  after: one
//! ```
//!
//! Unwinders in other processes and profilers look for an object's code in the mapping that begins
//! where its headers say, and lose what is in another piece. The price is that the mapping's pages
//! count against a limit of committed memory (`vm.overcommit_memory = 2`); none of them is copied
//! but the one that is written. Where that is refused the page alone is re-protected. So it is
//! where
//!
//! - the mapping is locked in memory (`mlockall`): the kernel would copy all of it at once;
//! - the memory has no file: its parts merge again, and a JIT compiler may be changing other pages
//!   of it;
//! - the caller gave the protection, and the mapping's bounds are unknown.

use super::arch;
use super::mapping::Mapping;
use super::refusal::{Reason, Refusal};
use super::store::{Store, Word};
use super::syscall::{self, File, PROT_EXEC, PROT_READ, PROT_WRITE};

/// What may be done when `mprotect` of the code page is refused (seccomp, SELinux `execmod`, a sealed mapping).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fallback {
    /// Nothing: refuse.
    Refuse,
    /// Write through `/proc/self/mem`, which asks no page protection.
    ///
    /// The kernel then copies the bytes, and no manual says that its copy is one store. It is one `mov` (x86_64) or `str`
    /// (aarch64) in Linux's own `memcpy`, except on x86_64 processors with fast short `rep movsb`, where it is that
    /// instruction. No torn store was ever seen, but the guarantee is weaker than with `mprotect`.
    ProcMem,
}

/// Replaces one word of code; on every refusal it is as before, and its mapping's protection too
/// (but see [`Reason::NotRestored`]).
///
/// # Safety
///
/// The word lies in exactly this mapping, and nobody changes any part of that meanwhile. No other
/// call runs at the same time in this process. Either word, with what surrounds it, is code that a
/// thread may run there.
pub unsafe fn write(store: Store, mapping: Mapping, fallback: Fallback) -> Result<(), Refusal> {
    if let Err(errno) = syscall::prepare_synchronise_cores() {
        return Err(Refusal::with(Reason::Membarrier, errno));
    }
    // SAFETY: each takes over the caller's promise.
    unsafe {
        match WritablePages::new(store.at, mapping) {
            Ok(pages) => in_place(store, pages),
            Err(errno) if fallback == Fallback::Refuse => Err(Refusal::with(Reason::Protect, errno)),
            Err(_) => through_file(store),
        }
    }
}

/// Whole pages that are writable for now.
struct WritablePages {
    at: usize,
    len: usize,
    protection: u32,
}

impl WritablePages {
    /// # Safety
    ///
    /// The address lies in this mapping, and nobody else changes that while this value lives.
    unsafe fn new(address: usize, mapping: Mapping) -> Result<Self, u16> {
        let Mapping { start, end, protection, of_file } = mapping;
        if protection & PROT_WRITE != 0 {
            // Its owner writes code here himself, and keeps it so.
            return Ok(Self { at: address, len: 0, protection });
        }
        // Executable all the time, since threads run there.
        let open = protection | PROT_READ | PROT_WRITE | PROT_EXEC;
        if of_file && !syscall::is_locked(start, end.wrapping_sub(start)) {
            let len = end.wrapping_sub(start);
            // SAFETY: the mapping keeps every permission it had; putting back the rest is `restore`.
            // A refusal changes nothing, as it is one mapping.
            if unsafe { syscall::mprotect(start, len, open) }.is_ok() {
                return Ok(Self { at: start, len, protection });
            }
        }
        let mut errno = syscall::EINVAL;
        // aarch64 has pages of 4, 16 or 64 KiB; an address that is not aligned to them is EINVAL and has no effect.
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
        // SAFETY: it had this protection before `new`, and nobody writes there but us.
        unsafe { syscall::mprotect(self.at, self.len, self.protection) }
    }
}

/// # Safety
///
/// As for [`write()`]; `pages` holds the word.
unsafe fn in_place(store: Store, pages: WritablePages) -> Result<(), Refusal> {
    let Store { at, before, after } = store;
    // SAFETY: the word is writable until `restore`; both words may be executed there, by the caller's
    // promise.
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
        // A second try, for a kernel that was short of memory for a moment (mappings are split and merged here).
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
    // SAFETY: the caller's promise. If the word is another one by now, it is not ours to change.
    unsafe {
        if arch::compare_and_store(store.at, store.after, store.before) {
            arch::flush(store.at);
        }
    }
    // Best effort: this is the way out after a refusal, maybe of this very call.
    let _ = syscall::synchronise_cores();
}

/// # Safety
///
/// As for [`write()`].
unsafe fn through_file(store: Store) -> Result<(), Refusal> {
    let Store { at, before, after } = store;
    // SAFETY: mapped readable, by the caller's promise. This file knows no compare-and-swap, so look first.
    if unsafe { arch::read(at) } != before {
        return Err(Refusal::new(Reason::Changed));
    }
    // SAFETY: either word may be executed there, by the caller's promise.
    let wrote = unsafe {
        // The second is for a process whose main thread, which is `/proc/self`, has ended.
        write_word(b"/proc/self/mem\0", at, before, after)
            .or_else(|_| write_word(b"/proc/thread-self/mem\0", at, before, after))
    };
    if let Err(errno) = wrote {
        return Err(Refusal::with(Reason::Protect, errno));
    }
    // SAFETY: mapped readable, by the caller's promise.
    unsafe { arch::flush(at) };
    syscall::synchronise_cores().map_err(|errno| {
        // SAFETY: as for the write before it; best effort, as in `undo_store`.
        unsafe {
            let _ = write_word(b"/proc/thread-self/mem\0", at, after, before);
            arch::flush(at);
        }
        Refusal::with(Reason::Membarrier, errno)
    })
}

/// Changes the word by one `pwrite`, of one byte where that is all that differs: one byte is never torn.
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
    // SAFETY: `from + len` is at most the word's size; both processors are little-endian, so byte n of the value is byte n in
    // memory.
    let wrote = unsafe { file.write_at(bytes.add(from), len, at.wrapping_add(from))? };
    // SAFETY: mapped readable, by the caller's promise.
    if wrote == len && unsafe { arch::read(at) } == after { Ok(()) } else { Err(syscall::EINVAL) }
}
