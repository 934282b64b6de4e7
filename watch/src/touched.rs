//! How deep a stack was ever used: which of its pages the kernel has given memory.
//!
//! `mincore` says that of each page, so nothing is painted and nothing is written. The answer is a
//! bound from above: a page counts whole, a huge page counts as 2 MiB, and glibc may give a thread
//! the memory of an earlier thread's stack, whose pages it gives back to the kernel in part only.
//! A page that was swapped out counts as untouched.

use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Pages in one question: 8 MiB, the size of most stacks.
const CHUNK: usize = 2048;
/// The same for a stack that is too small to hold that answer, which has one byte for each page.
const SMALL_CHUNK: usize = 64;

/// From a thread's `pthread_self` to the end of its stack, the same for all stacks that libc
/// allocates: its description of the thread and the static TLS lie there. 0: not known.
static ABOVE: AtomicUsize = AtomicUsize::new(0);

/// The running thread's stack, lowest address and end, or two zeros. `size` is the size for which
/// libc was asked, or 0. libc may have used a larger stack again, whose lower part counts as none of
/// this thread's.
pub fn bounds(size: usize) -> (usize, usize) {
    if size == 0 {
        return bounds_by_libc();
    }
    // SAFETY: has no conditions.
    let this = unsafe { libc::pthread_self() } as usize;
    match ABOVE.load(Relaxed) {
        0 => {
            let (low, high) = bounds_by_libc();
            ABOVE.store(high.saturating_sub(this), Relaxed);
            (low, high)
        }
        above => (this + above - size, this + above),
    }
}

/// Where libc's description of a thread has its stack: the block's lowest address, the block's size
/// and the size of the guard in it. 0: not known.
static BLOCK_AT: AtomicUsize = AtomicUsize::new(0);

/// Finds that place, on a thread whose stack libc has allocated.
pub fn find_block() {
    let (low, high) = bounds_by_libc();
    // SAFETY: has no conditions.
    let this = unsafe { libc::pthread_self() } as usize;
    if low == 0 || !(low..high).contains(&this) {
        return;
    }
    // The description lies on the stack, and has more words than these.
    let found = (8..(high - this).min(0x870).saturating_sub(24)).step_by(8).find(|at| {
        let [block, size, guard] = description(this, *at);
        block != 0 && block.checked_add(size) == Some(high) && block.checked_add(guard) == Some(low)
    });
    BLOCK_AT.store(found.unwrap_or(0), Relaxed);
}

/// That place, or 0.
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "for `attach` and its test"))]
pub fn place_of_block() -> usize {
    BLOCK_AT.load(Relaxed)
}

/// The running thread's stack, without a use of the allocator or of much stack: libc gives some of
/// its own threads 24 KiB, and the program's allocator may need most of that. None if the place is
/// not known, or for the main thread.
pub fn bounds_of_block() -> Option<(usize, usize)> {
    let at = BLOCK_AT.load(Relaxed);
    if at == 0 {
        return None;
    }
    // SAFETY: has no conditions.
    let [block, size, guard] = description(unsafe { libc::pthread_self() } as usize, at);
    (block != 0).then(|| (block + guard, block + size))
}

/// Three words of libc's description of the running thread, `at` bytes from where it begins.
fn description(this: usize, at: usize) -> [usize; 3] {
    // SAFETY: `find_block` looks at words of the stack that the description lies on, and
    // `bounds_of_block` at the same ones. libc may be changing them.
    [0, 8, 16].map(|word| unsafe { ((this + at + word) as *const usize).read_volatile() })
}

/// The same as [`bounds`] from libc, which allocates and makes a system call for it.
fn bounds_by_libc() -> (usize, usize) {
    // SAFETY: an all-zero `pthread_attr_t` is a valid place for the call to fill.
    let mut attributes: libc::pthread_attr_t = unsafe { std::mem::zeroed() };
    let (mut low, mut size) = (std::ptr::null_mut(), 0);
    // SAFETY: `pthread_getattr_np` fills `attributes`, which is destroyed once, if it was filled.
    let failed = unsafe {
        libc::pthread_getattr_np(libc::pthread_self(), &mut attributes) != 0 || {
            let failed = libc::pthread_attr_getstack(&attributes, &mut low, &mut size) != 0;
            libc::pthread_attr_destroy(&mut attributes);
            failed
        }
    };
    if failed { (0, 0) } else { (low as usize, low as usize + size) }
}

/// As [`lowest`], for the running stack, which is of libc's memory, and whose thread has had no page
/// fault. It has touched no page that had no memory before it began, and glibc has given back the
/// memory of an earlier thread on this stack but for the pages next to the end of its frames. So a
/// few pages show it, where the whole stack takes microseconds. None if they do not.
///
/// glibc keeps `PTHREAD_STACK_MIN` below the last frame of the thread (`advise_stack_range` in
/// `nptl/pthread_create.c`). That is the answer without a system call, once the pages of one such
/// thread have agreed.
#[inline(never)]
pub fn lowest_near(low: usize, high: usize) -> Option<usize> {
    const PAGES: usize = 16;
    /// More would be too coarse a bound (aarch64: 128 KiB).
    const MOST_KEPT: usize = 16 << 10;
    /// 0: not known. 1: the pages agree. 2: they do not.
    static AGREES: AtomicUsize = AtomicUsize::new(0);
    let page = page();
    let here = 0_u8;
    let here = &raw const here as usize;
    // The thread may end on a fiber's stack, or on that of a signal's handler.
    if !(low..high).contains(&here) {
        return None;
    }
    let here = here & !(page - 1);
    let kept = here.saturating_sub(libc::PTHREAD_STACK_MIN).max(low);
    if AGREES.load(Relaxed) == 1 {
        return Some(kept);
    }
    let at = here.checked_sub((PAGES - 1) * page)?;
    if at < low || at + PAGES * page > high.next_multiple_of(page) {
        return None;
    }
    match first::<PAGES>(at, PAGES, page) {
        // The page below it has no memory.
        Answer::Page(index) if index > 0 => {
            let found = at + index * page;
            let agrees = found >= kept && libc::PTHREAD_STACK_MIN <= MOST_KEPT;
            let _ = AGREES.compare_exchange(0, if agrees { 1 } else { 2 }, Relaxed, Relaxed);
            Some(found)
        }
        _ => None,
    }
}

/// The lowest address of the stack whose page has memory, or `high` if none has. `room`: the running
/// stack has room for the larger answer.
pub fn lowest(low: usize, high: usize, room: bool) -> usize {
    if room && high - low > 128 << 10 { lowest_by::<CHUNK>(low, high) } else { lowest_by::<SMALL_CHUNK>(low, high) }
}

#[inline(never)]
fn lowest_by<const CHUNK: usize>(low: usize, high: usize) -> usize {
    let page = page();
    let mut at = low.next_multiple_of(page);
    while at < high {
        let pages = ((high - at).div_ceil(page)).min(CHUNK);
        match first::<CHUNK>(at, pages, page) {
            Answer::Page(index) => return at + index * page,
            Answer::None => at += pages * page,
            // The main thread's stack is mapped from above, as far as it has grown.
            Answer::Unmapped if pages == 1 => at += page,
            Answer::Unmapped => return lowest_of_mapped(at, high),
        }
    }
    high
}

/// The same for a stack that is mapped in its upper part alone: from above.
fn lowest_of_mapped(low: usize, high: usize) -> usize {
    /// Pages in one question. The kernel answers it only if all of them are mapped.
    const MOST: usize = 32;
    let page = page();
    let (mut found, mut above, mut pages) = (high, high.next_multiple_of(page), MOST);
    while above > low {
        pages = pages.min((above - low) / page);
        if pages == 0 {
            break;
        }
        let at = above - pages * page;
        match first::<MOST>(at, pages, page) {
            Answer::Page(index) => found = at + index * page,
            Answer::None => (),
            // Fewer, down to the last page that is mapped.
            Answer::Unmapped => {
                pages /= 2;
                continue;
            }
        }
        above = at;
    }
    found
}

enum Answer {
    Page(usize),
    None,
    Unmapped,
}

#[inline(always)]
fn first<const CHUNK: usize>(at: usize, pages: usize, page: usize) -> Answer {
    let mut resident = [MaybeUninit::<u8>::uninit(); CHUNK];
    // SAFETY: `mincore` reads no memory of the range and writes one byte for each page, of which
    // there are at most CHUNK.
    let failed = unsafe { libc::mincore(at as *mut _, pages * page, resident.as_mut_ptr().cast()) };
    if failed != 0 {
        return Answer::Unmapped;
    }
    // SAFETY: `mincore` has succeeded, so it has written a byte for each page.
    let resident = unsafe { std::slice::from_raw_parts(resident.as_ptr().cast::<u8>(), pages.min(CHUNK)) };
    // Many at a time, as most are 0. Only the lowest bit of each byte means something.
    let has_none = |many: &&[u8; 64]| {
        let words = many.as_chunks::<8>().0;
        words.iter().fold(0, |all, word| all | u64::from_ne_bytes(*word)) & 0x0101_0101_0101_0101 == 0
    };
    let untouched = 64 * resident.as_chunks::<64>().0.iter().take_while(has_none).count();
    let rest = resident[untouched..].iter().position(|byte| byte & 1 == 1);
    rest.map_or(Answer::None, |index| Answer::Page(untouched + index))
}

fn page() -> usize {
    static PAGE: AtomicUsize = AtomicUsize::new(0);
    let mut page = PAGE.load(Relaxed);
    if page == 0 {
        // SAFETY: has no conditions.
        page = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096);
        PAGE.store(page, Relaxed);
    }
    page
}
