//! macOS on Intel processors: code is looked up and written by the Mach kernel's calls. Built and
//! linked, never run by its authors.
//!
//! ```text
//!   a page of our own: give and take its rights     ─ refused: nothing happened
//!   mach_vm_protect  r-x → rwx, with VM_PROT_COPY   ─ refused: nothing happened
//!   compare-and-swap the word                       ─ another word there: page back to r-x
//!   the page of our own: write, take its rights     ─ refused: word back, page back
//!   mach_vm_protect  rwx → r-x                      ─ refused twice: word back, and say so
//! ```
//!
//! # The page stays executable
//!
//! System libraries lie in the shared cache, whose pages all programs have in common and may not
//! write. `VM_PROT_COPY` makes the page private: `vm_map_protect` in xnu's `osfmk/vm/vm_map.c` puts
//! a copy-on-write mapping of the same memory in its place, under the lock of the address space,
//! and with the rights that the old one had as far as they were asked for (`new_entry->protection
//! &= max_prot_for_prot_copy`). So asking for `rw-` would take the right to execute from threads
//! that run there at the moment, this one among them if the page has `mach_msg` (coolstar/libhooker
//! issue 1); asking for `rwx` leaves it all the time. A thread that comes in between faults, waits
//! for that lock, and goes on. BoxFort writes code with these rights (Snaipe/BoxFort pull request
//! 31), as does Frida's gum on Intel Macs, which suspends other threads where there is no `rwx`.
//!
//! A program with the hardened runtime may not have both rights. [`ready`] finds that out with a
//! page of our own, since some kernels do not refuse but quietly take the right to execute.
//!
//! The other way, a changed copy of the page moved over the old one (`mach_vm_remap`), would never
//! have both rights either, but it gives a page for a word: what anybody else writes there
//! meanwhile is lost.
//!
//! # Every thread executes a serialising instruction
//!
//! There is no `membarrier`. What there is: a right that is occupied from a page must be gone from
//! the TLB of each processor when the call returns. x86_64 has no way to do that from outside, so
//! xnu interrupts each processor on which this address space is in use, and waits until all have
//! answered (`pmap_flush_tlbs`, `osfmk/x86_64/pmap.c`; "alterations to the address space of a task
//! active on a remote processor result in a signal"). They return from the interrupt by `IRET`.
//! Processors on which it is not in use load `CR3` before they run a thread of this process, as the
//! kernel's every return to a program does (`osfmk/x86_64/idt64.s`). Both are serialising (Intel
//! SDM vol. 3, "Serializing Instructions"; AMD64 APM vol. 2, 7.6.4). A thread that the kernel has
//! stopped comes back in one of the two ways as well.
//!
//! The page is written after the code, so it is in the page table when its right is occupied, and
//! the kernel cannot leave the interrupts out. .NET did its process-wide barrier so on Intel Macs
//! for six years (dotnet/coreclr pull request 1057). It gave that up for want of memory that can be
//! wired (dotnet/runtime pull request 62822), which is not needed here: had the page been occupied
//! away in between, that would have been such an interrupt.
//!
//! This is what xnu does, not what Apple promises. It does not hold under Rosetta 2, whose programs
//! run on other processors, as other code: there everything is refused.
//!
//! # What is left behind
//!
//! A patched page of a system library is a private copy for good, and its *greatest* protection
//! includes writing. `vmmap` shows both.

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

/// Below is `__PAGEZERO`, which is not free and no mapping either.
pub const LOWEST_ADDRESS: usize = 1 << 32;

/// The only size of pages on these processors.
const PAGE: usize = 4096;

/// Submaps within submaps that are looked into.
const MAX_DEPTH: u32 = 1024;

fn done(result: kern_return_t) -> Result<(), kern_return_t> {
    if result == KERN_SUCCESS { Ok(()) } else { Err(result) }
}

/// # Safety
///
/// Nobody relies on these pages having another protection.
unsafe fn protect(pages: &Range<usize>, protection: vm_prot_t) -> Result<(), kern_return_t> {
    // SAFETY: the caller's promise.
    done(unsafe { mach_vm_protect(mach_task_self(), pages.start as u64, pages.len() as u64, 0, protection) })
}

/// The first mapping that ends behind `address`, looking into submaps down to `depth`.
fn region(address: usize, depth: u32) -> Result<Option<(Range<usize>, Region)>, kern_return_t> {
    let (mut start, mut size, mut depth) = (address as u64, 0, depth);
    let mut info = Region::default();
    let mut count = Region::count();
    // SAFETY: only asks; the kernel fills in `count` words at most, which `info` has room for.
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
    const NEEDED: vm_prot_t = VM_PROT_READ | VM_PROT_EXECUTE;
    match region(address, MAX_DEPTH) {
        Err(number) => Err(Refused { reason: Reason::NoMaps, number }),
        Ok(Some((range, info))) if range.contains(&address) && info.protection & NEEDED == NEEDED => {
            Ok(info.protection as u32)
        }
        Ok(_) => Err(Refused { reason: Reason::NotExecutable, number: 0 }),
    }
}

/// Says why no code of this process can be patched, if none can.
pub fn ready(at: usize) -> Result<(), Error> {
    if translated() {
        return Err(Error::Translated { at });
    }
    try_on_scratch_page().map_err(|errno| Error::Protect { at, errno })
}

/// Whether this process is translated by Rosetta 2, as Apple's "About the Rosetta translation
/// environment" has it.
fn translated() -> bool {
    let mut answer: libc::c_int = 0;
    let mut size = size_of_val(&answer);
    let name = c"sysctl.proc_translated";
    // SAFETY: only asks; `size` is that of `answer`. A system without Rosetta does not know the
    // name.
    let result =
        unsafe { libc::sysctlbyname(name.as_ptr(), (&raw mut answer).cast(), &raw mut size, std::ptr::null_mut(), 0) };
    result == 0 && answer != 0
}

/// Does to a page of our own what [`WritablePage`] does to one of code: whether it is refused is a
/// matter of the whole process.
fn try_on_scratch_page() -> Result<(), kern_return_t> {
    let page = ScratchPage::new()?;
    // SAFETY: our own page, which nobody executes.
    unsafe {
        protect(&page.range, VM_PROT_READ | VM_PROT_EXECUTE)?;
        protect(&page.range, VM_PROT_ALL | VM_PROT_COPY)?;
    }
    match region(page.range.start, MAX_DEPTH)? {
        Some((_, info)) if info.protection & VM_PROT_ALL == VM_PROT_ALL => Ok(()),
        // Granted, but for the right to execute.
        _ => Err(KERN_PROTECTION_FAILURE),
    }
}

/// Replaces one word of code; on every refusal it is as before, and its page's protection too (but
/// see [`Reason::NotRestored`]). There is no fallback on this system.
///
/// # Safety
///
/// The word is mapped, with exactly `protection`, and nobody changes that meanwhile. No other call
/// runs at the same time in this process. Either word, with what surrounds it, is code that a
/// thread may run there. [`ready`] has said yes.
pub unsafe fn write(store: Store, protection: u32, _fallback: Fallback) -> Result<(), Refused> {
    let unsynchronised = |number| Refused { reason: Reason::Membarrier, number };
    let scratch = ScratchPage::new().map_err(unsynchronised)?;
    scratch.synchronise().map_err(unsynchronised)?;
    // SAFETY: each takes over the caller's promise.
    unsafe {
        let page = WritablePage::new(store.at, protection as vm_prot_t)
            .map_err(|number| Refused { reason: Reason::Protect, number })?;
        in_place(store, &page, &scratch)
    }
}

/// A page that is writable for now.
struct WritablePage {
    range: Range<usize>,
    protection: vm_prot_t,
    /// Its owner writes code here himself, and keeps it so.
    always: bool,
}

impl WritablePage {
    /// # Safety
    ///
    /// The page has this protection, and nobody else changes it while this value lives.
    unsafe fn new(address: usize, protection: vm_prot_t) -> Result<Self, kern_return_t> {
        let start = address & !(PAGE - 1);
        let page = Self { range: start..start + PAGE, protection, always: protection & VM_PROT_WRITE != 0 };
        if !page.always {
            // Executable all the time, since threads run there; and never the memory that others
            // have, too. SAFETY: the page keeps every right it had; putting back the rest is
            // `restore`.
            unsafe { protect(&page.range, VM_PROT_ALL | VM_PROT_COPY)? };
        }
        Ok(page)
    }

    fn restore(&self) -> Result<(), kern_return_t> {
        if self.always {
            return Ok(());
        }
        // SAFETY: it had this protection before `new`, and nobody writes there but us.
        unsafe { protect(&self.range, self.protection) }
    }
}

/// # Safety
///
/// As for [`write()`]; `page` holds the word.
unsafe fn in_place(store: Store, page: &WritablePage, scratch: &ScratchPage) -> Result<(), Refused> {
    let Store { at, before, after } = store;
    // SAFETY: the page is writable until `restore`; both words may be executed there, by the
    // caller's promise.
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
        // A second try, for a kernel that was short of memory for a moment.
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
    // SAFETY: the caller's promise. If the word is another one by now, it is not ours to change.
    unsafe { arch::compare_and_store(store.at, store.after, store.before) };
    // Best effort: this is the way out after a refusal, maybe of this very call.
    let _ = scratch.synchronise();
}

/// A page of our own, to have its rights changed.
struct ScratchPage {
    range: Range<usize>,
}

impl ScratchPage {
    /// Readable and writable.
    fn new() -> Result<Self, kern_return_t> {
        let mut start = 0;
        // SAFETY: new memory, anywhere.
        done(unsafe { mach_vm_allocate(mach_task_self(), &raw mut start, PAGE as u64, VM_FLAGS_ANYWHERE) })?;
        Ok(Self { range: start as usize..start as usize + PAGE })
    }

    /// Returns when every processor that runs this process has gone through a serialising
    /// instruction: see above.
    fn synchronise(&self) -> Result<(), kern_return_t> {
        let word = std::ptr::with_exposed_provenance_mut::<u8>(self.range.start);
        // SAFETY: our own page, writable at the write; nobody else knows it.
        unsafe {
            protect(&self.range, VM_PROT_READ | VM_PROT_WRITE)?;
            // In the page table from here on, and writable there.
            word.write_volatile(1);
            protect(&self.range, VM_PROT_READ)
        }
    }
}

impl Drop for ScratchPage {
    fn drop(&mut self) {
        // SAFETY: our own page, and nobody knows it any more.
        unsafe { unmap(&self.range) };
    }
}

/// What is mapped. The shared cache counts as a whole: what is free in there belongs to the system.
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

/// Maps free pages writable; `at` is the stub's address in them.
pub fn reserve(pages: &Range<usize>, at: usize) -> Result<(), Error> {
    let mut start = pages.start as u64;
    // SAFETY: new memory that replaces none (`VM_FLAGS_FIXED` without `VM_FLAGS_OVERWRITE`).
    // Children of a fork have it, too.
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

/// Makes pages executable, and not writable any more.
///
/// # Safety
///
/// They are from [`reserve`], and nobody writes there from now on.
pub unsafe fn seal(pages: &Range<usize>) -> Result<(), Error> {
    // SAFETY: our own pages.
    unsafe { protect(pages, VM_PROT_READ | VM_PROT_EXECUTE) }
        .map_err(|errno| Error::Stub { step: "mach_vm_protect", errno })
}

/// Gives pages back.
///
/// # Safety
///
/// They were mapped here, and no code knows them yet.
pub unsafe fn unmap(pages: &Range<usize>) {
    // SAFETY: the caller's promise.
    unsafe { mach_vm_deallocate(mach_task_self(), pages.start as u64, pages.len() as u64) };
}
