//! Where a stub can be: free address space within a branch's reach.

use super::error::Error;
use super::system::{LOWEST, page_size, taken};
use super::window::Window;
use std::ops::Range;

/// Addresses for a stub of `len` bytes, at most one in each gap between mappings, the nearest to `site` first.
pub fn candidates(
    site: usize,
    windows: &[Window],
    len: usize,
    reserved: impl Iterator<Item = Range<usize>>,
) -> Result<Vec<usize>, Error> {
    let page = page_size();
    let mut taken = taken()?;
    taken.extend(reserved);
    // The legacy vsyscall page lies in the kernel's half. Above the highest mapping nothing is tried: how many address bits
    // programs have differs between kernels.
    taken.retain(|range| range.start < 1 << 52);
    taken.sort_by_key(|range| range.start);
    let mut found = Vec::new();
    let mut free_from = LOWEST;
    for range in taken {
        if range.start > free_from {
            // Whole pages only: a stub's pages are its own.
            let gap = free_from.next_multiple_of(page)..range.start & !(page - 1);
            found.extend(windows.iter().filter_map(|window| window.nearest(site, &gap, len)));
        }
        free_from = free_from.max(range.end);
    }
    found.sort_by_key(|&address| address.abs_diff(site));
    Ok(found)
}
