//! Reads code from memory.

use super::error::Error;
use super::system;

/// Reads bytes of code after it has looked up their mappings.
pub fn read(at: usize, len: usize) -> Result<Vec<u8>, Error> {
    let look_up = |address| system::executable(address).map_err(|refused| Error::refused(refused, at, &[]));
    let last = at.wrapping_add(len - 1);
    look_up(at)?;
    if last >> 12 != at >> 12 {
        look_up(last)?;
    }
    // SAFETY: just looked up as mapped readable, and it stays so by `Site::new`'s contract.
    // Volatile, because other code may patch here.
    Ok((0..len).map(|offset| unsafe { ((at + offset) as *const u8).read_volatile() }).collect())
}
