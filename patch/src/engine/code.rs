//! Code as it is in memory now.

use super::error::Error;
use super::system;

/// Bytes of code, after a look at the mappings.
pub fn read(at: usize, len: usize) -> Result<Vec<u8>, Error> {
    let look_up = |address| system::executable(address).map_err(|refused| Error::refused(refused, at, &[]));
    let last = at.wrapping_add(len - 1);
    look_up(at)?;
    if last >> 12 != at >> 12 {
        look_up(last)?;
    }
    // SAFETY: mapped readable, just looked up, and it stays so by `Site::new`'s contract. Volatile: others may patch here.
    Ok((0..len).map(|offset| unsafe { ((at + offset) as *const u8).read_volatile() }).collect())
}
