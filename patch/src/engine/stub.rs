//! A stub's pages: mapped writable, filled, sealed executable. Never both at once, and never unmapped: a thread may be
//! in there for as long as it likes, also after the patch is undone.

use super::error::Error;
use super::place::page_size;
use crate::heart::arch;
use std::io;
use std::ops::Range;

/// The whole pages that hold `len` bytes at `at`.
pub fn pages(at: usize, len: usize) -> Range<usize> {
    let page = page_size();
    at & !(page - 1)..(at + len).next_multiple_of(page)
}

/// Maps the pages of `at`, which must be free, and makes `code` executable there.
pub fn map(at: usize, code: &[u8]) -> Result<(), Error> {
    let pages = pages(at, code.len());
    let start = std::ptr::without_provenance_mut(pages.start);
    // SAFETY: a new mapping that replaces none (`MAP_FIXED_NOREPLACE`).
    let mapped = unsafe {
        libc::mmap(
            start,
            pages.len(),
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE,
            -1,
            0,
        )
    };
    if mapped == libc::MAP_FAILED {
        return Err(match errno() {
            libc::EEXIST => Error::StubTaken { at },
            errno => Error::Stub { step: "mmap", errno },
        });
    }
    if mapped != start {
        // A kernel before 4.17 takes the address for a hint.
        unmap(mapped, pages.len());
        return Err(Error::StubTaken { at });
    }
    // SAFETY: the pages were just mapped writable, and nobody else knows them yet.
    unsafe { std::ptr::copy_nonoverlapping(code.as_ptr(), mapped.cast::<u8>().add(at - pages.start), code.len()) };
    for offset in (0..code.len()).step_by(size_of::<arch::Word>()) {
        // SAFETY: mapped readable.
        unsafe { arch::flush(at + offset) };
    }
    // SAFETY: our own pages.
    if unsafe { libc::mprotect(mapped, pages.len(), libc::PROT_READ | libc::PROT_EXEC) } != 0 {
        let errno = errno();
        unmap(mapped, pages.len());
        return Err(Error::Stub { step: "mprotect", errno });
    }
    Ok(())
}

fn unmap(start: *mut libc::c_void, len: usize) {
    // SAFETY: pages that `map` mapped and that no code knows yet.
    unsafe { libc::munmap(start, len) };
}

fn errno() -> i32 {
    io::Error::last_os_error().raw_os_error().unwrap_or(0)
}
