//! A process that ran already: `exeunt watch --pid` has started a thread in it, which loads this
//! library and calls `exeunt_watch_attach`.
//!
//! Nothing is interposed. The ends of all threads come by `exeunt::on_every_thread_end`, main's by
//! `exit` (`main_end.rs`), births are what the kernel's list of threads shows. A thread that is
//! created from now on gets its row when it ends, or when the command lets go.

use crate::description::{self, Places};
use crate::life::{self, began, from_ticks};
use crate::shared::{keeping_errno, new_row, now, own_table, tid};
use crate::table::{Row, Table, attached, ending, flag, kind, state};
use crate::touched;
use crate::{begin, files, main_end, routine, shared};
use exeunt::StackEnd;
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
/// Where libc's description of a thread has the kernel's number, or 0.
static NUMBER_AT: AtomicUsize = AtomicUsize::new(0);

/// Watches this process until the command lets go or is killed.
///
/// # Safety
/// Only for the command's stub: `table` is a descriptor of the table's file, which this closes, and
/// `start` and `argument` are what the running thread was created with.
#[unsafe(no_mangle)]
unsafe extern "C" fn exeunt_watch_attach(table: c_int, start: usize, argument: usize) {
    // SAFETY: by the contract the descriptor is open, and nothing else owns it.
    let file = unsafe { File::from_raw_fd(table) };
    let Some(table) = begin::map::<Table>(&file, 0) else { return };
    drop(file);
    // Two commands at once may both have found no table, or the last one was killed just now. Each
    // maps its table before it looks, so at most one goes on. They may have loaded this library
    // twice, so a variable of it would not do.
    if !is_alone() {
        table.problem.store(b"it is watched already: end that `exeunt watch` first");
        table.attached.store(attached::FAILED, Release);
        // SAFETY: what `map` has mapped, and no other code knows of it.
        return unsafe { unmap(table) };
    }
    OWN.store(tid(), Relaxed);
    // SAFETY: by the contract.
    unsafe { routine::find(start, argument) };
    touched::find_block();
    NUMBER_AT.store(description::find_number(tid()).unwrap_or(0), Relaxed);
    KNOWN.store(Box::into_raw(Box::default()), Release);
    let process = std::process::id();
    table.process.store(process, Relaxed);
    table.began.store(began(process).map_or(0, from_ticks), Relaxed);
    shared::set(table, None);
    match exeunt::on_every_thread_end(ends) {
        Ok(every_end) => {
            main_end::watch();
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
        unsafe { unmap(table) };
    }
}

/// Whether no table is mapped but one.
fn is_alone() -> bool {
    let mappings = std::fs::read_to_string("/proc/thread-self/maps").unwrap_or_default();
    mappings.matches("/memfd:exeunt-watch-table").count() == 1
}

/// # Safety
/// `table` is what `begin::map` has mapped, and is not used any more.
unsafe fn unmap(table: &'static Table) {
    // SAFETY: by the contract.
    unsafe { libc::munmap(ptr::from_ref(table).cast_mut().cast(), size_of::<Table>()) };
}

/// Whether this process ran already when the library came.
pub fn is_on() -> bool {
    !KNOWN.load(Acquire).is_null()
}

/// In a child by `fork`, which is not watched.
pub fn in_child() {
    USERS.store(0, SeqCst);
}

/// The start routine of another thread, which waits in a system call: libc's description of it lies
/// at the end of its stack. The kernel copies that memory, as the thread may end meanwhile.
fn start_of(tid: u32) -> Option<usize> {
    let places = Places { number: NUMBER_AT.load(Relaxed), start: routine::place(), block: touched::place_of_block() };
    if places.start == 0 || places.number == 0 || tid == std::process::id() {
        return None;
    }
    let call = std::fs::read_to_string(format!("/proc/self/task/{tid}/syscall")).ok()?;
    let stack_pointer = call.split_whitespace().rev().nth(1)?.strip_prefix("0x")?;
    // It is aligned to 64 bytes.
    let from = usize::from_str_radix(stack_pointer, 16).ok()?.next_multiple_of(64);
    let mut bytes = vec![0u8; 64 << 10];
    for part in (from..).step_by((bytes.len() - 0x900) & !63).take(32) {
        let read = copied(&mut bytes, part);
        let start = description::start_in(&bytes[..read], part, tid, &places);
        if start.is_some() {
            return start;
        }
        if read < bytes.len() {
            break;
        }
    }
    None
}

/// Copies memory of this process that may be gone. Returns how much.
fn copied(bytes: &mut [u8], from: usize) -> usize {
    let here = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    // The kernel copies whole parts alone, so there is one for each page.
    let end = from + bytes.len();
    let mut parts = Vec::new();
    let mut at = from;
    while at < end {
        let next = ((at & !4095) + 4096).min(end);
        parts.push(libc::iovec { iov_base: at as *mut _, iov_len: next - at });
        at = next;
    }
    // SAFETY: the kernel fills at most the bytes, and checks the other addresses.
    let read = unsafe {
        let this = std::process::id().cast_signed();
        libc::process_vm_readv(this, &raw const here, 1, parts.as_ptr(), parts.len() as u64, 0)
    };
    usize::try_from(read).unwrap_or(0)
}

/// Whether a thread is this one, or that of a command that was killed, by the name that the stub has
/// given it.
fn is_ours(tid: u32) -> bool {
    let mut buffer = [0; 32];
    tid == OWN.load(Relaxed)
        || life::read(format_args!("/proc/self/task/{tid}/comm"), &mut buffer) == Some(b"exeunt-watch\n")
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
            // The thread of a command that was killed.
            if life::own_name().starts_with(b"exeunt-watch\0") {
                return;
            }
            let Some(row) = row_at_end() else { return };
            if let Some(entry) = routine::of_running() {
                enters(row, entry);
            }
            life::how(row, end);
            row.state.store(state::ENDED, Release);
        });
    });
}

/// The process ends by `exit`. `status`: that, if this runs on main's stack and `main` has returned.
pub fn main_exits(status: impl FnOnce() -> Option<c_int>) {
    keeping_errno(|| {
        using(|_| {
            if tid() != std::process::id() {
                return;
            }
            let Some(row) = row_at_end() else { return };
            if let Some(status) = status() {
                row.ending.store(ending::RETURNED, Relaxed);
                row.value.store(status as isize as u64, Relaxed);
                row.flags.fetch_or(flag::VALUE, Relaxed);
            } else {
                row.ending.store(ending::PROCESS_EXIT, Relaxed);
            }
            row.state.store(state::ENDED, Release);
        });
    });
}

/// The running thread's row, with all but how it ends. None without room for it: the table counts
/// it as lost.
fn row_at_end() -> Option<&'static Row> {
    let row = row(tid(), began(tid()), true)?;
    row.ended.store(now(), Relaxed);
    life::name(row);
    let faulted = life::times(row);
    let (low, high) = touched::bounds_of_block().unwrap_or_else(|| touched::bounds(0));
    row.stack_low.store(low as u64, Relaxed);
    row.stack_high.store(high as u64, Relaxed);
    life::used(row, true, faulted);
    Some(row)
}

/// Writes the entry function of a row.
fn enters(row: &Row, entry: usize) {
    row.entry_file.store(files::of(entry), Relaxed);
    row.entry.store(entry as u64, Relaxed);
}

/// The row of a thread. `ticks`: when it began; a process without a free descriptor, or without
/// `/proc`, does not see that. `ends`: it is about to end, so that a row which is over is another
/// thread's.
fn row(tid: u32, ticks: Option<u64>, ends: bool) -> Option<&'static Row> {
    // SAFETY: null, or leaked by `exeunt_watch_attach`.
    let known = unsafe { KNOWN.load(Acquire).as_ref() }?;
    let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
    let lives = |row: &&&Row| row.tid.load(Relaxed) == tid && row.state.load(Relaxed) == state::ALIVE;
    let found = match ticks {
        Some(ticks) => known.get(&(tid, ticks)).copied(),
        None => known.values().find(lives).copied(),
    };
    // Where that is not known: no earlier than the process.
    let created = ticks.map_or_else(|| own_table().map_or(0, |table| table.began.load(Relaxed)), from_ticks);
    let ticks = ticks.unwrap_or(0);
    if let Some(row) = found.filter(|row| !ends || row.state.load(Relaxed) == state::ALIVE) {
        return Some(row);
    }
    let row = new_row()?;
    let is_main = tid == std::process::id();
    row.kind.store(if is_main { kind::MAIN } else { kind::THREAD }, Relaxed);
    row.tid.store(tid, Relaxed);
    row.argument.store(ticks, Relaxed);
    row.created.store(created, Relaxed);
    row.began.store(created, Relaxed);
    row.state.store(state::ALIVE, Release);
    known.insert((tid, ticks), row);
    Some(row)
}

/// Rows for all threads that are there.
fn births() -> std::io::Result<()> {
    for task in std::fs::read_dir("/proc/self/task")? {
        let tid = task?.file_name().to_str().and_then(|name| name.parse().ok());
        if let Some(tid) = tid.filter(|&tid| !is_ours(tid))
            && let Some(ticks) = began(tid)
        {
            let row = row(tid, Some(ticks), false);
            if let Some(row) = row.filter(|row| row.entry.load(Relaxed) == 0)
                && let Some(entry) = start_of(tid)
            {
                enters(row, entry);
            }
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
        let is_there = began(row_tid) == Some(row.argument.load(Relaxed)) && life::sample(row);
        if is_there && life::has_ended(row_tid) {
            // The main thread, by `pthread_exit`. Its times are still there.
            row.flags.fetch_or(flag::SAMPLED | flag::UNSEEN, Relaxed);
            row.state.store(state::ENDED, Release);
        } else if is_there {
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
