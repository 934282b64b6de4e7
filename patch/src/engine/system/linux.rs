//! Linux: `raw` looks code up and writes it; stubs are mapped by libc's calls.

use crate::engine::error::{Error, Refused};
use crate::raw::{self, Fallback, Mapping, Store};
use std::io;
use std::ops::Range;

/// `vm.mmap_min_addr` is at most this on every distribution.
pub const LOWEST_ADDRESS: usize = 0x1_0000;
/// Space kept free below the main stack and above the heap, so that both can grow.
const GROWTH: usize = 1 << 30;

/// Nothing is known to prevent patches before one is applied.
pub fn ready(_at: usize) -> Result<(), Error> {
    Ok(())
}

/// The mapping at `address`, if it is readable and executable.
pub fn executable(address: usize) -> Result<Mapping, Refused> {
    Ok(raw::mapping::executable(address)?)
}

/// The range of the mapping at `address`, if it is readable and executable.
pub fn executable_range(address: usize) -> Result<Range<usize>, Refused> {
    executable(address).map(|found| found.start..found.end)
}

/// Replaces one word of code. On every refusal the word and its mapping's protection are as before
/// (but see [`Reason::NotRestored`](raw::Reason::NotRestored)).
///
/// # Safety
///
/// As for [`raw::write()`].
pub unsafe fn write(store: Store, mapping: Mapping, fallback: Fallback) -> Result<(), Refused> {
    // SAFETY: this function's contract.
    Ok(unsafe { raw::write(store, mapping, fallback) }?)
}

/// The ranges that are mapped or must stay free, from `/proc/self/maps`.
pub fn occupied() -> Result<Vec<Range<usize>>, Error> {
    let read = |path| {
        std::fs::read_to_string(path).map_err(|error| Error::NoMaps { errno: error.raw_os_error().unwrap_or(0) })
    };
    let mut text = read("/proc/self/maps")?;
    if text.is_empty() {
        // `/proc/self` is the main thread, which has ended.
        text = read("/proc/thread-self/maps")?;
    }
    let mut all = Vec::new();
    for line in text.lines() {
        let Some((start, end)) = line.split(' ').next().and_then(|range| range.split_once('-')) else {
            continue;
        };
        let (Ok(mut start), Ok(mut end)) = (usize::from_str_radix(start, 16), usize::from_str_radix(end, 16)) else {
            continue;
        };
        if line.ends_with("[stack]") {
            start = start.saturating_sub(GROWTH);
        }
        if line.ends_with("[heap]") {
            end = end.saturating_add(GROWTH);
        }
        all.push(start..end);
    }
    Ok(all)
}

/// Maps free pages writable. `at` is the stub's address in them.
pub fn reserve(pages: &Range<usize>, at: usize) -> Result<(), Error> {
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
        // A kernel before 4.17 takes the address as a hint.
        let elsewhere = mapped.addr()..mapped.addr() + pages.len();
        // SAFETY: just mapped, and no other code has the address.
        unsafe { unmap(&elsewhere) };
        return Err(Error::StubTaken { at });
    }
    Ok(())
}

/// Makes pages executable and no longer writable.
///
/// # Safety
///
/// The pages are from [`reserve`], and no code writes there after this call.
pub unsafe fn seal(pages: &Range<usize>) -> Result<(), Error> {
    let start = std::ptr::without_provenance_mut(pages.start);
    // SAFETY: pages from `reserve`.
    match unsafe { libc::mprotect(start, pages.len(), libc::PROT_READ | libc::PROT_EXEC) } {
        0 => Ok(()),
        _ => Err(Error::Stub { step: "mprotect", errno: errno() }),
    }
}

/// Unmaps pages.
///
/// # Safety
///
/// The pages are from [`reserve`], and no code has their address yet.
pub unsafe fn unmap(pages: &Range<usize>) {
    // SAFETY: the caller's promise.
    unsafe { libc::munmap(std::ptr::without_provenance_mut(pages.start), pages.len()) };
}

fn errno() -> i32 {
    io::Error::last_os_error().raw_os_error().unwrap_or(0)
}
