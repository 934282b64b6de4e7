//! What this process has patched, and the one lock under which it does.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Code of ours that some site leads to, or will.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stub {
    /// Where it begins.
    pub at: usize,
    /// What it consists of.
    pub code: Vec<u8>,
}

#[derive(Debug, Default)]
pub struct Registry {
    /// Start and length of every applied patch.
    applied: BTreeMap<usize, usize>,
    /// Mapped stubs; they stay for the next patch that needs the same.
    pub stubs: Vec<Stub>,
    /// Pages that unapplied patches have chosen.
    pub reserved: Vec<Range<usize>>,
}

static REGISTRY: Mutex<Registry> =
    Mutex::new(Registry { applied: BTreeMap::new(), stubs: Vec::new(), reserved: Vec::new() });

/// The registry. Whoever holds it may write code, which the heart asks of its callers.
pub fn lock() -> MutexGuard<'static, Registry> {
    // Each change below is one call that leaves the maps whole, so a panic elsewhere does not matter.
    REGISTRY.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Registry {
    /// The start of an applied patch that shares a byte with this range.
    pub fn overlapping(&self, at: usize, len: usize) -> Option<usize> {
        let (&start, &other) = self.applied.range(..at + len).next_back()?;
        (start + other > at).then_some(start)
    }

    pub fn insert(&mut self, at: usize, len: usize) {
        self.applied.insert(at, len);
    }

    pub fn remove(&mut self, at: usize) {
        self.applied.remove(&at);
    }

    pub fn release(&mut self, pages: &Range<usize>) {
        if let Some(index) = self.reserved.iter().position(|other| other == pages) {
            self.reserved.swap_remove(index);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patches_overlap_when_they_share_a_byte() {
        let mut registry = Registry::default();
        registry.insert(100, 5);
        registry.insert(110, 5);
        for (at, len, answer) in [
            (95, 5, None),
            (95, 6, Some(100)),
            (100, 5, Some(100)),
            (104, 1, Some(100)),
            (105, 5, None),
            (105, 6, Some(110)),
            (114, 9, Some(110)),
            (115, 9, None),
        ] {
            assert_eq!(registry.overlapping(at, len), answer, "{at}+{len}");
        }
        registry.remove(100);
        assert_eq!(registry.overlapping(100, 5), None);
    }
}
