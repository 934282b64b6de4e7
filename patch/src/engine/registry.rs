//! The applied patches and the stubs of this process, and the lock under which code is changed.
//!
//! The holder of the lock allocates memory. If the allocator itself patches code on the same
//! thread, it gets an error, because it would deadlock.

use super::error::Error;
use super::stub::Stub;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut, Range};
use std::sync::{Mutex, MutexGuard, PoisonError};

#[derive(Debug, Default)]
pub struct Registry {
    /// Address and length of every applied patch.
    applied: BTreeMap<usize, usize>,
    /// Mapped stubs; the next patch that needs the same code uses the same stub.
    pub stubs: Vec<Stub>,
    /// Pages for the stubs of patches that are planned and not applied.
    pub reserved: Vec<Range<usize>>,
}

static REGISTRY: Mutex<Registry> =
    Mutex::new(Registry { applied: BTreeMap::new(), stubs: Vec::new(), reserved: Vec::new() });

thread_local! {
    /// Whether this thread holds the registry.
    static HELD: Cell<bool> = const { Cell::new(false) };
}

/// The locked registry.
pub struct Locked(MutexGuard<'static, Registry>);

/// Locks the registry. The lock gives the exclusive access to code that the functions of `raw`
/// require.
///
/// [`Error::Reentered`] if this thread holds it already.
pub fn lock() -> Result<Locked, Error> {
    if HELD.replace(true) {
        return Err(Error::Reentered);
    }
    // Each change below is one call that leaves the collections consistent, so a panic elsewhere
    // does no harm.
    Ok(Locked(REGISTRY.lock().unwrap_or_else(PoisonError::into_inner)))
}

impl Drop for Locked {
    fn drop(&mut self) {
        HELD.set(false);
    }
}

impl Deref for Locked {
    type Target = Registry;

    fn deref(&self) -> &Registry {
        &self.0
    }
}

impl DerefMut for Locked {
    fn deref_mut(&mut self) -> &mut Registry {
        &mut self.0
    }
}

impl Registry {
    /// The address of an applied patch that shares a byte with this range.
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
    fn a_thread_that_holds_the_registry_gets_an_error_when_it_locks_it_again() {
        let held = lock().expect("this thread does not hold it");
        assert_eq!(lock().err(), Some(Error::Reentered));
        drop(held);
        assert!(lock().is_ok());
    }

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
