//! What is written of a stack when it begins and when it ends.

use crate::room::NEED;
use crate::shared::{
    birth, clock, current, id, is_own_process, keeping_errno, new_other_row, now, own_table, present, set_current, tid,
};
use crate::table::{Row, Table, ending, flag, kind, state};
use crate::touched;
use crate::{fibers, files, waits};
use exeunt::{Ending, StackEnd};
use std::collections::BTreeMap;
use std::fmt::{self, Write};
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::thread::{sleep, yield_now};
use std::time::Duration;

/// Whether the library calls `ends` at the end of every thread. Else each thread's stack is armed.
static SEES_EVERY_END: AtomicBool = AtomicBool::new(false);
/// Whether the process has listed the threads that are there at its end.
static LISTED: AtomicBool = AtomicBool::new(false);
/// Whether a thread is about to look for a row of a thread that none of the calls has created, and
/// to take a new one if there is none: a thread that ends, or the one that lists the threads. So
/// each of these threads gets one row.
static TAKES: AtomicBool = AtomicBool::new(false);

/// From now on this library sees the ends of threads.
pub fn watch() {
    /// `MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED_SYNC_CORE` of linux/membarrier.h, which changing
    /// code needs.
    const REGISTER: libc::c_int = 1 << 6;
    // The program's EXEUNT_REDIRECT is for the program. This is the process's first choice, as no
    // stack is armed yet, so it cannot fail.
    let _ = exeunt::Builder::new().redirect(exeunt::Redirect::Auto).install();
    // A seccomp filter may kill the process for a call that changes code.
    if waits::is_filtered() {
        return;
    }
    // While there is one thread, the kernel need not wait for the other processors here.
    // SAFETY: the call has no arguments that point to memory. If it fails, so does the next one.
    unsafe {
        libc::syscall(libc::SYS_membarrier, REGISTER, 0);
    }
    // Its first call allocates, which the end of a thread must not.
    files::is_own(0);
    // Not `on_every_end`: code that recognises `main` by libc's code, as another copy of exeunt does,
    // would not do so when that is patched.
    // After an error the process may not change libc's code, or this libc has another shape.
    if let Ok(every_end) = exeunt::on_every_thread_end(|end| keeping_errno(|| ends(end))) {
        // It stays registered.
        drop(every_end);
        SEES_EVERY_END.store(true, Relaxed);
        crate::routine::find_by_thread();
    }
}

/// Looks for the file that libc's own threads begin in, as the end of one is no place for that. The
/// table is there.
pub fn find_files() {
    if SEES_EVERY_END.load(Relaxed) {
        files::of(libc::pthread_self as *const () as usize);
    }
}

/// The running thread's stack begins, and this is its row. `place`: its foot and its base.
///
/// # Safety
/// They are the running stack's.
pub unsafe fn begun(row: &'static Row, place: (usize, usize)) {
    set_current(row);
    row.tid.store(tid(), Relaxed);
    row.began.store(now(), Relaxed);
    // On a stack that is too small this frame is all there is, and its creator knew where it is.
    if row.flags.load(Relaxed) & flag::NOT_ARMED == 0 {
        // SAFETY: by the contract.
        unsafe { arm(row, place) };
    } else {
        row.state.store(state::ALIVE, Release);
    }
}

/// # Safety
/// As `begun`.
#[inline(never)]
unsafe fn arm(row: &'static Row, (foot, base): (usize, usize)) {
    let (low, high) = touched::bounds(row.stack_size.load(Relaxed) as usize);
    row.stack_low.store(low as u64, Relaxed);
    row.stack_high.store(high as u64, Relaxed);
    row.state.store(state::ALIVE, Release);
    // `ends` gets no report of main.
    if SEES_EVERY_END.load(Relaxed) && row.kind.load(Relaxed) != kind::MAIN {
        return;
    }
    // Without what it captured the handler takes no memory. So a thread that allocates nothing itself
    // needs no cache of the allocator's.
    // SAFETY: by the contract.
    if let Err(error) = unsafe { exeunt::at_exit_at_foot(foot, base, |end| keeping_errno(|| ended(end))) } {
        row.reason.store(error.to_string().as_bytes());
        row.flags.fetch_or(flag::NOT_ARMED, Relaxed);
    }
}

/// The running thread ends, whether this library has seen it begin or not.
fn ends(end: &StackEnd) {
    // A child by `fork` that is not followed may have forbidden itself the system calls below.
    if own_table().is_none() {
        return;
    }
    match present() {
        // On a stack that is too small its row stays as it is.
        Some(row) if row.flags.load(Relaxed) & flag::NOT_ARMED != 0 => (),
        Some(_) => ended(end),
        None => other_ends(end),
    }
}

/// A thread ends which none of the calls has created. libc gives some of its own 24 KiB of stack,
/// so this uses no allocator: the program's may need most of that.
fn other_ends(end: &StackEnd) {
    #[cfg(target_arch = "x86_64")]
    let entry = crate::routine::of_running();
    #[cfg(not(target_arch = "x86_64"))]
    let entry = None;
    // exeunt starts threads as well.
    if entry.is_some_and(files::is_own) {
        return;
    }
    let (tid, ticks) = (tid(), began(tid()));
    let Some(row) = alone(|| listed_row(tid, ticks).or_else(|| other_row(tid, ticks))) else { return };
    row.ended.store(now(), Relaxed);
    name(row);
    let faulted = times(row);
    let (low, high) = touched::bounds_of_block().unwrap_or((0, 0));
    row.stack_low.store(low as u64, Relaxed);
    row.stack_high.store(high as u64, Relaxed);
    let has_room = (low..high).contains(&here()) && here() - low >= NEED;
    used(row, has_room, faulted);
    if let Some(entry) = entry {
        let file = if has_room { files::of(entry) } else { files::known(entry) };
        row.entry_file.store(file, Relaxed);
        row.entry.store(entry as u64, Relaxed);
    }
    how(row, end);
    // Where the process has listed this thread meanwhile, this is exact.
    row.flags.fetch_and(!(flag::UNSEEN | flag::SAMPLED), Relaxed);
    row.state.store(state::ENDED, Release);
}

/// An address of the running stack.
#[inline(never)]
fn here() -> usize {
    let here = 0_u8;
    &raw const here as usize
}

/// Runs code while no other thread runs code by this.
fn alone<T>(run: impl FnOnce() -> T) -> T {
    let take = || TAKES.compare_exchange(false, true, Acquire, Relaxed).is_ok();
    let mut is_taken = take();
    // The holder may be the code that this signal handler interrupts, and never goes on.
    for tries in 0..1100 {
        if is_taken {
            break;
        }
        if tries < 1000 {
            yield_now()
        } else {
            sleep(Duration::from_millis(1))
        }
        is_taken = take();
    }
    let result = run();
    // Else it is the holder's.
    if is_taken {
        TAKES.store(false, Release);
    }
    result
}

/// The row that the process has made for this thread when it listed the threads.
fn listed_row(tid: u32, ticks: Option<u64>) -> Option<&'static Row> {
    if !LISTED.load(Relaxed) {
        return None;
    }
    rows(own_table()?, std::process::id()).find(|row| {
        row.kind.load(Relaxed) == kind::OTHER
            && row.tid.load(Relaxed) == tid
            && row.state.load(Acquire) == state::ALIVE
            && ticks.is_none_or(|ticks| row.argument.load(Relaxed) == ticks)
    })
}

/// The rows of a process that are in use.
fn rows(table: &'static Table, process: u32) -> impl Iterator<Item = &'static Row> {
    let used = (table.rows_used.load(Relaxed) as usize).min(table.rows.len());
    table.rows[..used].iter().filter(move |row| row.process.load(Relaxed) == process)
}

/// A row for a thread that none of the calls has created. `ticks`: when it began; a process without
/// a free descriptor, or without `/proc`, does not see that.
fn other_row(tid: u32, ticks: Option<u64>) -> Option<&'static Row> {
    let (table, row) = (own_table()?, new_other_row()?);
    row.kind.store(kind::OTHER, Relaxed);
    row.tid.store(tid, Relaxed);
    // The kernel counts in ticks of 10 ms, and this may be one of the process's first threads.
    let first = table.began.load(Relaxed);
    let created = ticks.map_or(first, |ticks| from_ticks(ticks).max(first));
    row.created.store(created, Relaxed);
    row.began.store(created, Relaxed);
    // The row may have been given back.
    for field in [&row.creator, &row.creator_tid, &row.entry_file, &row.caller_file] {
        field.store(0, Relaxed);
    }
    for field in
        [&row.entry, &row.caller, &row.ended, &row.stack_low, &row.stack_high, &row.stack_touched, &row.stack_size]
    {
        field.store(0, Relaxed);
    }
    if let Some(birth) = birth(row) {
        birth.frames[0].store(0, Relaxed);
    }
    row.argument.store(ticks.unwrap_or(0), Relaxed);
    row.state.store(state::ALIVE, Release);
    Some(row)
}

/// In a child by `fork`: a thread that was about to take a row is the parent's.
pub fn in_child() {
    TAKES.store(false, Release);
    LISTED.store(false, Relaxed);
}

/// The running thread's entry function is over. A child by `fork` runs this as well, on the copy of
/// the stack that forked.
fn ended(end: &StackEnd) {
    let Some(row) = present() else { return };
    row.ended.store(now(), Relaxed);
    name(row);
    let faulted = times(row);
    used(row, true, faulted);
    how(row, end);
    row.state.store(state::ENDED, Release);
}

/// How the running stack ends.
pub fn how(row: &Row, end: &StackEnd) {
    let how = match end.ending {
        Ending::Returned => ending::RETURNED,
        Ending::Exited => ending::EXITED,
        Ending::Cancelled => ending::CANCELLED,
        Ending::ProcessExit => ending::PROCESS_EXIT,
        Ending::Unwound => ending::UNWOUND,
        _ => ending::OTHER,
    };
    row.ending.store(how, Relaxed);
    if let Some(value) = end.value {
        // The entry functions of C11's threads return an `int`.
        let is_int = row.kind.load(Relaxed) == kind::C11;
        let value = if is_int { value as i32 as isize as usize } else { value };
        row.value.store(value as u64, Relaxed);
        row.flags.fetch_or(flag::VALUE, Relaxed);
    }
}

/// The process ends, and this code runs on the thread that ends it: completes the rows of all
/// threads that are there. This may run twice (`exit`, then `_exit`). It may run in a signal handler
/// if it is not `orderly`, and then allocates nothing.
pub fn process_ends(orderly: bool) {
    #[cfg(target_arch = "x86_64")]
    if crate::attach::is_on() {
        return crate::attach::process_ends();
    }
    let Some(table) = own_table().filter(|_| is_own_process()) else { return };
    let (this, this_row) = (tid(), current());
    let process = std::process::id();
    for row in rows(table, process) {
        if row.flags.load(Relaxed) & flag::REPLACED != 0 {
            continue;
        }
        // The kernel uses a thread's number again, so the number of a row that is over says nothing.
        let own = id(row) == this_row;
        if row.kind.load(Relaxed) == kind::FIBER {
            if row.state.load(Acquire) == state::ALIVE {
                fibers::process_ends(row);
            }
            continue;
        }
        match row.state.load(Relaxed) {
            state::ALIVE => {
                let mut faulted = true;
                if orderly && !own {
                    waits::write(table, row);
                }
                if own {
                    row.flags.fetch_or(flag::ENDED_PROCESS, Relaxed);
                    name(row);
                    faulted = times(row);
                } else if row.tid.load(Relaxed) == this || !sample(row) {
                    // It is gone, and has passed by its handler.
                    continue;
                }
                used(row, orderly, faulted);
                row.ended.store(now(), Relaxed);
                row.flags.fetch_or(flag::SAMPLED, Release);
            }
            // `main` has returned and its thread still runs the handlers of `exit`.
            state::ENDED if own => _ = times(row),
            _ => (),
        }
    }
    if orderly {
        others(table, process);
        if table.waits_used.load(Relaxed) > 0 {
            files::add_all();
        }
    }
    if table.process.load(Relaxed) == process {
        table.finished.store(1, Release);
    }
}

/// Rows for threads that none of the calls has created: libc's own, and those of bare system calls.
fn others(table: &'static Table, process: u32) {
    for row in alone(|| list(table, process)) {
        if row.state.load(Acquire) == state::ENDED {
            // Its thread has passed by the hook since.
            continue;
        }
        if sample(row) {
            waits::write(table, row);
            row.ended.store(now(), Relaxed);
            row.flags.fetch_or(flag::SAMPLED, Release);
        } else if row.state.load(Acquire) == state::ALIVE {
            // It is gone, and has not passed by the hook.
            row.ended.store(now(), Relaxed);
            row.flags.fetch_or(flag::UNSEEN, Relaxed);
            row.state.store(state::ENDED, Release);
        }
    }
}

/// The rows of those threads that are to be completed.
fn list(table: &'static Table, process: u32) -> Vec<&'static Row> {
    // A thread that ends finds the row that this has made.
    LISTED.store(true, Relaxed);
    let mut found = Vec::new();
    let Ok(tasks) = std::fs::read_dir("/proc/self/task") else { return found };
    let tids = tasks.filter_map(|task| task.ok()?.file_name().to_str()?.parse::<u32>().ok());
    // Before the rows: a task that is there now has its row. Whether it is known: the number of the
    // main thread is no other one's.
    let mut tasks: BTreeMap<u32, bool> = tids.map(|task| (task, task == process || task == tid())).collect();
    let mut born = 0;
    for row in rows(table, process) {
        if row.flags.load(Relaxed) & flag::REPLACED != 0 || row.kind.load(Relaxed) == kind::FIBER {
            continue;
        }
        let (row_tid, row_state) = (row.tid.load(Relaxed), row.state.load(Acquire));
        // Its thread may be there, and has not written its number.
        if row_state == state::BORN && row_tid == 0 {
            born += 1;
            continue;
        }
        let Some(is_known) = tasks.get_mut(&row_tid) else { continue };
        match row_state {
            state::BORN | state::ALIVE => *is_known = true,
            state::ENDED => *is_known = *is_known || is_of(row, began(row_tid)),
            _ => continue,
        }
        // It has taken its row just now.
        let is_other = row.kind.load(Relaxed) == kind::OTHER && row_state == state::ALIVE;
        if is_other && row.flags.load(Relaxed) & flag::SAMPLED == 0 {
            found.push(row);
        }
    }
    for (tid, _) in tasks.into_iter().filter(|(_, is_known)| !is_known).skip(born) {
        // Else it is gone.
        if let Some(ticks) = began(tid) {
            found.extend(other_row(tid, Some(ticks)));
        }
    }
    found
}

/// Whether a row that is over is the row of the thread with its number that is there: the kernel
/// uses numbers again. `ticks`: when that thread began.
fn is_of(row: &Row, ticks: Option<u64>) -> bool {
    let Some(ticks) = ticks else { return true };
    if row.kind.load(Relaxed) == kind::OTHER {
        let known = row.argument.load(Relaxed);
        return known == 0 || known == ticks;
    }
    // The kernel's time lies between the creator's and the thread's own. A tick more on either
    // side, as the clocks are not read at once.
    let (from, to) = (from_ticks(ticks.saturating_sub(1)), from_ticks(ticks + 2));
    from <= row.began.load(Relaxed) && row.created.load(Relaxed) <= to
}

/// When a thread began, in the kernel's ticks of 10 ms since the machine's start; None if there is no
/// such thread.
pub fn began(tid: u32) -> Option<u64> {
    let mut buffer = [0; 1024];
    let stat = read(format_args!("/proc/self/task/{tid}/stat"), &mut buffer)?;
    Some(number(fields(stat)?.nth(19)))
}

/// Whether a thread has ended that the kernel still lists: the main thread, while others run on.
#[cfg(target_arch = "x86_64")]
pub fn has_ended(tid: u32) -> bool {
    let mut buffer = [0; 1024];
    let stat = read(format_args!("/proc/self/task/{tid}/stat"), &mut buffer);
    stat.and_then(|stat| fields(stat)?.next()).is_some_and(|state| matches!(state, b"Z" | b"X"))
}

/// The time of such a tick by CLOCK_MONOTONIC.
pub fn from_ticks(ticks: u64) -> u64 {
    // The kernel's clock for this counts the time of suspension as well.
    let suspended = clock(libc::CLOCK_BOOTTIME).unwrap_or(0).saturating_sub(now());
    (ticks * 10_000_000).saturating_sub(suspended)
}

/// The fields of a thread's `stat` after its name.
fn fields(stat: &[u8]) -> Option<impl Iterator<Item = &[u8]>> {
    let end = stat.iter().rposition(|&byte| byte == b')')?;
    Some(stat[end + 1..].split(|&byte| byte == b' ').filter(|field| !field.is_empty()))
}

/// The running thread's name.
pub fn name(row: &Row) {
    row.name.store(&own_name());
}

/// The same, with zeros behind it.
pub fn own_name() -> [u8; 16] {
    let mut name = [0u8; 16];
    // SAFETY: the call writes at most 16 bytes.
    unsafe { libc::prctl(libc::PR_GET_NAME, name.as_mut_ptr()) };
    name
}

/// The running thread's CPU times. Returns whether the kernel has given it memory by a page fault.
pub fn times(row: &Row) -> bool {
    // SAFETY: all zeros are a valid `rusage`, which the call fills.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_THREAD, &mut usage);
        usage
    };
    let microseconds = |time: libc::timeval| time.tv_sec as u64 * 1_000_000 + time.tv_usec as u64;
    row.user.store(microseconds(usage.ru_utime), Relaxed);
    row.system.store(microseconds(usage.ru_stime), Relaxed);
    usage.ru_minflt + usage.ru_majflt != 0
}

/// Name and CPU times of a thread that runs on, from the kernel's files. `stat` has the times in
/// ticks of 10 ms, `schedstat` has their sum exactly. False if there is no such thread.
pub fn sample(row: &Row) -> bool {
    let tid = row.tid.load(Relaxed);
    let mut buffer = [0; 1024];
    let Some(stat) = read(format_args!("/proc/self/task/{tid}/stat"), &mut buffer) else { return false };
    let (begin, end) = (stat.iter().position(|&byte| byte == b'('), stat.iter().rposition(|&byte| byte == b')'));
    let (Some(begin), Some(end)) = (begin, end) else { return false };
    row.name.store(&stat[begin + 1..end]);
    let ticks = fields(stat).map(|mut fields| (number(fields.nth(11)), number(fields.next())));
    let Some((user, system)) = ticks else { return false };
    let schedule = read(format_args!("/proc/self/task/{tid}/schedstat"), &mut buffer);
    let exact = schedule.map(|text| number(text.split(|&byte| byte == b' ').next()) / 1000);
    let sum = exact.unwrap_or((user + system) * 10_000);
    let system = (sum * system).checked_div(user + system).unwrap_or(0);
    row.user.store(sum - system, Relaxed);
    row.system.store(system, Relaxed);
    true
}

fn number(text: Option<&[u8]>) -> u64 {
    text.and_then(|text| str::from_utf8(text).ok()?.trim().parse().ok()).unwrap_or(0)
}

/// A file's beginning, by system calls alone: `_exit` may be called in a signal handler, where
/// nothing may allocate.
pub fn read<'a>(path: fmt::Arguments<'_>, buffer: &'a mut [u8]) -> Option<&'a [u8]> {
    struct Path {
        // One byte stays 0.
        bytes: [u8; 64],
        length: usize,
    }
    impl fmt::Write for Path {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            let room = self.bytes.get_mut(self.length..63).ok_or(fmt::Error)?;
            room.get_mut(..text.len()).ok_or(fmt::Error)?.copy_from_slice(text.as_bytes());
            self.length += text.len();
            Ok(())
        }
    }
    let mut written = Path { bytes: [0; 64], length: 0 };
    written.write_fmt(path).ok()?;
    // SAFETY: the path ends with a zero, the buffer has the length that the call gets, and the
    // descriptor is this function's own. These are no cancellation points, as libc's functions are.
    let length = unsafe {
        let flags = libc::O_RDONLY | libc::O_CLOEXEC;
        let file = libc::syscall(libc::SYS_openat, libc::AT_FDCWD, written.bytes.as_ptr(), flags);
        if file < 0 {
            return None;
        }
        let length = libc::syscall(libc::SYS_read, file, buffer.as_mut_ptr(), buffer.len());
        libc::syscall(libc::SYS_close, file);
        length
    };
    buffer.get(..usize::try_from(length).ok()?)
}

/// The depth that the stack's use had. `room`: the running stack has some. `faulted`: unless it is
/// the running one, whose thread has had no page fault.
pub fn used(row: &Row, room: bool, faulted: bool) {
    let (low, high) = (row.stack_low.load(Relaxed) as usize, row.stack_high.load(Relaxed) as usize);
    let is_of_libc = row.stack_size.load(Relaxed) != 0;
    // They are not known, or their thread is just about to write them.
    if low == 0 || high <= low {
        return;
    }
    let near = if faulted || !is_of_libc { None } else { touched::lowest_near(low, high) };
    let lowest = near.unwrap_or_else(|| touched::lowest(low, high, room));
    row.stack_touched.store(lowest as u64, Relaxed);
}
