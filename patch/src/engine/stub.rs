//! Stubs and their pages. A stub's pages are mapped writable, filled, then made executable, and
//! never both at once. They are never unmapped: a thread may still be in the stub at any time after
//! the patch is undone.

use super::error::Error;
use super::system::{self, page_size};
use crate::raw::arch;
use std::ops::Range;

/// Code that a site leads to once its patch is applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stub {
    /// Its address.
    pub at: usize,
    /// Its bytes.
    pub code: Vec<u8>,
}

impl Stub {
    /// The whole pages that hold the stub.
    pub fn pages(&self) -> Range<usize> {
        let page = page_size();
        self.at & !(page - 1)..(self.at + self.code.len()).next_multiple_of(page)
    }

    /// Maps the stub's pages, which must be free, and makes the code executable there.
    pub fn map(&self) -> Result<(), Error> {
        let Self { at, code } = self;
        let (at, pages) = (*at, self.pages());
        system::reserve(&pages, at)?;
        // SAFETY: the pages were just mapped writable, and no other code has their address yet.
        unsafe { std::ptr::copy_nonoverlapping(code.as_ptr(), std::ptr::with_exposed_provenance_mut(at), code.len()) };
        for offset in (0..code.len()).step_by(size_of::<arch::Word>()) {
            // SAFETY: mapped readable.
            unsafe { arch::flush(at + offset) };
        }
        // SAFETY: reserved above, and nothing is written there after this.
        unsafe { system::seal(&pages) }.inspect_err(|_| {
            // SAFETY: no code has their address yet.
            unsafe { system::unmap(&pages) }
        })
    }
}
