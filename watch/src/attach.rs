//! A process that ran already: `exeunt watch --pid` has started a thread in it, which loads this
//! library and calls `exeunt_watch_attach`.
//!
//! Nothing is interposed. The ends of all threads come by `exeunt::on_every_end`, births are what
//! the kernel's list of threads shows. A thread that is created from now on gets its row when it
//! ends, or when the command lets go.

use crate::files;
use crate::life::{self, began, from_ticks};
use crate::shared::{keeping_errno, new_row, now, own_table, tid};
use crate::table::{Row, Table, attached, flag, kind, state};
use crate::touched;
use crate::{begin, shared};
use exeunt::{Kind, StackEnd};
use std::collections::HashMap;
use std::ffi::c_int;
use std::fs::File;
use std::os::fd::FromRawFd;
use std::ptr;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use std::sync::atomic::{AtomicIsize, AtomicPtr, AtomicU32, AtomicUsize};
use std::sync::{Mutex, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// The rows of threads, by number and start: the kernel uses numbers again. A new one for each
/// attach, which is never freed: a process that has forked may have left the last one locked.
type Known = Mutex<HashMap<(u32, u64), &'static Row>>;
static KNOWN: AtomicPtr<Known> = AtomicPtr::new(ptr::null_mut());
/// How many threads are about to use the table.
static USERS: AtomicIsize = AtomicIsize::new(0);
/// The thread that the command has started.
static OWN: AtomicU32 = AtomicU32::new(0);
/// Where libc's description of a thread has its start routine, or 0.
static START_AT: AtomicUsize = AtomicUsize::new(0);

/// Watches this process until the command lets go or is killed.
///
/// # Safety
/// Only for the command's stub: `table` is a descriptor of the table's file, which this closes, and
/// `start` and `argument` are what the running thread was created with.
#[unsafe(no_mangle)]
unsafe extern "C" fn exeunt_watch_attach(table: c_int, start: usize, argument: usize) {
    // SAFETY: by the contract the descriptor is open, and nothing else owns it.
    let file = unsafe { File::from_raw_fd(table) };
    // SAFETY: the name ends with a zero.
    unsafe { libc::prctl(libc::PR_SET_NAME, c"exeunt-watch".as_ptr()) };
    let Some(table) = begin::map::<Table>(&file, 0) else { return };
    drop(file);
    OWN.store(tid(), Relaxed);
    START_AT.store(find_start(start, argument).unwrap_or(0), Relaxed);
    KNOWN.store(Box::into_raw(Box::default()), Release);
    let process = std::process::id();
    table.process.store(process, Relaxed);
    table.began.store(began(process).map_or(0, from_ticks), Relaxed);
    shared::set(table, None);
    match exeunt::on_every_end(ends) {
        Ok(every_end) => {
            let _ = births();
            table.attached.store(attached::ON, Release);
            await_owner(table);
            every_end.stop();
            if let Err(error) = exeunt::restore_code_sites() {
                table.problem.store(error.to_string().as_bytes());
            }
            complete(table, false);
            leave();
            table.attached.store(attached::OFF, Release);
        }
        Err(error) => {
            leave();
            table.problem.store(error.to_string().as_bytes());
            table.attached.store(attached::FAILED, Release);
        }
    }
    if USERS.load(SeqCst) <= 0 {
        // SAFETY: what `map` has mapped. No other code has a reference into it: `leave` has waited
        // for those that had.
        unsafe { libc::munmap(ptr::from_ref(table).cast_mut().cast(), size_of::<Table>()) };
    }
}

/// Whether this process ran already when the library came.
pub fn is_on() -> bool {
    !KNOWN.load(Acquire).is_null()
}

/// In a child by `fork`, which is not watched.
pub fn in_child() {
    USERS.store(0, SeqCst);
}

/// Finds the two words in libc's description of the running thread: they are neighbours there.
fn find_start(start: usize, argument: usize) -> Option<usize> {
    // SAFETY: has no conditions.
    let this = unsafe { libc::pthread_self() } as usize;
    // `struct pthread` of glibc has more than 0x880 bytes.
    (0..0x870).step_by(8).find(|at| {
        // SAFETY: words of the description, which libc may be changing.
        let word = |at: usize| unsafe { ((this + at) as *const usize).read_volatile() };
        word(*at) == start && word(*at + 8) == argument
    })
}

/// Waits until the command lets go, or is gone.
fn await_owner(table: &Table) {
    let mutex = table.owner.as_ptr().cast::<libc::pthread_mutex_t>().cast_mut();
    // SAFETY: the command has made the mutex at this place, for several processes.
    unsafe {
        if libc::pthread_mutex_lock(mutex) == libc::EOWNERDEAD {
            libc::pthread_mutex_consistent(mutex);
        }
        libc::pthread_mutex_unlock(mutex);
    }
}

/// The table is no longer used. Waits for those that use it, for a second.
fn leave() {
    shared::unset();
    let until = Instant::now() + Duration::from_secs(1);
    while USERS.load(SeqCst) > 0 && Instant::now() < until {
        sleep(Duration::from_millis(1));
    }
}

/// Runs code that uses the table, if there is one.
fn using(run: impl FnOnce(&'static Table)) {
    USERS.fetch_add(1, SeqCst);
    if let Some(table) = own_table() {
        run(table);
    }
    USERS.fetch_sub(1, SeqCst);
}

/// The running thread's end.
fn ends(end: &StackEnd) {
    keeping_errno(|| {
        using(|_| {
            let Some(row) = began(tid()).and_then(|ticks| row(tid(), ticks, true)) else { return };
            row.ended.store(now(), Relaxed);
            life::name(row);
            life::times(row);
            if end.kind == Kind::Main {
                row.kind.store(kind::MAIN, Relaxed);
            }
            let (low, high) = touched::bounds(0);
            row.stack_low.store(low as u64, Relaxed);
            row.stack_high.store(high as u64, Relaxed);
            life::used(row, true);
            let at = START_AT.load(Relaxed);
            if at != 0 {
                // SAFETY: the place of the start routine in libc's description of this thread.
                let entry = unsafe { ((libc::pthread_self() as usize + at) as *const usize).read_volatile() };
                row.entry.store(entry as u64, Relaxed);
                row.entry_file.store(files::of(entry), Relaxed);
            }
            life::how(row, Some(end.ending), end.value);
            row.state.store(state::ENDED, Release);
        });
    });
}

/// The row of a thread. `ends`: it is about to end, so that a row which is over is another thread's.
fn row(tid: u32, ticks: u64, ends: bool) -> Option<&'static Row> {
    // SAFETY: null, or leaked by `exeunt_watch_attach`.
    let known = unsafe { KNOWN.load(Acquire).as_ref() }?;
    let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
    let found = known.get(&(tid, ticks)).copied();
    if let Some(row) = found.filter(|row| !ends || row.state.load(Relaxed) == state::ALIVE) {
        return Some(row);
    }
    let row = new_row()?;
    let is_main = tid == std::process::id();
    row.kind.store(if is_main { kind::MAIN } else { kind::THREAD }, Relaxed);
    row.tid.store(tid, Relaxed);
    row.argument.store(ticks, Relaxed);
    row.created.store(from_ticks(ticks), Relaxed);
    row.began.store(from_ticks(ticks), Relaxed);
    row.state.store(state::ALIVE, Release);
    known.insert((tid, ticks), row);
    Some(row)
}

/// Rows for all threads that are there.
fn births() -> std::io::Result<()> {
    for task in std::fs::read_dir("/proc/self/task")? {
        let tid = task?.file_name().to_str().and_then(|name| name.parse().ok());
        if let Some(tid) = tid.filter(|&tid| tid != OWN.load(Relaxed))
            && let Some(ticks) = began(tid)
        {
            row(tid, ticks, false);
        }
    }
    Ok(())
}

/// Completes the rows of the threads that are there. `process`: the process ends.
fn complete(table: &'static Table, process: bool) {
    let _ = births();
    let used = (table.rows_used.load(Relaxed) as usize).min(table.rows.len());
    for row in table.rows[..used].iter().filter(|row| row.state.load(Acquire) == state::ALIVE) {
        let row_tid = row.tid.load(Relaxed);
        row.ended.store(now(), Relaxed);
        // The number may be another thread's by now.
        if began(row_tid) == Some(row.argument.load(Relaxed)) && life::sample(row) {
            let ends = if process && row_tid == tid() { flag::ENDED_PROCESS } else { 0 };
            row.flags.fetch_or(flag::SAMPLED | ends, Release);
        } else if row.state.load(Acquire) == state::ALIVE {
            row.flags.fetch_or(flag::UNSEEN, Relaxed);
            row.state.store(state::ENDED, Release);
        }
    }
    table.finished.store(1, Release);
}

/// The process ends by `exit`, and this is its last code.
pub fn process_ends() {
    using(|table| {
        if shared::is_own_process() {
            complete(table, true);
        }
    });
}
