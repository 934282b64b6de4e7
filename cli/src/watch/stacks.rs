//! The rows of the shared table as plain values.

use super::names::Names;
use super::table::{Births, Row, Table, attached, ending, flag, kind, state};
use super::waits::{self, Unwinder};
use serde::Serialize;
use std::sync::atomic::Ordering::{Acquire, Relaxed};

/// One stack.
#[derive(Clone, Serialize)]
pub struct Stack {
    pub id: u32,
    pub process: u32,
    pub tid: u32,
    pub name: String,
    pub kind: &'static str,
    pub entry: String,
    /// None for the main thread, and where no known call has created the stack.
    pub started_by: Option<Creator>,
    /// Of a fiber: how many times it went on on another thread than before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub migrations: Option<u32>,
    /// Since the program's start.
    pub start_ns: u64,
    pub life_ns: u64,
    /// None for fibers, whose time is their threads', and where nobody could read them: the process was
    /// killed, or the thread is not there.
    pub cpu: Option<Cpu>,
    pub stack: Option<Use>,
    pub end: End,
    /// Where it was created, innermost frame first, if that was asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub created_at: Vec<String>,
}

#[derive(Clone, Serialize)]
pub struct Creator {
    /// Its stack's id, if it is watched.
    pub id: Option<u32>,
    pub tid: u32,
    pub function: String,
}

#[derive(Clone, Copy, Serialize)]
pub struct Cpu {
    pub user_us: u64,
    pub system_us: u64,
}

impl Cpu {
    pub fn sum(self) -> u64 {
        self.user_us + self.system_us
    }
}

/// At most `touched` bytes of the stack were ever used.
#[derive(Clone, Copy, Serialize)]
pub struct Use {
    pub touched: u64,
    pub size: u64,
}

/// How the stack ended.
#[derive(Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "how")]
pub enum End {
    /// Its entry function has returned: this word, if it is one.
    Returned { value: Option<i64> },
    /// By `pthread_exit`, with this word.
    PthreadExit { value: Option<i64> },
    /// By `pthread_cancel`.
    Cancelled,
    /// The main thread has called `exit`.
    Exit,
    /// An exception has left its entry function.
    Unwound,
    /// Its entry function is over.
    Ended,
    /// It has ended, and by no way that the library sees.
    Unseen,
    /// It was there when the command let go of its process.
    RunsOn,
    /// A fiber that had not ended when the program made another one in its memory or unmapped it.
    Abandoned,
    /// It was there when the process ended, and waited at this place, if that is known.
    Alive {
        #[serde(rename = "where", skip_serializing_if = "Option::is_none")]
        place: Option<Place>,
    },
    /// Its process has executed another program.
    Replaced,
    /// This one has ended the process: by `exit` or `_exit`.
    EndedProcess,
    /// It was never armed.
    NotArmed { reason: String },
    /// It was created, and the process ended before it ran.
    NeverRan,
}

/// Where a thread waited.
#[derive(Clone, PartialEq, Eq, Serialize)]
pub struct Place {
    /// The system call.
    pub call: String,
    /// The innermost function that is not libc's, if the unwind tables lead to it.
    pub caller: Option<String>,
    /// Functions, innermost first, as far as the unwind tables lead.
    pub frames: Vec<String>,
}

struct Frame {
    function: String,
    of_libc: bool,
}

fn is_libc(path: &str) -> bool {
    let file = path.rsplit('/').next().unwrap_or(path);
    ["libc.so", "libc-2.", "libpthread", "libthr", "librt"].iter().any(|name| file.starts_with(name))
}

impl End {
    /// Whether the stack's entry function is over.
    pub fn is_over(&self) -> bool {
        !matches!(
            self,
            Self::Alive { .. }
                | Self::RunsOn
                | Self::Replaced
                | Self::EndedProcess
                | Self::NotArmed { .. }
                | Self::NeverRan
        )
    }
}

/// The rows of a table.
pub struct Stacks {
    table: &'static Table,
    births: &'static Births,
    names: Names,
    unwinder: Unwinder,
    /// By index, whether `ended` has returned the row; up to `first` all are.
    returned: Vec<bool>,
    first: usize,
    /// When the program ended, or 0.
    over: u64,
}

impl Stacks {
    pub fn new(table: &'static Table, births: &'static Births) -> Self {
        Self {
            table,
            births,
            names: Names::default(),
            unwinder: Unwinder::default(),
            returned: Vec::new(),
            first: 0,
            over: 0,
        }
    }

    /// From now on the stacks that are still there count as ended by the process's end.
    pub fn close(&mut self) {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: `time` is a timespec of this frame.
        unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) };
        self.over = time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64;
    }

    /// The process has executed another program, so its library could not say that.
    #[cfg(all(target_env = "gnu", target_arch = "x86_64"))]
    pub fn replaced(&self) {
        let used = (self.table.rows_used.load(Acquire) as usize).min(self.table.rows.len());
        for row in self.table.rows[..used].iter().filter(|row| row.state.load(Acquire) == state::ALIVE) {
            row.flags.fetch_or(flag::REPLACED, Relaxed);
        }
    }

    /// All of them, in the order of their creation.
    pub fn all(&mut self) -> Vec<Stack> {
        let table = self.table;
        let used = (table.rows_used.load(Acquire) as usize).min(table.rows.len());
        let rows = table.rows[..used].iter().enumerate();
        rows.filter_map(|(index, row)| self.stack(index as u32 + 1, row)).collect()
    }

    /// Those that have ended since the last call. The main thread's row counts only when the process
    /// has ended.
    pub fn ended(&mut self) -> Vec<Stack> {
        self.select(|row| row.state.load(Acquire) == state::ENDED && row.kind.load(Relaxed) != kind::MAIN)
    }

    fn select(&mut self, wanted: impl Fn(&Row) -> bool) -> Vec<Stack> {
        let table = self.table;
        let used = (table.rows_used.load(Acquire) as usize).min(table.rows.len());
        self.returned.resize(used, false);
        let mut found = Vec::new();
        for index in self.first..used {
            if !self.returned[index] && wanted(&table.rows[index]) {
                self.returned[index] = true;
                found.extend(self.stack(index as u32 + 1, &table.rows[index]));
            }
        }
        while self.returned.get(self.first) == Some(&true) {
            self.first += 1;
        }
        found
    }

    /// Whether stacks found no room in the table.
    pub fn lost(&self) -> bool {
        let found_none = self.table.fibers_without.load(Relaxed) > 0 || self.others_lost() > 0;
        found_none || self.table.rows_used.load(Relaxed) as usize > self.table.rows.len()
    }

    /// How many threads that no call has created found none.
    pub fn others_lost(&self) -> u64 {
        self.table.others_without.load(Relaxed)
    }

    /// Whether the program has loaded the library.
    pub fn watched(&self) -> bool {
        self.table.process.load(Relaxed) != 0
    }

    /// Whether the process ended in order, so that the rows of living threads have their times.
    pub fn finished(&self) -> bool {
        self.table.finished.load(Acquire) == 1
    }

    fn stack(&mut self, id: u32, row: &Row) -> Option<Stack> {
        let state = row.state.load(Acquire);
        let flags = row.flags.load(Acquire);
        if state == 0 || state == state::REFUSED {
            return None;
        }
        let is_fiber = row.kind.load(Relaxed) == kind::FIBER;
        let zero = self.table.began.load(Relaxed);
        let (created, ended) = (row.created.load(Relaxed), row.ended.load(Relaxed));
        let ended = if ended == 0 { self.over } else { ended };
        let complete = state == state::ENDED && flags & flag::UNSEEN == 0 || flags & flag::SAMPLED != 0;
        let end = if flags & flag::NOT_ARMED != 0 {
            End::NotArmed { reason: row.reason.load() }
        } else if state == state::ENDED {
            let value = (flags & flag::VALUE != 0).then(|| row.value.load(Relaxed).cast_signed());
            match row.ending.load(Relaxed) {
                _ if flags & flag::UNSEEN != 0 => End::Unseen,
                ending::RETURNED => End::Returned { value },
                ending::EXITED => End::PthreadExit { value },
                ending::CANCELLED => End::Cancelled,
                ending::PROCESS_EXIT => End::Exit,
                ending::UNWOUND => End::Unwound,
                ending::ABANDONED => End::Abandoned,
                _ => End::Ended,
            }
        } else if flags & flag::REPLACED != 0 {
            End::Replaced
        } else if state == state::BORN {
            End::NeverRan
        } else if flags & flag::ENDED_PROCESS != 0 {
            End::EndedProcess
        } else if self.table.attached.load(Acquire) == attached::OFF {
            End::RunsOn
        } else {
            End::Alive { place: self.place(id) }
        };
        let number = |value: &std::sync::atomic::AtomicU64| value.load(Relaxed);
        let created_by_call = !matches!(row.kind.load(Relaxed), kind::MAIN | kind::OTHER | kind::THREAD);
        let started_by = created_by_call.then(|| Creator {
            id: Some(row.creator.load(Relaxed)).filter(|&id| id != 0),
            tid: row.creator_tid.load(Relaxed),
            // The call lies before the address where its caller goes on.
            function: match row.kind.load(Relaxed) {
                kind::FORK => "fork".into(),
                _ => self.function(row.caller_file.load(Relaxed), number(&row.caller).saturating_sub(1)),
            },
        });
        Some(Stack {
            id,
            process: row.process.load(Relaxed),
            tid: row.tid.load(Relaxed),
            name: row.name.load(),
            kind: kind_name(row.kind.load(Relaxed)),
            entry: match row.kind.load(Relaxed) {
                kind::OTHER if number(&row.entry) == 0 => "(not created by a known call)".into(),
                kind::MAIN if number(&row.entry) == 0 => "main".into(),
                kind::THREAD if number(&row.entry) == 0 => "(unknown)".into(),
                _ => self.function(row.entry_file.load(Relaxed), number(&row.entry)),
            },
            started_by,
            start_ns: created.saturating_sub(zero),
            life_ns: ended.saturating_sub(created),
            migrations: is_fiber.then(|| row.migrations.load(Relaxed)),
            cpu: (complete && !is_fiber).then(|| Cpu { user_us: number(&row.user), system_us: number(&row.system) }),
            stack: (complete && number(&row.stack_high) != 0 && number(&row.stack_touched) != 0).then(|| Use {
                touched: number(&row.stack_high).saturating_sub(number(&row.stack_touched)),
                size: number(&row.stack_high).saturating_sub(number(&row.stack_low)),
            }),
            end,
            created_at: self.birth(id),
        })
    }

    fn birth(&mut self, id: u32) -> Vec<String> {
        if self.table.backtraces.load(Relaxed) == 0 {
            return Vec::new();
        }
        let birth = &self.births.0[id as usize - 1];
        let frames =
            birth.frames.iter().zip(&birth.files).map(|(frame, file)| (frame.load(Relaxed), file.load(Relaxed)));
        // A call lies before the address where it returns to.
        frames.take_while(|&(frame, _)| frame != 0).map(|(frame, file)| self.function(file, frame - 1)).collect()
    }

    /// Where the thread waited when the process ended.
    fn place(&mut self, id: u32) -> Option<Place> {
        let table = self.table;
        let used = (table.waits_used.load(Acquire) as usize).min(table.waits.len());
        let wait = table.waits[..used].iter().find(|wait| wait.row.load(Acquire) == id)?;
        let frames = self.unwinder.frames(table, wait);
        let call = waits::call_name(wait.call.load(Relaxed));
        let frames: Vec<Frame> = frames
            .into_iter()
            .map(|frame| Frame {
                function: match frame.file {
                    Some(file) => self.names.of(&file.path.load(), frame.pc.wrapping_sub(file.base.load(Relaxed))),
                    None => format!("{:#x}", frame.pc),
                },
                of_libc: frame.file.is_some_and(|file| is_libc(&file.path.load())),
            })
            // The foot of an armed stack leads there.
            .take_while(|frame| frame.function != "exeunt_trampoline")
            .collect();
        let caller = frames.iter().find(|frame| !frame.of_libc).map(|frame| frame.function.clone());
        Some(Place { call, caller, frames: frames.into_iter().map(|frame| frame.function).collect() })
    }

    /// The name of the function with this address, in the file with this number.
    fn function(&mut self, file: u32, address: u64) -> String {
        let file = (file as usize).checked_sub(1).and_then(|index| self.table.files.get(index));
        match file.filter(|file| file.known.load(Acquire) == 1) {
            Some(file) => self.names.of(&file.path.load(), address.wrapping_sub(file.base.load(Relaxed))),
            None => format!("{address:#x}"),
        }
    }
}

fn kind_name(kind: u32) -> &'static str {
    match kind {
        kind::MAIN => "main",
        kind::PTHREAD => "pthread",
        kind::C11 => "C11",
        kind::FORK => "fork",
        kind::THREAD => "thread",
        kind::FIBER => "fiber",
        _ => "other",
    }
}
