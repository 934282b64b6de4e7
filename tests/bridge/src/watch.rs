//! Watches a stack's life: a signal handler that, at each call, walks the stack that it interrupts,
//! reads what is stored there, and counts what was wrong.

use crate::walk::{Outermost, function_at};
use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

/// The key under which the watched stack stores its number.
const KEY: &str = "watched";

exeunt::stack_local! {
    static LOCAL: Cell<u64> = const { Cell::new(0) };
}

/// The counts of [`look`] so far.
pub static LOOKS: AtomicUsize = AtomicUsize::new(0);
static SEEN: AtomicUsize = AtomicUsize::new(0);
static BROKEN: AtomicUsize = AtomicUsize::new(0);
static WRONG: AtomicUsize = AtomicUsize::new(0);
static HANDLERS: AtomicUsize = AtomicUsize::new(0);
static FIRST_BROKEN: AtomicUsize = AtomicUsize::new(0);
static FIRST_WRONG: AtomicUsize = AtomicUsize::new(0);

/// The result that a read must have now: `NONE`, a number, or either of them while a change is
/// under way.
static BEFORE: AtomicU64 = AtomicU64::new(NONE);
static AFTER: AtomicU64 = AtomicU64::new(NONE);
const NONE: u64 = u64::MAX;

/// Whether a read may also find nothing: while a change of something else on the stack is under
/// way, because a read in a signal handler must not disturb that change.
static MAY_MISS: AtomicBool = AtomicBool::new(false);

/// The value of the stack local, while it exists and nothing changes it. Else `NONE`; then it must
/// not be read, because a read would make it.
static LOCAL_HOLDS: AtomicU64 = AtomicU64::new(NONE);
static LOCAL_SEEN: AtomicUsize = AtomicUsize::new(0);

/// Whether the handler reads, or only walks.
static READS: AtomicBool = AtomicBool::new(false);

/// Whether reads must find nothing: on an alternate signal stack, which has no values.
static ELSEWHERE: AtomicBool = AtomicBool::new(false);

/// The mode of [`look`].
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// Walk the stack only.
    Walking,
    /// Walk and read.
    Reading,
    /// Walk and read on an alternate signal stack.
    ReadingElsewhere,
}

/// Sets the mode of [`look`].
pub fn prepare(how: How) {
    READS.store(how != How::Walking, Ordering::Relaxed);
    ELSEWHERE.store(how == How::ReadingElsewhere, Ordering::Relaxed);
}

/// Checks the stack, from a signal handler that interrupted the code at `pc`.
pub fn look(outermost: &Outermost, pc: usize) {
    LOOKS.fetch_add(1, Ordering::Relaxed);
    if !outermost.is_reached() && !is_linkage_stub(pc) {
        BROKEN.fetch_add(1, Ordering::Relaxed);
        let _ = FIRST_BROKEN.compare_exchange(0, pc, Ordering::Relaxed, Ordering::Relaxed);
    }
    if !READS.load(Ordering::Relaxed) {
        return;
    }
    let got = exeunt::get::<u64>(&KEY).unwrap_or(NONE);
    let (before, after) = (BEFORE.load(Ordering::Relaxed), AFTER.load(Ordering::Relaxed));
    let local = LOCAL_HOLDS.load(Ordering::Relaxed);
    let elsewhere = ELSEWHERE.load(Ordering::Relaxed);
    let local_right = local == NONE || elsewhere || LOCAL.get() == local;
    LOCAL_SEEN.fetch_add(usize::from(local != NONE && !elsewhere), Ordering::Relaxed);
    let right = if elsewhere {
        got == NONE
    } else {
        let missed = got == NONE && (before != after || MAY_MISS.load(Ordering::Relaxed));
        got == before || got == after || missed
    };
    if !right || !local_right {
        WRONG.fetch_add(1, Ordering::Relaxed);
        let _ = FIRST_WRONG.compare_exchange(0, pc, Ordering::Relaxed, Ordering::Relaxed);
    }
    SEEN.fetch_add(usize::from(got != NONE), Ordering::Relaxed);
}

/// Whether `pc` is in a stub of the procedure linkage table. Not every linker describes these to
/// unwinders (LLVM's does not, and on aarch64 none does). So a signal that arrives there finds a
/// stack that cannot be walked, armed or not.
fn is_linkage_stub(pc: usize) -> bool {
    if function_at(pc) != 0 {
        return false;
    }
    // SAFETY: the code around `pc` was just run, and stubs are aligned.
    let stub: [u8; 16] = unsafe { ((pc & !15) as *const [u8; 16]).read() };
    if cfg!(target_arch = "x86_64") {
        // `jmp *slot(%rip)`, maybe after `endbr64`.
        stub.starts_with(&[0xff, 0x25]) || stub.starts_with(&[0xf3, 0x0f, 0x1e, 0xfa, 0xff, 0x25])
    } else {
        // `adrp x16, page; ldr x17, [x16, slot]; add x16, x16, slot; br x17`.
        stub.ends_with(&[0x20, 0x02, 0x1f, 0xd6])
    }
}

/// A change of the stack's storage that does not change the result of reads.
fn among_others(change: impl FnOnce()) {
    MAY_MISS.store(true, Ordering::SeqCst);
    change();
    MAY_MISS.store(false, Ordering::SeqCst);
}

/// A change of the result of reads, from the current one to `to`, by `change`.
fn changing(to: u64, change: impl FnOnce()) {
    AFTER.store(to, Ordering::SeqCst);
    change();
    BEFORE.store(to, Ordering::SeqCst);
}

/// Arms, changes, reads, disarms, and arms again, on a stack that is not armed. The drain comes
/// after it. Calls `midway` where there is a value to read and no change is under way: once for the
/// keyed value, and once for the local.
#[inline(never)]
pub fn live(midway: impl Fn()) {
    let refused = "this stack can be armed";
    changing(NONE, || exeunt::at_exit(|| unreachable!("unload has removed it")).expect(refused));
    changing(1, || exeunt::set(KEY, 1_u64).expect(refused));
    changing(2, || exeunt::set(KEY, 2_u64).expect(refused));
    assert_eq!(exeunt::get(&KEY), Some(2_u64));
    midway();
    // Another number in each life, and in other memory: no value of the previous life is equal to
    // it.
    static LIVES: AtomicU64 = AtomicU64::new(5);
    let number = LIVES.fetch_add(1, Ordering::Relaxed);
    among_others(|| {
        for _ in 0..4 {
            Box::leak(Box::new(NONE));
        }
        LOCAL.set(number);
    });
    LOCAL_HOLDS.store(number, Ordering::SeqCst);
    LOCAL.with(|local| assert_eq!(local.get(), number));
    midway();
    assert!(deeper(1) > 0);
    for _ in 0..READS_OF_LOCAL {
        LOCAL.with(|local| assert_eq!(std::hint::black_box(local).get(), number));
    }
    LOCAL_HOLDS.store(NONE, Ordering::SeqCst);
    changing(NONE, || assert!(exeunt::del(&KEY).unwrap()));
    changing(3, || exeunt::set(KEY, 3_u64).expect(refused));
    changing(NONE, || exeunt::unload().unwrap());
    assert!(exeunt::get::<u64>(&KEY).is_none());
    changing(4, || exeunt::set(KEY, 4_u64).expect(refused));
    // The rest of the life, its drain, removes handlers and values, which are changes.
    MAY_MISS.store(true, Ordering::SeqCst);
    exeunt::at_exit(|| {
        HANDLERS.fetch_add(1, Ordering::Relaxed);
        assert_eq!(exeunt::get(&KEY), Some(4_u64));
        // The values are dropped after the handlers.
        AFTER.store(NONE, Ordering::SeqCst);
    })
    .expect(refused);
    LOCAL.set(6);
}

/// How often a life reads its local.
const READS_OF_LOCAL: usize = 20;

/// Reads on pages where nothing has read before.
#[inline(never)]
fn deeper(depth: u32) -> u64 {
    let room = std::hint::black_box([1_u8; 5000]);
    let below = if depth == 0 { LOCAL.get() } else { deeper(depth - 1) };
    below * u64::from(room[below as usize % room.len()])
}

/// Resets the expected results: the life is over.
pub fn life_is_over() {
    BEFORE.store(NONE, Ordering::SeqCst);
    AFTER.store(NONE, Ordering::SeqCst);
    MAY_MISS.store(false, Ordering::SeqCst);
}

/// Prints the counts, and returns the process's exit status: zero if nothing was wrong in `lives`
/// lives.
pub fn verdict(lives: usize) -> i32 {
    let of = |count: &AtomicUsize| count.load(Ordering::Relaxed);
    println!("{} checks", of(&LOOKS));
    let reads = READS.load(Ordering::Relaxed);
    let sees = reads && !ELSEWHERE.load(Ordering::Relaxed);
    for (what, count, pc) in [("incomplete walks", &BROKEN, &FIRST_BROKEN), ("wrong reads", &WRONG, &FIRST_WRONG)] {
        if of(count) > 0 {
            println!("{} {what}, the first at {:#x}:", of(count), of(pc));
            backtrace::resolve(of(pc) as *mut _, |symbol| println!("  {symbol:?}"));
        }
    }
    if of(&HANDLERS) != lives {
        println!("{lives} lives, and {} handlers that ran", of(&HANDLERS));
    }
    let seen = of(&SEEN) > 0 && of(&LOCAL_SEEN) > 0;
    if sees && !seen {
        println!("no read ever found the value, or none the stack local's");
    }
    let right = of(&BROKEN) + of(&WRONG) == 0 && of(&HANDLERS) == lives && of(&LOOKS) > 0 && (!sees || seen);
    i32::from(!right)
}
