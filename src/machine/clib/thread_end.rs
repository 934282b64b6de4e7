//! What libc keeps of a thread's end in the thread's descriptor, to which `pthread_self` points
//! (`struct pthread`): the value for `pthread_join`, and glibc's flag that the thread ends without
//! a return. The layout of that structure is private and differs between builds. So an experiment
//! ([`experiment`]) finds the two fields: a thread that ends with a known value compares its
//! descriptor before and after.
//!
//! | | glibc (`nptl/descr.h`) | musl (`src/internal/pthread_impl.h`) |
//! |---|---|---|
//! | the value: `result` | `start_thread` stores what the start routine returns, `pthread_exit` its argument, a cancellation `PTHREAD_CANCELED` | `__pthread_exit`, with which all threads end, stores its argument |
//! | the flag: `EXITING_BIT` of `cancelhandling` | `pthread_exit` and a cancellation set it before they unwind; a thread that returns sets it after its destructors | none |

use super::at_thread_end;
#[cfg(target_env = "gnu")]
use super::threads::thread_bounds;
use crate::base::alloc::try_box;
use crate::base::cancellation::this_thread;
use crate::machine::os;
use std::cell::Cell;
use std::ffi::c_void;
use std::ptr;

/// The value of a thread that was cancelled: `PTHREAD_CANCELED` of `<pthread.h>`.
pub(crate) const CANCELED: usize = usize::MAX;

/// Where the descriptor of each thread of this process has these fields: distances from its start.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct EndFields {
    value: usize,
    flags: Option<usize>,
}

/// glibc's `EXITING_BITMASK`.
const EXITING: u32 = 0x10;
/// All flags of `cancelhandling` are below this.
const FLAGS: u32 = 0x80;

impl EndFields {
    /// The value that `pthread_join` will give of the running thread.
    pub(crate) fn value(self) -> usize {
        // SAFETY: the field lies in this thread's descriptor, as the experiment has shown.
        unsafe { ((this_thread() + self.value) as *const usize).read_volatile() }
    }

    /// Whether the running thread ends by `pthread_exit` or by cancellation. `None` where libc does
    /// not keep that.
    pub(crate) fn is_exiting(self) -> Option<bool> {
        // SAFETY: as above.
        self.flags.map(|at| unsafe { ((this_thread() + at) as *const u32).read_volatile() } & EXITING != 0)
    }

    /// The two distances as one number, which is not zero.
    pub(crate) fn packed(self) -> usize {
        (self.value << 16) | self.flags.map_or(0, |at| at + 1)
    }

    /// From [`Self::packed`].
    pub(crate) fn from_packed(packed: usize) -> Self {
        Self { value: packed >> 16, flags: (packed & 0xffff).checked_sub(1) }
    }
}

/// The part of a descriptor that is compared: 4 bytes each. glibc's has about 2300 bytes.
const WORDS: usize = 1024;

/// What the experiment's thread sees.
struct Seen {
    before: [u32; WORDS],
    /// How many words of the descriptor can be read.
    count: usize,
    fields: Option<EndFields>,
}

/// The value of the experiment's thread. No other word of its descriptor is this.
const VALUE: usize = 0x5e70_e0a1_17d1_b6c8;

thread_local! {
    /// Nothing in it needs a destructor, so it is there while destructors run.
    static SEEN: Cell<*mut Seen> = const { Cell::new(ptr::null_mut()) };
}

/// Finds the fields. `None` where no thread can be started, without memory, and where the thread's
/// descriptor does not show exactly one such value.
pub(crate) fn experiment() -> Option<EndFields> {
    let mut seen = try_box(Seen { before: [0; WORDS], count: 0, fields: None }).ok()?;
    // SAFETY: a number.
    let mut thread: libc::pthread_t = unsafe { std::mem::zeroed() };
    // SAFETY: `run` is a start routine. A sanitizer and other tools may wrap threads, and this one
    // runs code of theirs, so it is started as any thread of the program.
    let error = unsafe { libc::pthread_create(&raw mut thread, ptr::null(), start(), (&raw mut *seen).cast()) };
    if error != 0 {
        return None;
    }
    // SAFETY: joined once. Only the thread uses `seen` until then.
    unsafe { libc::pthread_join(thread, ptr::null_mut()) };
    seen.fields
}

/// `run`, with the type by which the crate libc declares start routines.
fn start() -> extern "C" fn(*mut c_void) -> *mut c_void {
    // SAFETY: the two types differ in whether the function may unwind, which `pthread_exit` does
    // below the caller's frame alone.
    unsafe {
        std::mem::transmute::<
            unsafe extern "C-unwind" fn(*mut c_void) -> *mut c_void,
            extern "C" fn(*mut c_void) -> *mut c_void,
        >(run)
    }
}

/// The experiment's thread. Nothing in its frame has a destructor, so `pthread_exit` may unwind it.
unsafe extern "C-unwind" fn run(seen: *mut c_void) -> *mut c_void {
    unsafe extern "C-unwind" {
        // The crate libc declares it as a function that does not unwind.
        fn pthread_exit(value: *mut c_void) -> !;
    }
    let seen = seen.cast::<Seen>();
    // libc may end the process where it has no memory to register a destructor.
    if !os::has_memory(4096) || at_thread_end(ends).is_err() {
        return ptr::null_mut();
    }
    let own = this_thread();
    // SAFETY: the creator waits, so only this thread uses it.
    unsafe { (*seen).count = readable_words(own) };
    // SAFETY: as above.
    for at in 0..unsafe { (*seen).count } {
        // SAFETY: as above, and `readable_words` has said that the word can be read.
        unsafe { (*seen).before[at] = word(own, at) };
    }
    SEEN.set(seen);
    // SAFETY: no frame of this thread has a destructor to run.
    unsafe { pthread_exit(ptr::without_provenance_mut(VALUE)) }
}

/// Runs while the experiment's thread ends.
unsafe extern "C" fn ends(_: *mut c_void) {
    let seen = SEEN.get();
    if seen.is_null() {
        return;
    }
    // SAFETY: the creator waits for this thread, so only this code uses it.
    unsafe { (*seen).fields = compare(&(*seen).before, (*seen).count, this_thread()) };
}

/// The word `at` of the descriptor at `own`.
///
/// # Safety
/// `at` must be below [`readable_words`] of it.
unsafe fn word(own: usize, at: usize) -> u32 {
    // SAFETY: the caller's promise.
    unsafe { ((own + 4 * at) as *const u32).read_volatile() }
}

/// How many words from the running thread's descriptor at `own` on can be read.
fn readable_words(own: usize) -> usize {
    const PAGE: usize = 4096;
    let mut end = own + 4 * WORDS;
    // glibc keeps it at the end of the thread's stack, musl elsewhere.
    #[cfg(target_env = "gnu")]
    if let Some(bounds) = thread_bounds().filter(|bounds| bounds.contains(&own)) {
        end = end.min(bounds.end);
    }
    let next_page = (own | (PAGE - 1)) + 1;
    if end > next_page && !os::is_readable(next_page) {
        end = next_page;
    }
    (end - own) / 4
}

/// The fields of the descriptor at `own`, whose words were `before` when the thread began to end
/// with [`VALUE`].
fn compare(before: &[u32; WORDS], count: usize, own: usize) -> Option<EndFields> {
    // SAFETY: `count` words can be read.
    let now = |at: usize| unsafe { word(own, at) };
    let is_value = |&at: &usize| now(at) as usize | (now(at + 1) as usize) << 32 == VALUE;
    let value = only((0..count.saturating_sub(1)).step_by(2).filter(is_value))?;
    let is_flags = |&at: &usize| before[at] < FLAGS && before[at] & EXITING == 0 && now(at) == before[at] | EXITING;
    let flags = if cfg!(target_env = "gnu") { only((0..count).filter(is_flags)) } else { None };
    Some(EndFields { value: 4 * value, flags: flags.map(|at| 4 * at) })
}

/// The only item.
fn only<T>(mut items: impl Iterator<Item = T>) -> Option<T> {
    items.next().filter(|_| items.next().is_none())
}
