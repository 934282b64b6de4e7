//! What is written of a stack when it begins and when it ends.

use crate::shared::{
    clock, current, id, is_own_process, keeping_errno, new_row, now, own_table, present, set_current, tid,
};
use crate::table::{Row, Table, ending, flag, kind, state};
use crate::touched;
use crate::{fibers, files, waits};
use exeunt::Ending;
use std::collections::HashMap;
use std::fmt::{self, Write};
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

/// The running thread's stack begins, and this is its row.
pub fn begun(row: &'static Row) {
    set_current(row);
    row.tid.store(tid(), Relaxed);
    row.began.store(now(), Relaxed);
    // On a stack that is too small this frame is all there is, and its creator knew where it is.
    if row.flags.load(Relaxed) & flag::NOT_ARMED == 0 {
        arm(row);
    } else {
        row.state.store(state::ALIVE, Release);
    }
}

#[inline(never)]
fn arm(row: &'static Row) {
    let (low, high) = touched::bounds(row.stack_size.load(Relaxed) as usize);
    row.stack_low.store(low as u64, Relaxed);
    row.stack_high.store(high as u64, Relaxed);
    row.state.store(state::ALIVE, Release);
    if let Err(error) = exeunt::at_exit(move || keeping_errno(|| ended(row))) {
        row.reason.store(error.to_string().as_bytes());
        row.flags.fetch_or(flag::NOT_ARMED, Relaxed);
    }
}

/// The running thread's entry function is over. A child by `fork` runs this as well, on the copy of
/// the stack that forked.
fn ended(row: &'static Row) {
    let Some(row) = present(row) else { return };
    row.ended.store(now(), Relaxed);
    name(row);
    times(row);
    used(row, true);
    how(row);
    row.state.store(state::ENDED, Release);
}

/// How the running stack ends.
fn how(row: &Row) {
    let how = match exeunt::ending() {
        Some(Ending::Returned) => ending::RETURNED,
        Some(Ending::Exited) => ending::EXITED,
        Some(Ending::Cancelled) => ending::CANCELLED,
        Some(Ending::ProcessExit) => ending::PROCESS_EXIT,
        Some(Ending::Unwound) => ending::UNWOUND,
        _ => ending::OTHER,
    };
    row.ending.store(how, Relaxed);
    if let Some(value) = exeunt::returned_value() {
        row.value.store(value as u64, Relaxed);
        row.flags.fetch_or(flag::VALUE, Relaxed);
    }
}

/// The process ends, and this code runs on the thread that ends it: completes the rows of all
/// threads that are there. This may run twice (`exit`, then `_exit`). It may run in a signal handler
/// if it is not `orderly`, and then allocates nothing.
pub fn process_ends(orderly: bool) {
    let Some(table) = own_table().filter(|_| is_own_process()) else { return };
    let (this, this_row) = (tid(), current());
    let used_rows = (table.rows_used.load(Relaxed) as usize).min(table.rows.len());
    let process = std::process::id();
    for row in table.rows[..used_rows].iter().filter(|row| row.process.load(Relaxed) == process) {
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
                if orderly && !own {
                    waits::write(table, row);
                }
                if own {
                    row.flags.fetch_or(flag::ENDED_PROCESS, Relaxed);
                    name(row);
                    times(row);
                } else if row.tid.load(Relaxed) == this || !sample(row) {
                    // It is gone, and has passed by its handler.
                    continue;
                }
                used(row, orderly);
                row.ended.store(now(), Relaxed);
                row.flags.fetch_or(flag::SAMPLED, Release);
            }
            // `main` has returned and its thread still runs the handlers of `exit`.
            state::ENDED if own => times(row),
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
fn others(table: &Table, process: u32) {
    let Ok(tasks) = std::fs::read_dir("/proc/self/task") else { return };
    // Before the rows: a task that is there now has its row.
    let tids: Vec<u32> = tasks.filter_map(|task| task.ok()?.file_name().to_str()?.parse().ok()).collect();
    let used_rows = (table.rows_used.load(Relaxed) as usize).min(table.rows.len());
    // Until when each number belonged to a thread with a row.
    let mut known = HashMap::from([(tid(), u64::MAX)]);
    let mut born = 0;
    for row in table.rows[..used_rows].iter().filter(|row| row.process.load(Relaxed) == process) {
        if row.flags.load(Relaxed) & flag::REPLACED != 0 || row.kind.load(Relaxed) == kind::FIBER {
            continue;
        }
        let until = match row.state.load(Acquire) {
            // Its thread may be there, and has not written its number.
            state::BORN if row.tid.load(Relaxed) == 0 => {
                born += 1;
                continue;
            }
            state::BORN | state::ALIVE => u64::MAX,
            state::ENDED => row.ended.load(Relaxed),
            _ => continue,
        };
        let before = known.entry(row.tid.load(Relaxed)).or_insert(until);
        *before = until.max(*before);
    }
    let is_known = |tid: u32| known.get(&tid).is_some_and(|&until| until == u64::MAX || began(tid) < until);
    for tid in tids.into_iter().filter(|&tid| !is_known(tid)).skip(born) {
        let Some(row) = new_row() else { return };
        row.kind.store(kind::OTHER, Relaxed);
        row.tid.store(tid, Relaxed);
        row.created.store(table.began.load(Relaxed), Relaxed);
        if sample(row) {
            waits::write(table, row);
            row.ended.store(now(), Relaxed);
            row.flags.store(flag::SAMPLED, Relaxed);
            row.state.store(state::ALIVE, Release);
        }
    }
}

/// When a thread began, by CLOCK_MONOTONIC, rounded down to the kernel's tick of 10 ms; 0 if there is
/// no such thread.
fn began(tid: u32) -> u64 {
    let mut buffer = [0; 1024];
    let stat = read(format_args!("/proc/self/task/{tid}/stat"), &mut buffer);
    let Some(mut fields) = stat.and_then(fields) else { return 0 };
    // The kernel's clock for this counts the time of suspension as well.
    let suspended = clock(libc::CLOCK_BOOTTIME).unwrap_or(0).saturating_sub(now());
    (number(fields.nth(19)) * 10_000_000).saturating_sub(suspended)
}

/// The fields of a thread's `stat` after its name.
fn fields(stat: &[u8]) -> Option<impl Iterator<Item = &[u8]>> {
    let end = stat.iter().rposition(|&byte| byte == b')')?;
    Some(stat[end + 1..].split(|&byte| byte == b' ').filter(|field| !field.is_empty()))
}

/// The running thread's name.
fn name(row: &Row) {
    let mut name = [0u8; 16];
    // SAFETY: the call writes at most 16 bytes.
    unsafe { libc::prctl(libc::PR_GET_NAME, name.as_mut_ptr()) };
    row.name.store(&name);
}

/// The running thread's CPU times.
fn times(row: &Row) {
    // SAFETY: all zeros are a valid `rusage`, which the call fills.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_THREAD, &mut usage);
        usage
    };
    let microseconds = |time: libc::timeval| time.tv_sec as u64 * 1_000_000 + time.tv_usec as u64;
    row.user.store(microseconds(usage.ru_utime), Relaxed);
    row.system.store(microseconds(usage.ru_stime), Relaxed);
}

/// Name and CPU times of a thread that runs on, from the kernel's files. `stat` has the times in
/// ticks of 10 ms, `schedstat` has their sum exactly. False if there is no such thread.
fn sample(row: &Row) -> bool {
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

/// The depth that the stack's use had. `room`: the running stack has some.
fn used(row: &Row, room: bool) {
    let (low, high) = (row.stack_low.load(Relaxed) as usize, row.stack_high.load(Relaxed) as usize);
    row.stack_touched.store(touched::lowest(low, high, room) as u64, Relaxed);
}
