//! macOS on Intel processors: the Mach kernel's calls look code up and write it. Compiled and
//! linked, but never run by its authors.
//!
//! ```text
//!   a scratch page: give and remove its rights      ─ refused: nothing happened
//!   mach_vm_protect  r-x → rwx, with VM_PROT_COPY   ─ refused: nothing happened
//!   compare-and-swap the word                       ─ another word there: page back to r-x
//!   the scratch page: write, remove its rights      ─ refused: word back, page back
//!   mach_vm_protect  rwx → r-x                      ─ refused twice: word back, reported
//! ```
//!
//! # The page stays executable
//!
//! System libraries lie in the shared cache, whose pages all programs share and may not write.
//! `VM_PROT_COPY` makes the page private: `vm_map_protect` in xnu's `osfmk/vm/vm_map.c` replaces it
//! with a copy-on-write mapping of the same memory. It holds the lock of the address space, and
//! keeps those of the old mapping's rights that the caller requests
//! (`new_entry->protection &= max_prot_for_prot_copy`). So a request for `rw-` would take the right
//! to execute from threads that run there at that moment, including this one if the page holds
//! `mach_msg` (coolstar/libhooker issue 1). A request for `rwx` keeps the right all the time. A
//! thread that accesses the page in between faults, waits for that lock, and continues. BoxFort
//! writes code with these rights (Snaipe/BoxFort pull request 31). So does Frida's gum on Intel
//! Macs, which suspends other threads where `rwx` is not available.
//!
//! A program with the hardened runtime may not have both rights. [`ready`] finds that out with a
//! scratch page, because some kernels do not refuse the request but silently drop the right to
//! execute.
//!
//! The alternative is to move a changed copy of the page over the old one (`mach_vm_remap`). That
//! never needs both rights, but it replaces a page to change a word: changes that other code makes
//! to the page in the meantime are lost.
//!
//! # Every thread executes a serialising instruction
//!
//! macOS has no `membarrier`. But when a call that removes a right from a page returns, the right
//! must be gone from the TLB of each processor. x86_64 cannot do that from another processor, so
//! xnu interrupts each processor on which this address space is in use, and waits until all have
//! answered (`pmap_flush_tlbs`, `osfmk/x86_64/pmap.c`; "alterations to the address space of a task
//! active on a remote processor result in a signal"). They return from the interrupt by `IRET`.
//! Processors on which it is not in use load `CR3` before they run a thread of this process, as the
//! kernel does at every return to a program (`osfmk/x86_64/idt64.s`). Both are serialising (Intel
//! SDM vol. 3, "Serializing Instructions"; AMD64 APM vol. 2, 7.6.4). A thread that the kernel has
//! suspended resumes in one of these two ways as well.
//!
//! The scratch page is written after the code, so it is in the page table when its right is
//! removed, and the kernel cannot skip the interrupts. .NET implemented its process-wide barrier in
//! this way on Intel Macs for six years (dotnet/coreclr pull request 1057). It stopped because
//! memory that can be wired is limited (dotnet/runtime pull request 62822). This file does not wire
//! the page: if the kernel reclaimed it in between, that would have caused the same interrupts.
//!
//! xnu behaves like this, but Apple does not promise it. It does not hold under Rosetta 2, whose
//! programs run on other processors, as other code: there every patch is refused.
//!
//! # What a patch leaves behind
//!
//! A patched page of a system library stays a private copy, and its *greatest* protection includes
//! writing. `vmmap` shows both.

use crate::engine::error::{Error, Refused};
use crate::raw::{Fallback, Reason, Store, arch};
use mach2::kern_return::{KERN_INVALID_ADDRESS, KERN_NO_SPACE, KERN_PROTECTION_FAILURE, KERN_SUCCESS, kern_return_t};
use mach2::traps::mach_task_self;
use mach2::vm::{mach_vm_allocate, mach_vm_deallocate, mach_vm_map, mach_vm_protect, mach_vm_region_recurse};
use mach2::vm_inherit::VM_INHERIT_COPY;
use mach2::vm_prot::{VM_PROT_ALL, VM_PROT_COPY, VM_PROT_EXECUTE, VM_PROT_READ, VM_PROT_WRITE, vm_prot_t};
use mach2::vm_region::vm_region_submap_short_info_64 as Region;
use mach2::vm_statistics::{VM_FLAGS_ANYWHERE, VM_FLAGS_FIXED};
use std::ops::Range;

/// Below is `__PAGEZERO`, which is neither free nor a mapping.
pub const LOWEST_ADDRESS: usize = 1 << 32;

/// The only page size on these processors.
const PAGE: usize = 4096;

/// The depth to which nested submaps are searched.
const MAX_DEPTH: u32 = 1024;

fn done(result: kern_return_t) -> Result<(), kern_return_t> {
    if result == KERN_SUCCESS { Ok(()) } else { Err(result) }
}

/// # Safety
///
/// No code relies on these pages having another protection.
unsafe fn protect(pages: &Range<usize>, protection: vm_prot_t) -> Result<(), kern_return_t> {
    // SAFETY: the caller's promise.
    done(unsafe { mach_vm_protect(mach_task_self(), pages.start as u64, pages.len() as u64, 0, protection) })
}

/// The first mapping that ends behind `address`. Submaps are searched down to `depth`.
fn region(address: usize, depth: u32) -> Result<Option<(Range<usize>, Region)>, kern_return_t> {
    let (mut start, mut size, mut depth) = (address as u64, 0, depth);
    let mut info = Region::default();
    let mut count = Region::count();
    // SAFETY: changes nothing; the kernel writes at most `count` words, and `info` has room for
    // them.
    let result = unsafe {
        mach_vm_region_recurse(
            mach_task_self(),
            &raw mut start,
            &raw mut size,
            &raw mut depth,
            (&raw mut info).cast(),
            &raw mut count,
        )
    };
    match result {
        KERN_INVALID_ADDRESS => Ok(None),
        _ => done(result).map(|()| Some((start as usize..start.saturating_add(size) as usize, info))),
    }
}

/// The `VM_PROT_…` bits at `address`, if it is mapped readable and executable.
pub fn executable(address: usize) -> Result<u32, Refused> {
    executable_region(address).map(|(_, protection)| protection)
}

/// The range of the mapping at `address`, if it is readable and executable.
pub fn executable_range(address: usize) -> Result<Range<usize>, Refused> {
    executable_region(address).map(|(range, _)| range)
}

fn executable_region(address: usize) -> Result<(Range<usize>, u32), Refused> {
    const NEEDED: vm_prot_t = VM_PROT_READ | VM_PROT_EXECUTE;
    match region(address, MAX_DEPTH) {
        Err(number) => Err(Refused { reason: Reason::NoMaps, number }),
        Ok(Some((range, info))) if range.contains(&address) && info.protection & NEEDED == NEEDED => {
            Ok((range, info.protection as u32))
        }
        Ok(_) => Err(Refused { reason: Reason::NotExecutable, number: 0 }),
    }
}

/// Returns an error if no code of this process can be patched.
pub fn ready(at: usize) -> Result<(), Error> {
    if translated() {
        return Err(Error::Translated { at });
    }
    try_on_scratch_page().map_err(|errno| Error::Protect { at, errno })
}

/// Whether Rosetta 2 translates this process, as in Apple's "About the Rosetta translation
/// environment".
fn translated() -> bool {
    let mut answer: libc::c_int = 0;
    let mut size = size_of_val(&answer);
    let name = c"sysctl.proc_translated";
    // SAFETY: changes nothing; `size` is that of `answer`. The name does not exist on a system
    // without Rosetta.
    let result =
        unsafe { libc::sysctlbyname(name.as_ptr(), (&raw mut answer).cast(), &raw mut size, std::ptr::null_mut(), 0) };
    result == 0 && answer != 0
}

/// Changes the rights of a scratch page as [`WritablePage`] does for a page of code: whether that
/// is refused depends only on the process.
fn try_on_scratch_page() -> Result<(), kern_return_t> {
    let page = ScratchPage::new()?;
    // SAFETY: our own page, which no code executes.
    unsafe {
        protect(&page.range, VM_PROT_READ | VM_PROT_EXECUTE)?;
        protect(&page.range, VM_PROT_ALL | VM_PROT_COPY)?;
    }
    match region(page.range.start, MAX_DEPTH)? {
        Some((_, info)) if info.protection & VM_PROT_ALL == VM_PROT_ALL => Ok(()),
        // Granted without the right to execute.
        _ => Err(KERN_PROTECTION_FAILURE),
    }
}

/// Replaces one word of code. On every refusal the word and its page's protection are as before
/// (but see [`Reason::NotRestored`]). This system has no fallback.
///
/// # Safety
///
/// The word is mapped with exactly `protection`, and no other code changes that during the call. No
/// other call runs at the same time in this process. Either word, together with the bytes around
/// it, is code that a thread may run there. [`ready`] has returned `Ok`.
pub unsafe fn write(store: Store, protection: u32, _fallback: Fallback) -> Result<(), Refused> {
    let unsynchronised = |number| Refused { reason: Reason::Membarrier, number };
    let scratch = ScratchPage::new().map_err(unsynchronised)?;
    scratch.synchronise().map_err(unsynchronised)?;
    // SAFETY: each has the contract of this function.
    unsafe {
        let page = WritablePage::new(store.at, protection as vm_prot_t)
            .map_err(|number| Refused { reason: Reason::Protect, number })?;
        in_place(store, &page, &scratch)
    }
}

/// A page that is writable until [`restore`](Self::restore).
struct WritablePage {
    range: Range<usize>,
    protection: vm_prot_t,
    /// The owner of this memory keeps it writable.
    always: bool,
}

impl WritablePage {
    /// # Safety
    ///
    /// The page has this protection, and no other code changes it while this value exists.
    unsafe fn new(address: usize, protection: vm_prot_t) -> Result<Self, kern_return_t> {
        let start = address & !(PAGE - 1);
        let page = Self { range: start..start + PAGE, protection, always: protection & VM_PROT_WRITE != 0 };
        if !page.always {
            // It stays executable, because threads may be running there; and the copy is never
            // memory that other processes share. SAFETY: the page keeps every right it had, and
            // `restore` removes the others.
            unsafe { protect(&page.range, VM_PROT_ALL | VM_PROT_COPY)? };
        }
        Ok(page)
    }

    fn restore(&self) -> Result<(), kern_return_t> {
        if self.always {
            return Ok(());
        }
        // SAFETY: the page had this protection before `new`, and only this file writes there.
        unsafe { protect(&self.range, self.protection) }
    }
}

/// # Safety
///
/// As for [`write()`]; `page` holds the word.
unsafe fn in_place(store: Store, page: &WritablePage, scratch: &ScratchPage) -> Result<(), Refused> {
    let Store { at, before, after } = store;
    // SAFETY: the page is writable until `restore`, and the caller promises that both words may be
    // executed there.
    let done = unsafe {
        if !arch::compare_and_store(at, before, after) {
            Err(Refused { reason: Reason::Changed, number: 0 })
        } else {
            scratch.synchronise().map_err(|number| {
                undo_store(store, scratch);
                Refused { reason: Reason::Membarrier, number }
            })
        }
    };
    if let Err(number) = page.restore() {
        // A second attempt, for a kernel that was short of memory for a moment.
        if page.restore().is_err() {
            if done.is_ok() {
                // SAFETY: `restore` failed, so the page is still writable.
                unsafe { undo_store(store, scratch) };
            }
            return Err(Refused { reason: Reason::NotRestored, number });
        }
    }
    done
}

/// # Safety
///
/// As for [`in_place`], with the page still writable.
unsafe fn undo_store(store: Store, scratch: &ScratchPage) {
    // SAFETY: the caller's promise. A word that other code has changed in between is left alone.
    unsafe { arch::compare_and_store(store.at, store.after, store.before) };
    // Best effort: this runs after a refusal, possibly of this same system call.
    let _ = scratch.synchronise();
}

/// A page that only this file uses, to change its rights.
struct ScratchPage {
    range: Range<usize>,
}

impl ScratchPage {
    /// Maps a page, readable and writable.
    fn new() -> Result<Self, kern_return_t> {
        let mut start = 0;
        // SAFETY: new memory, anywhere.
        done(unsafe { mach_vm_allocate(mach_task_self(), &raw mut start, PAGE as u64, VM_FLAGS_ANYWHERE) })?;
        Ok(Self { range: start as usize..start as usize + PAGE })
    }

    /// Returns when every processor that runs this process has executed a serialising instruction:
    /// see above.
    fn synchronise(&self) -> Result<(), kern_return_t> {
        let word = std::ptr::with_exposed_provenance_mut::<u8>(self.range.start);
        // SAFETY: our own page, which is writable at the write and which no other code uses.
        unsafe {
            protect(&self.range, VM_PROT_READ | VM_PROT_WRITE)?;
            // From here on the page is in the page table, and writable there.
            word.write_volatile(1);
            protect(&self.range, VM_PROT_READ)
        }
    }
}

impl Drop for ScratchPage {
    fn drop(&mut self) {
        // SAFETY: our own page, which is not used again.
        unsafe { unmap(&self.range) };
    }
}

/// The mapped ranges. The shared cache counts as a whole, because gaps in it belong to the system.
pub fn occupied() -> Result<Vec<Range<usize>>, Error> {
    let mut all = Vec::new();
    let mut from = LOWEST_ADDRESS;
    while let Some((range, _)) = region(from, 0).map_err(|errno| Error::NoMaps { errno })? {
        if range.end <= from {
            break;
        }
        from = range.end;
        all.push(range);
    }
    Ok(all)
}

/// Maps free pages writable. `at` is the stub's address in them.
pub fn reserve(pages: &Range<usize>, at: usize) -> Result<(), Error> {
    let mut start = pages.start as u64;
    // SAFETY: new memory that replaces none (`VM_FLAGS_FIXED` without `VM_FLAGS_OVERWRITE`). The
    // child of a fork gets a copy.
    let result = unsafe {
        mach_vm_map(
            mach_task_self(),
            &raw mut start,
            pages.len() as u64,
            0,
            VM_FLAGS_FIXED,
            0,
            0,
            0,
            VM_PROT_READ | VM_PROT_WRITE,
            VM_PROT_ALL,
            VM_INHERIT_COPY,
        )
    };
    match result {
        KERN_SUCCESS => Ok(()),
        KERN_NO_SPACE => Err(Error::StubTaken { at }),
        errno => Err(Error::Stub { step: "mach_vm_map", errno }),
    }
}

/// Makes pages executable and no longer writable.
///
/// # Safety
///
/// The pages are from [`reserve`], and no code writes there after this call.
pub unsafe fn seal(pages: &Range<usize>) -> Result<(), Error> {
    // SAFETY: pages from `reserve`.
    unsafe { protect(pages, VM_PROT_READ | VM_PROT_EXECUTE) }
        .map_err(|errno| Error::Stub { step: "mach_vm_protect", errno })
}

/// Unmaps pages.
///
/// # Safety
///
/// The pages were mapped by this file, and no code uses them.
pub unsafe fn unmap(pages: &Range<usize>) {
    // SAFETY: the caller's promise.
    unsafe { mach_vm_deallocate(mach_task_self(), pages.start as u64, pages.len() as u64) };
}
