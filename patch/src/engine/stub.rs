//! A stub's pages: mapped writable, filled, sealed executable. Never both at once, and never unmapped: a thread may be
//! in there for as long as it likes, also after the patch is undone.

use super::error::Error;
use super::system::{self, page_size};
use crate::raw::arch;
use std::ops::Range;

/// Code of ours that some site leads to, or will.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stub {
    /// Where it begins.
    pub at: usize,
    /// What it consists of.
    pub code: Vec<u8>,
}

impl Stub {
    /// The whole pages that hold `len` bytes at `at`.
    pub fn pages(&self) -> Range<usize> {
        let page = page_size();
        self.at & !(page - 1)..(self.at + self.code.len()).next_multiple_of(page)
    }

    /// Maps the pages of `at`, which must be free, and makes `code` executable there.
    pub fn map(&self) -> Result<(), Error> {
        let Self { at, code } = self;
        let (at, pages) = (*at, self.pages());
        system::reserve(&pages, at)?;
        // SAFETY: the pages were just mapped writable, and nobody else knows them yet.
        unsafe { std::ptr::copy_nonoverlapping(code.as_ptr(), std::ptr::with_exposed_provenance_mut(at), code.len()) };
        for offset in (0..code.len()).step_by(size_of::<arch::Word>()) {
            // SAFETY: mapped readable.
            unsafe { arch::flush(at + offset) };
        }
        // SAFETY: reserved above, and all that will be written there is written.
        unsafe { system::seal(&pages) }.inspect_err(|_| {
            // SAFETY: no code knows them yet.
            unsafe { system::unmap(&pages) }
        })
    }
}
