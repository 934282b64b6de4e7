//! Where a thread is that still waits when the process ends: the system call, and the innermost part
//! of its stack, from which the command finds the calling functions.
//!
//! The kernel says that much of a thread that waits, without stopping it. Its stack is copied by a
//! system call, which fails if the thread ends meanwhile and its stack is unmapped.

use crate::life::read;
use crate::shared::{id, tid};
use crate::table::{Row, Table, WORDS, Wait};
use libc::iovec;
use std::sync::atomic::Ordering::{Relaxed, Release};

/// Writes where the row's thread waits, if it does, and if there is room for this.
pub fn write(table: &Table, row: &Row) {
    let mut buffer = [0; 256];
    let tid = row.tid.load(Relaxed);
    let text =
        read(format_args!("/proc/self/task/{tid}/syscall"), &mut buffer).and_then(|text| str::from_utf8(text).ok());
    // The call's number and six arguments, the stack pointer and the program counter. For a thread
    // that runs, it is one word.
    let Some(text) = text else { return };
    let mut words = text.split_whitespace();
    let call = words.next().and_then(|word| word.parse::<i32>().ok());
    let mut last = words.rev().map(|word| u64::from_str_radix(word.trim_start_matches("0x"), 16).ok());
    let (Some(call), Some(Some(pc)), Some(Some(sp))) = (call, last.next(), last.next()) else { return };
    let (low, high) = (row.stack_low.load(Relaxed), row.stack_high.load(Relaxed));
    let index = table.waits_used.fetch_add(1, Relaxed);
    let Some(wait) = table.waits.get(index as usize) else {
        table.waits_used.fetch_sub(1, Relaxed);
        return;
    };
    wait.call.store(call as u32, Relaxed);
    wait.pc.store(pc, Relaxed);
    wait.sp.store(sp, Relaxed);
    let words = if (low..high).contains(&sp) { ((high - sp) / 8).min(WORDS as u64) } else { 0 };
    wait.words.store(copy(wait, sp, words as usize), Relaxed);
    // The row of `others` has no bounds, so none of its stack is copied.
    wait.row.store(id(row), Release);
}

/// Whether the running thread has a seccomp filter: it may kill the process for a call that the
/// program does not make itself. To ask by `prctl` could be one.
pub fn is_filtered() -> bool {
    let mut buffer = [0; 4096];
    let all = buffer.len();
    let Some(status) = read(format_args!("/proc/self/task/{}/status", tid()), &mut buffer) else { return true };
    let field = b"\nSeccomp:\t";
    match status.windows(field.len()).position(|part| part == field) {
        Some(at) => status.get(at + field.len()) != Some(&b'0'),
        // A kernel without filters.
        None => status.len() == all,
    }
}

/// Copies the stack's words, if the thread may, and returns how many.
fn copy(wait: &Wait, sp: u64, words: usize) -> u32 {
    if words == 0 || is_filtered() {
        return 0;
    }
    let from = iovec { iov_base: sp as *mut _, iov_len: 8 * words };
    let to = iovec { iov_base: wait.stack.as_ptr().cast_mut().cast(), iov_len: 8 * words };
    // SAFETY: the first range is atomics of shared memory, which nothing else writes: this thread has
    // taken the place. The kernel checks the second one.
    let copied = unsafe { libc::process_vm_readv(libc::getpid(), &to, 1, &from, 1, 0) };
    u32::try_from(copied).unwrap_or(0) / 8
}
