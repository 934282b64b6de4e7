//! Where a stub can be: free address space within a branch's reach.

use super::error::Error;
use super::system::{LOWEST, page_size, taken};
use std::ops::Range;

/// Addresses `a` in `start..end` with `a % modulus == remainder`. `modulus` is a power of two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// The lowest address.
    pub start: usize,
    /// One after the highest.
    pub end: usize,
    /// A power of two.
    pub modulus: usize,
    /// Less than `modulus`.
    pub remainder: usize,
}

impl Window {
    /// Whether a stub may begin there.
    pub fn contains(&self, address: usize) -> bool {
        (self.start..self.end).contains(&address) && address & (self.modulus - 1) == self.remainder
    }
}

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
            found.extend(windows.iter().filter_map(|window| fit(site, window, &gap, len)));
        }
        free_from = free_from.max(range.end);
    }
    found.sort_by_key(|&address| address.abs_diff(site));
    Ok(found)
}

/// The address in both `gap` and `window` that is nearest to `site`.
fn fit(site: usize, window: &Window, gap: &Range<usize>, len: usize) -> Option<usize> {
    let low = window.start.max(gap.start);
    let high = window.end.min(gap.end.saturating_sub(len).saturating_add(1));
    if low >= high {
        return None;
    }
    let mask = window.modulus - 1;
    let up = |from: usize| from.checked_add(window.remainder.wrapping_sub(from) & mask);
    let down = |from: usize| from.checked_sub(from.wrapping_sub(window.remainder) & mask);
    let address = if site < low { up(low)? } else { down(high - 1)? };
    (low..high).contains(&address).then_some(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_address_in_a_gap_is_taken_on_either_side() {
        let any = Window { start: 0, end: usize::MAX, modulus: 16, remainder: 0 };
        let gap = 0x2000..0x5000;
        assert_eq!(fit(0x1000, &any, &gap, 64), Some(0x2000));
        assert_eq!(fit(0x9000, &any, &gap, 64), Some(0x4fc0));
        assert_eq!(fit(0x9000, &any, &gap, 0x4000), None);
    }

    #[test]
    fn low_bits_that_must_stay_are_kept() {
        let window = Window { start: 0x2100, end: 0x4f00, modulus: 0x1000, remainder: 0x0ab };
        assert_eq!(fit(0x1000, &window, &(0x2000..0x5000), 64), Some(0x30ab));
        assert_eq!(fit(0x9000, &window, &(0x2000..0x5000), 64), Some(0x40ab));
        assert!(window.contains(0x30ab) && !window.contains(0x30ac) && !window.contains(0x20ab));
    }
}
