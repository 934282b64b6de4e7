//! The filmed goroutine: its stack, the words at the stack's base, and its record.
//!
//! The layouts are those of `record` (`go/record.go`) and `chunk` (`go/table.go`), and of the first
//! words of the runtime's `g` and `gobuf` (`src/runtime/runtime2.go`, the same from Go 1.22 to
//! 1.27). A test of the film checks that what is found fits the goroutine.

use super::processor::{BETWEEN, FRAME_POINTER_BELOW, G_COLUMN};
use crate::film::processor::Registers;
use crate::film::recording::{RecordShown, Word};
use crate::film::unwinder::{Found, Read};
use std::ops::Range;

/// Records of one chunk, and the size of one.
const CHUNK_RECORDS: u64 = 256;
const RECORD_SIZE: u64 = 256;
/// Where a record has the length of its slice of handlers.
const HANDLERS: u64 = 176;

/// Flags in `g.stackguard0` (`stackPreempt`, `stackFork`, `stackForceMove`) are greater than any
/// address.
const LEAST_FLAG: u64 = u64::MAX - 0xffff;

pub struct Goroutine {
    /// The version of Go.
    pub version: String,
    /// The runtime's function that switches to a goroutine's stack.
    pub gogo: Option<Range<u64>>,
    /// The module's function that writes the spare words.
    pub set_words: u64,
    /// The module's table of chunks, and the word that check words are made with.
    pub chunks: u64,
    pub secret: u64,
    /// The lock that the runtime's thread `sysmon` takes before it preempts a goroutine:
    /// `runtime.allpLock`, a `mutex` of one word (0: unlocked, 1: locked).
    pub lock: u64,
    /// The descriptor and the stack, once they are known.
    pub g: u64,
    pub stack: Range<u64>,
}

impl Goroutine {
    /// Reads the descriptor and the stack's range. `None` if the runtime has asked the goroutine to
    /// stop at the next function's beginning.
    pub fn begin(&mut self, registers: &Registers, read: &Read<'_>) -> Option<()> {
        self.g = self.running(registers)?;
        self.stack = read(self.g)?..read(self.g + 8)?;
        (read(self.g + 16)? < LEAST_FLAG).then_some(())
    }

    /// The descriptor that compiled code takes for its own.
    pub fn running(&self, registers: &Registers) -> Option<u64> {
        registers.columns().get(G_COLUMN).copied().flatten()
    }

    /// Name and meaning of a word at the stack's base. The meaning depends on whether the goroutine
    /// has a record.
    pub fn word(&self, at: u64, has_record: bool) -> Option<(&'static str, &'static str)> {
        let distance = self.stack.end.checked_sub(at)?;
        if let Some((_, name, note)) = BETWEEN.iter().find(|(of, ..)| *of == distance) {
            return Some((name, note));
        }
        match (distance, has_record) {
            (8, true) => Some(("spare word: index", "where the goroutine's record is in the module's table")),
            (16, true) => Some(("spare word: check", "(g + index) exclusive or the module's secret")),
            (8 | 16 | 24 | 32, false) => {
                Some(("spare word", "the runtime leaves it free; the module uses it while there is a record"))
            }
            (24, true) => Some(("spare word: address", "where a frame goes on that recovers a panic; 0: none has")),
            (32, true) => Some(("spare word: distance", "of that frame from the base; all ones: there is none")),
            _ => None,
        }
    }

    /// Words in which Go's functions keep their caller's frame pointer below their own stack
    /// pointer: where, and which function. `has_kept` says whether the running function has just
    /// done it, so that its frame pointer does not say it yet.
    pub fn frame_pointers(&self, registers: &Registers, frames: &[Found], has_kept: bool) -> Vec<(u64, String)> {
        let mut kept = Vec::new();
        if !FRAME_POINTER_BELOW {
            return kept;
        }
        let mut sp = registers.sp();
        for (number, frame) in frames.iter().enumerate() {
            let Some(cfa) = frame.shown.row.as_ref().and_then(|row| row.cfa.value) else { break };
            let is_kept = number > 0 || has_kept || registers.frame_pointer() == sp - 8;
            if cfa.0 > sp && is_kept {
                kept.push((sp - 8, frame.shown.name.clone()));
            }
            sp = cfa.0;
        }
        // Where no backtrace leads to that function, its frame pointer still leads to the word.
        let below = registers.sp() - 8;
        if registers.frame_pointer() == below && kept.iter().all(|(at, _)| *at != below) {
            kept.push((below, "an outer function".to_owned()));
        }
        kept
    }

    /// The record, if the spare words lead to one.
    pub fn record(&self, read: &Read<'_>) -> Option<RecordShown> {
        let index = read(self.stack.end.checked_sub(8)?)?;
        let check = read(self.stack.end - 16)?;
        let secret = read(self.secret)?;
        if check != self.g.wrapping_add(index) ^ secret {
            return None;
        }
        let chunk_at = self.chunks + 8 * (index / CHUNK_RECORDS);
        let chunk = read(chunk_at)?;
        let at = chunk + index % CHUNK_RECORDS * RECORD_SIZE;
        let (owner, handlers) = (read(at)?, read(at + HANDLERS)?);
        let fields = vec![
            ("index", Word(index), "the spare word at the base - 8".to_owned()),
            (
                "check word",
                Word(check),
                format!("the spare word at the base - 16: ({:#x} + {index:#x}) exclusive or {secret:#x}", self.g),
            ),
            (
                "chunk",
                Word(chunk),
                format!("from the module's table, the word at {chunk_at:#x}: chunk {}", index / CHUNK_RECORDS),
            ),
            ("owner", Word(owner), "of the record: the goroutine's descriptor, g".to_owned()),
            ("handlers", Word(handlers), "how many exit handlers are registered".to_owned()),
        ];
        Some(RecordShown { at: Word(at), entry: None, fields })
    }
}
