//! The memory that the watched program and the command share: a header, the files that code lies in,
//! and one row for each stack. The library writes, the command reads. The command line has this file
//! by a link, and both come from one build, so the layout needs no version.
//!
//! Every field is atomic, so that neither side needs `unsafe` for it. `Row::state` publishes a row:
//! its writer stores it last (Release), and a reader loads it first (Acquire).
#![allow(dead_code, reason = "each of the two sides uses a part")]

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

/// The most stacks that are recorded. The memory is touched row by row, so only rows that are used
/// take any.
pub const ROWS: usize = 1 << 18;
/// Fibers, and threads that no call has created, get no rows beyond this one, so that there are
/// some for the program's threads.
pub const SHARED_ROWS: usize = ROWS / 2;
/// The most files that code of entry functions and of creators lies in.
pub const FILES: usize = 256;
/// The environment variable that says where this memory is: `PROCESS:DESCRIPTOR` of the command.
pub const VARIABLE: &str = "EXEUNT_WATCH";

/// States of a row.
pub mod state {
    /// Its creator is in `pthread_create`.
    pub const BORN: u32 = 1;
    /// Its thread runs.
    pub const ALIVE: u32 = 2;
    /// Its entry function is over.
    pub const ENDED: u32 = 3;
    /// The system has refused to create it.
    pub const REFUSED: u32 = 4;
}

/// Kinds of stacks.
pub mod kind {
    /// The main thread.
    pub const MAIN: u32 = 1;
    /// A thread by `pthread_create`.
    pub const PTHREAD: u32 = 2;
    /// A thread by `thrd_create`.
    pub const C11: u32 = 3;
    /// A thread that none of these calls has created: found at its end, or when the process ended.
    pub const OTHER: u32 = 4;
    /// The thread that has called `fork`, in the child.
    pub const FORK: u32 = 5;
    /// A thread of a process that ran already: nobody saw which call has created it.
    pub const THREAD: u32 = 6;
    /// A fiber by `makecontext`.
    pub const FIBER: u32 = 7;
}

/// Bits of `Row::flags`.
pub mod flag {
    /// The times and the stack's use were read when the process ended.
    pub const SAMPLED: u32 = 1;
    /// This thread has ended the process.
    pub const ENDED_PROCESS: u32 = 2;
    /// The stack could not be armed. `Row::reason` says why.
    pub const NOT_ARMED: u32 = 4;
    /// Its process has executed another program.
    pub const REPLACED: u32 = 16;
    /// `Row::value` is there.
    pub const VALUE: u32 = 8;
    /// It has ended without passing by the hook.
    pub const UNSEEN: u32 = 32;
}

/// Endings, as the library's `exeunt::ending` has them.
pub mod ending {
    pub const RETURNED: u32 = 1;
    pub const EXITED: u32 = 2;
    pub const CANCELLED: u32 = 3;
    pub const PROCESS_EXIT: u32 = 4;
    pub const UNWOUND: u32 = 5;
    /// Another one, of a later version.
    pub const OTHER: u32 = 6;
    /// Of a fiber: the program has made another one in the same memory, or has unmapped it.
    pub const ABANDONED: u32 = 7;
}

/// What the library does in a process that ran already: values of `Table::attached`.
pub mod attached {
    /// Its hook sees the ends of all threads, and those that were there have rows.
    pub const ON: u32 = 1;
    /// `Table::problem` says why not.
    pub const FAILED: u32 = 2;
    /// The process is as it was. The rows are complete.
    pub const OFF: u32 = 3;
}

/// All of it.
#[repr(C)]
pub struct Table {
    /// The program's process.
    pub process: AtomicU32,
    /// How many rows have been handed out, with those that found no room.
    pub rows_used: AtomicU32,
    /// How many files have been handed out, with those that found no room.
    pub files_used: AtomicU32,
    /// 1: the process has reached its orderly end, and the rows of living threads are complete.
    pub finished: AtomicU32,
    /// Set by the command. 1: what the program executes is watched as well.
    pub follow: AtomicU32,
    /// Set by the command. 1: each birth is written to `Births`.
    pub backtraces: AtomicU32,
    /// How many fibers have found no room.
    pub fibers_without: AtomicU32,
    /// A value of `attached`, or 0.
    pub attached: AtomicU32,
    /// How many threads of kind `OTHER` have found no room.
    pub others_without: AtomicU64,
    /// When the library was initialized, or when a process began that ran already:
    /// CLOCK_MONOTONIC, in nanoseconds.
    pub began: AtomicU64,
    /// The `pthread_mutex_t` of a process that ran already, robust and shared. The command holds it
    /// while it is attached; so the library gets it when the command lets go or is killed.
    pub owner: [AtomicU64; 5],
    pub problem: Text<64>,
    pub files: [File; FILES],
    pub rows: [Row; ROWS],
    /// How many of the waits are used.
    pub waits_used: AtomicU32,
    pub waits: [Wait; WAITS],
}

/// For how many of the threads that wait when the process ends it is said where.
pub const WAITS: usize = 1 << 10;
/// How many words of each one's stack are copied.
pub const WORDS: usize = 250;

/// Where a thread waited when the process ended.
#[repr(C)]
pub struct Wait {
    /// The thread's id, when the rest is there.
    pub row: AtomicU32,
    /// The system call's number.
    pub call: AtomicU32,
    pub pc: AtomicU64,
    pub sp: AtomicU64,
    /// How many words of the stack were copied, from the stack pointer on.
    pub words: AtomicU32,
    pub stack: [AtomicU64; WORDS],
}

/// Where each stack was created. It follows the table in the file, from the next whole 64 KiB on, and
/// is mapped if `Table::backtraces` is 1.
#[repr(C)]
pub struct Births(pub [Birth; ROWS]);

/// Where the births begin in the file: at a page of any size.
pub const BIRTHS_AT: usize = size_of::<Table>().next_multiple_of(64 << 10);

/// The most frames of a birth.
pub const FRAMES: usize = 15;

/// Return addresses, innermost first, up to the first 0, and the files that they lie in.
#[repr(C)]
pub struct Birth {
    pub frames: [AtomicU64; FRAMES],
    pub files: [AtomicU32; FRAMES + 1],
}

/// A file that code lies in.
#[repr(C)]
pub struct File {
    /// 1: the other fields are there.
    pub known: AtomicU32,
    pub start: AtomicU64,
    pub end: AtomicU64,
    /// What to subtract from an address to get the file's own.
    pub base: AtomicU64,
    /// Of any length that the kernel allows: a page.
    pub path: Text<512>,
}

/// One stack. An id is a row's index plus 1.
#[repr(C)]
pub struct Row {
    pub state: AtomicU32,
    pub kind: AtomicU32,
    pub flags: AtomicU32,
    /// Of a fiber: the thread that it ran on last.
    pub tid: AtomicU32,
    pub process: AtomicU32,
    /// The id of the creator's stack, or 0.
    pub creator: AtomicU32,
    pub creator_tid: AtomicU32,
    /// How it ended, if its handler has run: a value of `ending`.
    pub ending: AtomicU32,
    /// Indices in `Table::files` plus 1, or 0.
    pub entry_file: AtomicU32,
    pub caller_file: AtomicU32,
    /// Of a fiber: how many times it went on on another thread than before.
    pub migrations: AtomicU32,
    pub entry: AtomicU64,
    /// Of a fiber: its `uc_link`. Of a thread that no call has created: when it began, in the
    /// kernel's ticks, or 0.
    pub argument: AtomicU64,
    /// Where `pthread_create` or `makecontext` was called.
    pub caller: AtomicU64,
    /// Times of CLOCK_MONOTONIC, in nanoseconds.
    pub created: AtomicU64,
    pub began: AtomicU64,
    pub ended: AtomicU64,
    /// CPU time in microseconds.
    pub user: AtomicU64,
    pub system: AtomicU64,
    /// The stack: its lowest address and its end, and the lowest that was ever touched.
    pub stack_low: AtomicU64,
    pub stack_high: AtomicU64,
    pub stack_touched: AtomicU64,
    /// The size of the stack that libc has allocated for it, where its creator could tell, or 0.
    pub stack_size: AtomicU64,
    /// The word that the entry function returned or that `pthread_exit` got, with `flag::VALUE`.
    pub value: AtomicU64,
    pub name: Text<2>,
    pub reason: Text<12>,
}

/// A text of at most 8 * N bytes.
#[repr(C)]
pub struct Text<const N: usize>([AtomicU64; N]);

impl<const N: usize> Text<N> {
    /// Stores the text, shortened if need be.
    pub fn store(&self, text: &[u8]) {
        for (index, word) in self.0.iter().enumerate() {
            let mut bytes = [0; 8];
            let part = text.get(8 * index..).unwrap_or_default();
            let part = &part[..part.len().min(8)];
            bytes[..part.len()].copy_from_slice(part);
            word.store(u64::from_ne_bytes(bytes), Relaxed);
        }
    }

    /// The text.
    pub fn load(&self) -> String {
        let bytes = self.0.iter().flat_map(|word| word.load(Relaxed).to_ne_bytes());
        let bytes: Vec<u8> = bytes.take_while(|&byte| byte != 0).collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}
