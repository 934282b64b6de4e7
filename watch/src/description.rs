//! libc's description of a thread (`struct pthread`) that lies at the end of the thread's stack: where
//! it has what, and the start routine of another thread, from a copy of that stack's memory.

/// What is where in a description, in bytes from its beginning. 0: not known.
pub struct Places {
    /// The kernel's number of the thread.
    pub number: usize,
    /// The start routine.
    pub start: usize,
    /// The block of memory that is the stack: where it begins, its size, and the size of its guard.
    #[cfg_attr(target_arch = "x86_64", allow(dead_code, reason = "aarch64 recognises a description by it"))]
    pub block: usize,
}

/// A description's address is a multiple of this.
const ALIGNMENT: usize = if cfg!(target_arch = "x86_64") { 64 } else { 16 };

/// Where the running thread's description has the kernel's number, which is `own`.
pub fn find_number(own: u32) -> Option<usize> {
    // SAFETY: has no conditions.
    let this = unsafe { libc::pthread_self() } as usize;
    // The first words are the processor's and the compiler's.
    // SAFETY: words of the description, which libc may be changing.
    (0x80..0x870).step_by(4).find(|at| unsafe { ((this + at) as *const u32).read_volatile() } == own)
}

/// The start routine of a thread with this number, if its description begins in `bytes`, which are a
/// copy of the memory at `from`, a multiple of 64.
pub fn start_in(bytes: &[u8], from: usize, number: u32, places: &Places) -> Option<usize> {
    (0..bytes.len()).step_by(ALIGNMENT).find_map(|at| {
        let description = &bytes[at..];
        let has_number = description.get(places.number..places.number + 4) == Some(&number.to_ne_bytes()[..]);
        if has_number && is_description(description, from + at, places) {
            word(description, places.start)
        } else {
            None
        }
    })
}

fn word(bytes: &[u8], at: usize) -> Option<usize> {
    Some(usize::from_ne_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

/// A description begins with its own address, twice.
#[cfg(target_arch = "x86_64")]
fn is_description(bytes: &[u8], address: usize, _: &Places) -> bool {
    word(bytes, 0) == Some(address) && word(bytes, 16) == Some(address)
}

/// A description lies in the block that it names as the stack's, above the guard.
#[cfg(target_arch = "aarch64")]
fn is_description(bytes: &[u8], address: usize, places: &Places) -> bool {
    let field = |number: usize| word(bytes, places.block + 8 * number);
    let (Some(block), Some(size), Some(guard)) = (field(0), field(1), field(2)) else { return false };
    let bounds = block.checked_add(guard).zip(block.checked_add(size));
    block != 0 && places.block != 0 && bounds.is_some_and(|(low, high)| (low..high).contains(&address))
}
