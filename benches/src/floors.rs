//! Floors: loops that do the least that safety needs, where exeunt misses a goal. None of them
//! redirects anything. They make the loads, stores and exchanges that such code cannot do without.

use crate::sample::{Samples, Stopwatch, since};
use foldhash::fast::FixedState;
use std::any::TypeId;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::hint::black_box;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

type Key = (TypeId, &'static str);

exeunt::stack_local! {
    static VALUES: RefCell<HashMap<Key, (TypeId, u64), FixedState>> = RefCell::default();
}

/// A keyed `set`: finds the stack, hashes the key with its type, compares both, stores in place.
pub fn set(key: &'static str, value: u64) {
    VALUES.with(|values| {
        values.borrow_mut().insert((TypeId::of::<&str>(), key), (TypeId::of::<u64>(), value));
    });
}

/// A keyed `get`: the same, and compares the value's type.
pub fn get(key: &'static str) -> Option<u64> {
    VALUES.with(|values| {
        let values = values.borrow();
        let (kind, value) = values.get(&(TypeId::of::<&str>(), key))?;
        (*kind == TypeId::of::<u64>()).then_some(*value)
    })
}

/// What an armed stack needs: whether it is in use, its base, foot, original return address,
/// canary, identity and generation, and one handler.
#[repr(align(64))]
struct Record {
    taken: AtomicBool,
    words: [AtomicUsize; 6],
    handler: HandlerCell,
}

struct HandlerCell(Cell<Option<Box<dyn FnOnce()>>>);

// SAFETY: `taken` gives the handler to one thread at a time.
unsafe impl Sync for HandlerCell {}

static RECORD: Record = Record {
    taken: AtomicBool::new(false),
    words: [const { AtomicUsize::new(0) }; 6],
    handler: HandlerCell(Cell::new(None)),
};

/// Something to be done at the stack's end.
struct Last;

impl Drop for Last {
    fn drop(&mut self) {
        black_box(self);
    }
}

/// Arming: takes a cached record, fills it in, redirects `foot` (any word of the stack), and keeps
/// a handler.
#[inline(never)]
pub fn arm(foot: &mut usize) {
    let record = black_box(&RECORD);
    assert!(!record.taken.swap(true, Ordering::Acquire), "one stack at a time");
    // SAFETY: a reference.
    let original = unsafe { ptr::read_volatile(foot) };
    for (number, word) in record.words.iter().enumerate() {
        word.store(original.wrapping_add(number), Ordering::Relaxed);
    }
    let last = Last;
    record.handler.0.set(Some(Box::new(move || drop(last))));
    // SAFETY: a reference.
    unsafe { ptr::write_volatile(foot, original ^ 1) };
}

/// The end: finds the record, runs the handler, and caches the record.
#[inline(never)]
pub fn end(foot: &mut usize) {
    let record = black_box(&RECORD);
    let original = record.words[0].load(Ordering::Relaxed);
    // SAFETY: a reference.
    unsafe { ptr::write_volatile(foot, original) };
    if let Some(handler) = record.handler.0.take() {
        handler();
    }
    record.taken.store(false, Ordering::Release);
}

/// What one frame of a walk takes that has no frame pointers to follow: the return address is
/// loaded, and the rule for it is looked up, which says where the next one lies.
pub fn frame_of_a_walk() -> f64 {
    const WORDS: usize = 8;
    const RULES: usize = 1024;
    const DEPTH: usize = 1000;
    let slot = |address: usize| address.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (usize::BITS - RULES.ilog2());
    let addresses = [0x5555_5555_1234, 0x5555_5556_4321];
    let mut rules = vec![(0_usize, 0_usize); RULES];
    addresses.iter().for_each(|&address| rules[slot(address)] = (address, WORDS));
    let mut stack = vec![0_usize; DEPTH * WORDS];
    (0..DEPTH).for_each(|frame| stack[frame * WORDS] = addresses[frame % 2]);
    let walk = |stack: &[usize], rules: &[(usize, usize)]| {
        let mut at = 0;
        while let Some(&address) = stack.get(at) {
            let (known, size) = rules[slot(address)];
            if known != address {
                break;
            }
            at += size;
        }
        at
    };
    let mut samples = Samples::new();
    for _ in 0..50 {
        let start = Stopwatch::start();
        assert_eq!(walk(black_box(&stack), black_box(&rules)), stack.len());
        samples.push(start.elapsed().as_nanos() as f64 / DEPTH as f64);
    }
    samples.median()
}

/// What it takes to make sure that a stack of 1,000 frames returns the way that it did before: each
/// return address is loaded and compared. The words are as far apart as those of small functions.
pub fn known_return_addresses() -> f64 {
    const WORDS: usize = 8;
    const DEPTH: usize = 1000;
    const HOLDS: usize = 0x5555_5555_1234;
    let stack = vec![HOLDS; DEPTH * WORDS];
    let is_known = |stack: &[usize], holds: usize| stack.iter().step_by(WORDS).all(|&word| word == holds);
    let mut samples = Samples::new();
    for _ in 0..200 {
        let start = Stopwatch::start();
        assert!(is_known(black_box(&stack), black_box(HOLDS)));
        samples.push(start.elapsed().as_nanos() as f64);
    }
    samples.median()
}

/// What the system takes for the one experiment that no reading of code replaces: a thread begins,
/// looks where its entry function returns to, and is waited for. The first such thread of a process,
/// which maps its stack.
pub fn first_thread() -> f64 {
    extern "C" fn look(_: *mut libc::c_void) -> *mut libc::c_void {
        let word = 0_usize;
        // SAFETY: a local variable.
        black_box(unsafe { ptr::read_volatile(black_box(&word)) });
        ptr::null_mut()
    }
    let mut thread = 0;
    let start = Instant::now();
    // SAFETY: the function takes and gives what libc asks for; the thread is joined once.
    unsafe {
        assert_eq!(libc::pthread_create(&mut thread, ptr::null(), look, ptr::null_mut()), 0, "a thread can be started");
        assert_eq!(libc::pthread_join(thread, ptr::null_mut()), 0, "the thread ends");
    }
    since(start)
}

/// What the system takes to let code be patched while threads run: a page of a file's is made
/// writable, copied by the first write and made executable again, and `membarrier` is registered
/// and called. In microseconds of a process that has patched nothing yet, all in all.
pub fn patch_a_page() -> f64 {
    use std::os::fd::AsRawFd;
    const LENGTH: usize = 4096;
    const REGISTER_SYNC_CORE: i32 = 64;
    const SYNC_CORE: i32 = 32;
    let program = std::fs::File::open("/proc/self/exe").expect("this program can be read");
    let access = libc::PROT_READ | libc::PROT_EXEC;
    // SAFETY: a new mapping touches nothing that exists.
    let page = unsafe { libc::mmap(ptr::null_mut(), LENGTH, access, libc::MAP_PRIVATE, program.as_raw_fd(), 0) };
    assert_ne!(page, libc::MAP_FAILED);
    let first = page.cast::<u8>();
    // SAFETY: the page is mapped.
    let byte = unsafe { ptr::read_volatile(first) };
    let barrier = |command: i32| {
        // SAFETY: the call has no pointers.
        assert_eq!(unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) }, 0, "Linux 4.16 or newer");
    };
    let start = Instant::now();
    barrier(REGISTER_SYNC_CORE);
    // SAFETY: the mapping is this function's, and no code runs there.
    unsafe {
        assert_eq!(libc::mprotect(page, LENGTH, access | libc::PROT_WRITE), 0);
        ptr::write_volatile(first, byte);
        assert_eq!(libc::mprotect(page, LENGTH, access), 0);
    }
    barrier(SYNC_CORE);
    since(start)
}
