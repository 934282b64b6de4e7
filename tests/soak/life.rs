//! The life of a stack. It has a number, which is stored in every way there is, read again and
//! again, and counted at the stack's end.

use std::cell::Cell;
use std::ffi::c_void;
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

/// How many lives have begun, and the sum of their numbers; the same of those whose handler has
/// run.
static BEGUN: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];
static DRAINED: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];
/// Values that were made and not dropped.
static ALIVE: AtomicI64 = AtomicI64::new(0);

const KEY: &str = "life";

exeunt::stack_local! {
    static LOCAL: Cell<u64> = const { Cell::new(0) };
}

/// The handle of a slot that holds the number.
fn slot() -> u32 {
    static SLOT: OnceLock<u32> = OnceLock::new();
    // SAFETY: without a destructor there is nothing to promise.
    *SLOT.get_or_init(|| unsafe { exeunt::slots::alloc(None) }.expect("the first slot"))
}

/// A life's number, and a copy of it that distinguishes a value from other memory.
struct Value {
    number: u64,
    copy: u64,
}

impl Value {
    fn new(number: u64) -> Self {
        ALIVE.fetch_add(1, Ordering::Relaxed);
        Self { number, copy: !number }
    }

    fn number(&self) -> u64 {
        assert_eq!(self.number, !self.copy, "a value that is none");
        self.number
    }
}

impl Drop for Value {
    fn drop(&mut self) {
        self.number();
        self.copy = 0;
        ALIVE.fetch_sub(1, Ordering::Relaxed);
    }
}

/// For the signal handler: the life whose stack this thread runs on now; zero where that is about
/// to change.
///
/// In functions that are not inlined, because a fiber that has moved has another thread-local at
/// another address.
mod expected {
    use std::cell::Cell;
    thread_local! {
        static NUMBER: Cell<u64> = const { Cell::new(0) };
    }

    #[inline(never)]
    pub fn set(number: u64) {
        NUMBER.set(number);
    }

    #[inline(never)]
    pub fn get() -> u64 {
        NUMBER.get()
    }
}
pub use expected::{get as expected, set as expect};

/// Begins a life on the running stack, and arms the stack by this.
pub fn begin() -> u64 {
    let number = BEGUN[0].fetch_add(1, Ordering::Relaxed) + 1;
    BEGUN[1].fetch_add(number, Ordering::Relaxed);
    arm(number);
    number
}

/// Stores what `unload` removes.
pub fn arm(number: u64) {
    exeunt::at_exit(move || drained(number)).unwrap_or_else(|error| panic!("life {number} was refused: {error}"));
    store(number);
    expect(number);
}

/// Stores what `reset` removes.
pub fn store(number: u64) {
    exeunt::set(KEY, Value::new(number)).expect("an armed stack");
    LOCAL.set(number);
    // SAFETY: a number, which nothing takes for an address.
    unsafe { exeunt::slots::set(slot(), ptr::without_provenance_mut(number as usize)) }.expect("an armed stack");
}

fn drained(number: u64) {
    check(number);
    // A read may still find the values that are dropped now, or not.
    expect(0);
    DRAINED[0].fetch_add(1, Ordering::Relaxed);
    DRAINED[1].fetch_add(number, Ordering::Relaxed);
}

/// Checks that all three values of the running stack are those of this life.
#[track_caller]
pub fn check(number: u64) {
    assert_eq!(exeunt::with(&KEY, |value: Option<&Value>| value.map(Value::number)), Some(number), "by key");
    assert_eq!(LOCAL.get(), number, "stack local");
    assert_eq!(exeunt::slots::get(slot()).map(<*mut c_void>::addr), Ok(number as usize), "slot");
}

/// The signal handler's reads: by key, and in the slot. Neither makes anything.
pub fn look() -> [Option<u64>; 2] {
    let by_key = exeunt::with(&KEY, |value: Option<&Value>| value.map(Value::number));
    let in_slot = exeunt::slots::get(slot()).expect("an allocated slot").addr() as u64;
    [by_key, (in_slot != 0).then_some(in_slot)]
}

/// Makes the values that a signal handler must not make.
pub fn prepare() {
    slot();
}

/// The final check when all lives are over: `Err` names what should not be left.
pub fn settle() -> Result<u64, String> {
    let load = |counts: &[AtomicU64; 2]| [counts[0].load(Ordering::Relaxed), counts[1].load(Ordering::Relaxed)];
    let (begun, drained, alive) = (load(&BEGUN), load(&DRAINED), ALIVE.load(Ordering::Relaxed));
    let armed = exeunt::survey().map_err(|error| error.to_string())?.armed;
    if begun != drained || alive != 0 || armed != 0 {
        return Err(format!(
            "of {} lives {} were drained (sums of their numbers {} and {}); {alive} values are alive, {armed} stacks armed",
            begun[0], drained[0], begun[1], drained[1]
        ));
    }
    Ok(begun[0])
}
