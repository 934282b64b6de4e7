//! The memory that is shared with the command, while this process is the watched one.

use crate::table::{Birth, Births, ROWS, Row, SHARED_ROWS, Table, kind, state};
use std::cell::Cell;
use std::ptr;
use std::sync::Once;
#[cfg(target_arch = "x86_64")]
use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64};

static TABLE: AtomicPtr<Table> = AtomicPtr::new(ptr::null_mut());
static BIRTHS: AtomicPtr<Births> = AtomicPtr::new(ptr::null_mut());
static PROCESS: AtomicU32 = AtomicU32::new(0);
/// 1 in the watched process. The kernel gives a child zeros for this page. Null if it cannot.
static MARK: AtomicPtr<AtomicU32> = AtomicPtr::new(ptr::null_mut());

/// From now on this process is watched.
pub fn set(table: &'static Table, births: Option<&'static Births>) {
    BIRTHS.store(births.map_or(ptr::null_mut(), |births| ptr::from_ref(births).cast_mut()), Relaxed);
    PROCESS.store(std::process::id(), Relaxed);
    let known = MARK.load(Relaxed);
    // SAFETY: a new mapping of one page of any size, which is never unmapped.
    let mark = unsafe {
        let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        let map = || libc::mmap(ptr::null_mut(), size_of::<AtomicU32>(), protection, flags, -1, 0);
        let mark = if known.is_null() { map() } else { known.cast() };
        let wiped = mark != libc::MAP_FAILED && libc::madvise(mark, 1, libc::MADV_WIPEONFORK) == 0;
        if wiped { mark.cast::<AtomicU32>() } else { ptr::null_mut() }
    };
    // SAFETY: null, or a mapping of zeros that is large enough.
    if let Some(mark) = unsafe { mark.as_ref() } {
        mark.store(1, Relaxed);
    }
    MARK.store(mark, Relaxed);
    TABLE.store(ptr::from_ref(table).cast_mut(), Release);
    static REGISTERED: Once = Once::new();
    // SAFETY: the handler stores some words. It is code of this library, which is never unloaded.
    REGISTERED.call_once(|| unsafe {
        libc::pthread_atfork(None, None, Some(in_child));
    });
}

/// From now on this process is not watched.
#[cfg(target_arch = "x86_64")]
pub fn unset() {
    TABLE.store(ptr::null_mut(), SeqCst);
}

/// A child is not watched, as its rows would be the parent's; unless that was asked for. Then the
/// thread that forked gets a row of its own. This runs in a child of a process with many threads,
/// so it only stores.
extern "C" fn in_child() {
    #[cfg(target_arch = "x86_64")]
    crate::attach::in_child();
    crate::life::in_child();
    let Some(table) = table().filter(|table| table.follow.load(Relaxed) == 1) else {
        TABLE.store(ptr::null_mut(), Release);
        return;
    };
    PROCESS.store(std::process::id(), Relaxed);
    // SAFETY: as in `set`.
    if let Some(mark) = unsafe { MARK.load(Relaxed).as_ref() } {
        mark.store(1, Relaxed);
    }
    // The rows that the parent was given back are the parent's.
    FREE.store(0, Relaxed);
    let before = (current() as usize).checked_sub(1).and_then(|index| table.rows.get(index));
    if let (Some(before), Some(row)) = (before, new_row()) {
        row.kind.store(kind::FORK, Relaxed);
        row.creator.store(current(), Relaxed);
        row.creator_tid.store(before.tid.load(Relaxed), Relaxed);
        row.tid.store(tid(), Relaxed);
        row.entry.store(before.entry.load(Relaxed), Relaxed);
        row.entry_file.store(before.entry_file.load(Relaxed), Relaxed);
        row.stack_low.store(before.stack_low.load(Relaxed), Relaxed);
        row.stack_high.store(before.stack_high.load(Relaxed), Relaxed);
        row.created.store(now(), Relaxed);
        row.began.store(now(), Relaxed);
        set_current(row);
        row.state.store(state::ALIVE, Release);
    }
}

/// The row of the running thread. After `fork` it is the one that the child has made for it.
pub fn present() -> Option<&'static Row> {
    let table = own_table()?;
    let own = table.rows.get((current() as usize).checked_sub(1)?)?;
    (own.process.load(Relaxed) == PROCESS.load(Relaxed)).then_some(own)
}

/// The table, if this process is watched.
pub fn table() -> Option<&'static Table> {
    // SAFETY: null, or what `set` has stored: a reference that stays valid.
    unsafe { TABLE.load(Acquire).as_ref() }
}

/// The place for where the row's stack was created, if that was asked for.
pub fn birth(row: &Row) -> Option<&'static Birth> {
    // SAFETY: null, or what `set` has stored: a reference that stays valid.
    let births = unsafe { BIRTHS.load(Relaxed).as_ref() }?;
    births.0.get(id(row) as usize - 1)
}

/// The table, if this is the watched process and not a child by `_Fork` or by a bare system call,
/// which run no handlers of `fork`. A child that shares its parent's memory (`vfork`) counts as the
/// parent here: it creates no thread, and its stack does not end.
pub fn own_table() -> Option<&'static Table> {
    // SAFETY: as in `set`.
    let own = match unsafe { MARK.load(Relaxed).as_ref() } {
        Some(mark) => mark.load(Relaxed) == 1,
        None => is_own_process(),
    };
    table().filter(|_| own)
}

/// Whether this is the watched process and no child of any kind, by a system call.
pub fn is_own_process() -> bool {
    std::process::id() == PROCESS.load(Relaxed)
}

/// The last of the rows that were given back: its id, or 0. The upper half counts the changes, so
/// that no change goes unnoticed by another thread.
static FREE: AtomicU64 = AtomicU64::new(0);

/// Gives a row back: there is no stack for it.
pub fn give_back(row: &Row) {
    row.state.store(state::REFUSED, Release);
    let mut last = FREE.load(Relaxed);
    loop {
        // The row that was given back before this one.
        row.argument.store(last & ID, Relaxed);
        let next = (last & !ID).wrapping_add(ID + 1) | u64::from(id(row));
        match FREE.compare_exchange_weak(last, next, Release, Relaxed) {
            Ok(_) => return,
            Err(now) => last = now,
        }
    }
}

/// The bits of an id in `FREE`.
const ID: u64 = u32::MAX as u64;

/// A row that was given back.
fn take_back(table: &'static Table) -> Option<&'static Row> {
    let mut last = FREE.load(Acquire);
    loop {
        let row = table.rows.get(((last & ID) as usize).checked_sub(1)?)?;
        let next = (last & !ID).wrapping_add(ID + 1) | (row.argument.load(Relaxed) & ID);
        match FREE.compare_exchange_weak(last, next, Acquire, Acquire) {
            Ok(_) => return Some(row),
            Err(now) => last = now,
        }
    }
}

/// A row for a new stack. None if the process is not watched or the table is full.
pub fn new_row() -> Option<&'static Row> {
    let table = own_table()?;
    if let Some(row) = take_back(table) {
        row.flags.store(0, Relaxed);
        return Some(row);
    }
    let index = table.rows_used.fetch_add(1, Relaxed);
    if index as usize >= ROWS {
        // Keeps the count from wrapping after 4 billion threads.
        table.rows_used.store(ROWS as u32 + 1, Relaxed);
        return None;
    }
    let row = table.rows.get(index as usize)?;
    row.process.store(PROCESS.load(Relaxed), Relaxed);
    Some(row)
}

/// A row for a new fiber, if there are enough for threads as well.
pub fn new_fiber_row() -> Option<&'static Row> {
    let table = own_table()?;
    if table.rows_used.load(Relaxed) as usize >= SHARED_ROWS {
        table.fibers_without.fetch_add(1, Relaxed);
        return None;
    }
    let row = new_row()?;
    // It may have been given back by a thread.
    row.tid.store(0, Relaxed);
    Some(row)
}

/// A row for a thread that none of the calls has created, if there are enough for others as well:
/// libc may start one for each event of a timer.
pub fn new_other_row() -> Option<&'static Row> {
    let table = own_table()?;
    if table.rows_used.load(Relaxed) as usize >= SHARED_ROWS {
        table.others_without.fetch_add(1, Relaxed);
        return None;
    }
    new_row()
}

/// Whether the row is one of this process's, and not of the parent that it is a copy of.
pub fn is_own_row(row: &Row) -> bool {
    own_table().is_some() && row.process.load(Relaxed) == PROCESS.load(Relaxed)
}

/// The row's id.
pub fn id(row: &Row) -> u32 {
    let first = table().map_or(0, |table| table.rows.as_ptr().addr());
    ((ptr::from_ref(row).addr() - first) / size_of::<Row>()) as u32 + 1
}

thread_local! {
    /// The id of the running thread's row, or 0.
    static CURRENT: Cell<u32> = const { Cell::new(0) };
}

/// This is the running thread's row.
pub fn set_current(row: &Row) {
    CURRENT.set(id(row));
}

/// The id of the running thread's row, or 0.
pub fn current() -> u32 {
    CURRENT.get()
}

/// Runs code of this library, and leaves the running thread's `errno` as it was.
pub fn keeping_errno<T>(run: impl FnOnce() -> T) -> T {
    // SAFETY: libc's place for the running thread's value, which is always there.
    let before = unsafe { *libc::__errno_location() };
    let result = run();
    // SAFETY: as above.
    unsafe { *libc::__errno_location() = before };
    result
}

/// CLOCK_MONOTONIC in nanoseconds.
pub fn now() -> u64 {
    clock(libc::CLOCK_MONOTONIC).unwrap_or(0)
}

/// A clock in nanoseconds.
pub fn clock(clock: libc::clockid_t) -> Option<u64> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a timespec of this frame.
    let failed = unsafe { libc::clock_gettime(clock, &mut time) };
    (failed == 0).then(|| time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
}

/// The running thread's number, which its row has, if it has a row.
pub fn known_tid() -> u32 {
    present().map(|row| row.tid.load(Relaxed)).filter(|&tid| tid != 0).unwrap_or_else(tid)
}

/// The running thread's number, by a system call.
pub fn tid() -> u32 {
    // glibc has a function for this since 2.30. SAFETY: has no conditions.
    unsafe { libc::syscall(libc::SYS_gettid) as u32 }
}
