//! What is written of a stack when it begins and when it ends.

use crate::shared::{new_row, now, own_table, present, set_current, tid};
use crate::table::{Row, Table, ending, flag, kind, state};
use crate::touched;
use exeunt::Ending;
use std::collections::HashSet;
use std::sync::atomic::Ordering::{Relaxed, Release};

/// The running thread's stack begins, and this is its row.
pub fn begun(row: &'static Row) {
    set_current(row);
    row.tid.store(tid(), Relaxed);
    row.began.store(now(), Relaxed);
    let (low, high) = touched::bounds();
    row.stack_low.store(low as u64, Relaxed);
    row.stack_high.store(high as u64, Relaxed);
    row.state.store(state::ALIVE, Release);
    if let Err(error) = exeunt::at_exit(move || ended(row)) {
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
    used(row);
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
/// threads that are there. This may run twice (`exit`, then `_exit`).
pub fn process_ends() {
    let Some(table) = own_table() else { return };
    let this = tid();
    let used_rows = (table.rows_used.load(Relaxed) as usize).min(table.rows.len());
    let process = std::process::id();
    for row in table.rows[..used_rows].iter().filter(|row| row.process.load(Relaxed) == process) {
        if row.flags.load(Relaxed) & flag::REPLACED != 0 {
            continue;
        }
        let own = row.tid.load(Relaxed) == this;
        match row.state.load(Relaxed) {
            state::ALIVE => {
                if own {
                    row.flags.fetch_or(flag::ENDED_PROCESS, Relaxed);
                    name(row);
                    times(row);
                } else if !sample(row) {
                    // It is gone, and has passed by its handler.
                    continue;
                }
                used(row);
                row.ended.store(now(), Relaxed);
                row.flags.fetch_or(flag::SAMPLED, Release);
            }
            // `main` has returned and its thread still runs the handlers of `exit`.
            state::ENDED if own => times(row),
            _ => (),
        }
    }
    others(table, process);
    if table.process.load(Relaxed) == process {
        table.finished.store(1, Release);
    }
}

/// Rows for threads that none of the calls has created: libc's own, and those of bare system calls.
fn others(table: &Table, process: u32) {
    let used_rows = (table.rows_used.load(Relaxed) as usize).min(table.rows.len());
    let alive = |row: &&Row| row.process.load(Relaxed) == process && row.tid.load(Relaxed) != 0;
    let known: HashSet<u32> = table.rows[..used_rows].iter().filter(alive).map(|row| row.tid.load(Relaxed)).collect();
    let Ok(tasks) = std::fs::read_dir("/proc/self/task") else { return };
    let tids = tasks.filter_map(|task| task.ok()?.file_name().to_str()?.parse::<u32>().ok());
    for tid in tids.filter(|tid| !known.contains(tid)) {
        let Some(row) = new_row() else { return };
        row.kind.store(kind::OTHER, Relaxed);
        row.tid.store(tid, Relaxed);
        row.created.store(table.began.load(Relaxed), Relaxed);
        if sample(row) {
            row.ended.store(now(), Relaxed);
            row.flags.store(flag::SAMPLED, Relaxed);
            row.state.store(state::ALIVE, Release);
        }
    }
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
/// ticks of 10 ms, `schedstat` has their sum exactly.
/// False if there is no such thread.
fn sample(row: &Row) -> bool {
    let folder = format!("/proc/self/task/{}", row.tid.load(Relaxed));
    let Ok(stat) = std::fs::read_to_string(format!("{folder}/stat")) else { return false };
    let (Some(begin), Some(end)) = (stat.find('('), stat.rfind(')')) else { return false };
    row.name.store(&stat.as_bytes()[begin + 1..end]);
    let fields: Vec<&str> = stat[end + 1..].split_whitespace().collect();
    let field = |index: usize| fields.get(index).and_then(|field| field.parse::<u64>().ok()).unwrap_or(0);
    let (user, system) = (field(11), field(12));
    let schedule = std::fs::read_to_string(format!("{folder}/schedstat")).ok();
    let exact = schedule.and_then(|text| text.split_whitespace().next()?.parse::<u64>().ok()).map(|time| time / 1000);
    let sum = exact.unwrap_or((user + system) * 10_000);
    let system = (sum * system).checked_div(user + system).unwrap_or(0);
    row.user.store(sum - system, Relaxed);
    row.system.store(system, Relaxed);
    true
}

/// The depth that the stack's use had.
fn used(row: &Row) {
    let (low, high) = (row.stack_low.load(Relaxed) as usize, row.stack_high.load(Relaxed) as usize);
    row.stack_touched.store(touched::lowest(low, high) as u64, Relaxed);
}
