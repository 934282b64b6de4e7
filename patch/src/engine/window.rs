//! The addresses at which a stub may begin.

use std::ops::Range;

/// The addresses `a` in `start..end` with `a % modulus == remainder`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// The lowest address.
    pub start: usize,
    /// One past the highest address.
    pub end: usize,
    /// A power of two.
    pub modulus: usize,
    /// Less than `modulus`.
    pub remainder: usize,
}

impl Window {
    /// Whether a stub may begin at `address`.
    pub fn contains(&self, address: usize) -> bool {
        (self.start..self.end).contains(&address) && address & (self.modulus - 1) == self.remainder
    }

    /// The address nearest to `site` in both `gap` and this window, with room for `len` bytes in
    /// the gap.
    pub fn nearest(&self, site: usize, gap: &Range<usize>, len: usize) -> Option<usize> {
        let low = self.start.max(gap.start);
        let high = self.end.min(gap.end.saturating_sub(len).saturating_add(1));
        if low >= high {
            return None;
        }
        let mask = self.modulus - 1;
        let up = |from: usize| from.checked_add(self.remainder.wrapping_sub(from) & mask);
        let down = |from: usize| from.checked_sub(from.wrapping_sub(self.remainder) & mask);
        let address = if site < low { up(low)? } else { down(high - 1)? };
        (low..high).contains(&address).then_some(address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_address_in_a_gap_is_found_on_either_side() {
        let any = Window { start: 0, end: usize::MAX, modulus: 16, remainder: 0 };
        let gap = 0x2000..0x5000;
        assert_eq!(any.nearest(0x1000, &gap, 64), Some(0x2000));
        assert_eq!(any.nearest(0x9000, &gap, 64), Some(0x4fc0));
        assert_eq!(any.nearest(0x9000, &gap, 0x4000), None);
    }

    #[test]
    fn low_bits_that_must_stay_are_kept() {
        let window = Window { start: 0x2100, end: 0x4f00, modulus: 0x1000, remainder: 0x0ab };
        assert_eq!(window.nearest(0x1000, &(0x2000..0x5000), 64), Some(0x30ab));
        assert_eq!(window.nearest(0x9000, &(0x2000..0x5000), 64), Some(0x40ab));
        assert!(window.contains(0x30ab) && !window.contains(0x30ac) && !window.contains(0x20ab));
    }
}
