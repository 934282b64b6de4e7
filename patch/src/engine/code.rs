//! Reads code from memory.

use super::error::Error;
use super::system;
use std::ops::Range;

/// Reads bytes of code after it has looked up their mappings.
pub fn read(at: usize, len: usize) -> Result<Vec<u8>, Error> {
    Reader::new().read(at, len)
}

/// Reads code within one call of this crate. A look-up reads a list of all mappings, so the last
/// one that was found serves again.
pub struct Reader {
    known: Range<usize>,
}

impl Reader {
    pub fn new() -> Self {
        Self { known: 0..0 }
    }

    /// Reads bytes of code.
    pub fn read(&mut self, at: usize, len: usize) -> Result<Vec<u8>, Error> {
        let last = at.wrapping_add(len - 1);
        self.look_up(at, at)?;
        self.look_up(last, at)?;
        // SAFETY: looked up as mapped readable, and it stays so by `Site::new`'s contract.
        // Volatile, because other code may patch here.
        Ok((0..len).map(|offset| unsafe { ((at + offset) as *const u8).read_volatile() }).collect())
    }

    fn look_up(&mut self, address: usize, at: usize) -> Result<(), Error> {
        if self.known.contains(&address) {
            return Ok(());
        }
        self.known = system::executable_range(address).map_err(|refused| Error::refused(refused, at, &[]))?;
        Ok(())
    }
}
