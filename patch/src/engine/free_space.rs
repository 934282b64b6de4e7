//! Finds free address space within a branch's reach, where a stub can be.

use super::error::Error;
use super::system::{LOWEST_ADDRESS, occupied, page_size};
use super::window::Window;
use std::ops::Range;

/// Addresses for a stub of `len` bytes: at most one for each window and gap between mappings, the
/// nearest to `site` first, and last those above the highest mapping.
pub fn candidates(
    site: usize,
    windows: &[Window],
    len: usize,
    reserved: impl Iterator<Item = Range<usize>>,
) -> Result<Vec<usize>, Error> {
    let page = page_size();
    let mut occupied = occupied()?;
    occupied.extend(reserved);
    // The legacy vsyscall page lies in the kernel's half.
    occupied.retain(|range| range.start < 1 << 52);
    occupied.sort_by_key(|range| range.start);
    let mut found = Vec::new();
    let mut free_from = LOWEST_ADDRESS;
    for range in occupied {
        if range.start > free_from {
            // Whole pages only: no other memory shares a stub's pages.
            let gap = free_from.next_multiple_of(page)..range.start & !(page - 1);
            found.extend(windows.iter().filter_map(|window| window.nearest(site, &gap, len)));
        }
        free_from = free_from.max(range.end);
    }
    found.sort_by_key(|&address| address.abs_diff(site));
    // Above the highest mapping the system may refuse: the number of address bits that a program has
    // differs between kernels. So this is the last choice.
    let above = free_from.next_multiple_of(page)..1 << 52;
    found.extend(windows.iter().filter_map(|window| window.nearest(site, &above, len)));
    Ok(found)
}
