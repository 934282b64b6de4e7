//! The record of the filmed stack, and the stack map's entry that leads to it. The library does not
//! publish where they are, so they are searched for in the child's memory by their contents.
//!
//! The layouts are those of `Record` (`src/record/header.rs`) and `Entry` (`src/map/entry.rs`). A
//! test of the film checks that what is found fits the stack.

use super::recording::{RecordShown, Word};
use super::unwinder::Read;
use std::ops::Range;

/// Where they are.
pub struct RecordAt {
    record: u64,
    entry: Option<u64>,
}

/// No mapping that holds records is larger.
const LARGEST: u64 = 256 << 20;
const CHUNK: u64 = 1 << 20;
/// A record is aligned so.
const ALIGNMENT: u64 = 64;
/// The base lies above the foot, and no farther than the entry function's frame is large. Copies of
/// a record's first two words, as an emulator keeps them in registers and on its own stacks, have
/// something else there.
const LARGEST_FRAME: u64 = 4096;
/// What an entry adds to the address of its owner.
const OWNER_BIT: u64 = 1;
/// Bits of an address within a page of the map, and of the size of an entry.
const PAGE: u32 = 12;
const ENTRY: u32 = 4;

/// Finds the record whose canary is the foot with this word.
pub fn find(
    ranges: impl Iterator<Item = Range<u64>>,
    foot: u64,
    word: u64,
    bytes: &dyn Fn(u64, usize) -> Option<Vec<u8>>,
) -> Option<RecordAt> {
    let is_small = |range: &Range<u64>| range.end - range.start <= LARGEST;
    // The stack itself has copies of such words.
    let ranges: Vec<_> = ranges.filter(|range| is_small(range) && !range.contains(&foot)).collect();
    let record = search(&ranges, bytes, ALIGNMENT, &|_, words| {
        let is_base = words.get(3).is_some_and(|base| (foot + 8..=foot + LARGEST_FRAME).contains(base));
        words[..2] == [foot, word] && is_base
    })?;
    // The base lies right behind the foot, and the entry is that of the page before the base.
    // A leaf of the map begins on a page of memory.
    let in_leaf = (foot >> PAGE << ENTRY) & ((1 << PAGE) - 1);
    let entry = search(&ranges, bytes, 1 << ENTRY, &|at, words| {
        words[1] == record | OWNER_BIT && at & ((1 << PAGE) - 1) == in_leaf
    });
    Some(RecordAt { record, entry })
}

fn search(
    ranges: &[Range<u64>],
    bytes: &dyn Fn(u64, usize) -> Option<Vec<u8>>,
    alignment: u64,
    fits: &dyn Fn(u64, &[u64]) -> bool,
) -> Option<u64> {
    let mut words = Vec::new();
    for range in ranges {
        for start in (range.start..range.end).step_by(CHUNK as usize) {
            let Some(chunk) = bytes(start, CHUNK.min(range.end - start) as usize) else { break };
            for (number, item) in chunk.chunks_exact(alignment as usize).enumerate() {
                let at = start + alignment * number as u64;
                let word = |bytes: &[u8]| bytes.try_into().map(u64::from_le_bytes).unwrap_or_default();
                words.clear();
                words.extend(item.chunks_exact(8).map(word));
                if fits(at, &words) {
                    return Some(at);
                }
            }
        }
    }
    None
}

impl RecordAt {
    pub fn shown(&self, read: &Read<'_>) -> RecordShown {
        let word = |offset: u64| read(self.record + offset).unwrap_or_default();
        let bytes = word(56).to_le_bytes();
        let phase = match bytes[1] {
            0 => "free",
            1 => "arming",
            2 => "armed",
            3 => "draining",
            _ => "unknown",
        };
        let fields = vec![
            ("canary_at", Word(word(0)), "the word of the stack that shows that the stack lives".to_owned()),
            ("canary_word", Word(word(8)), "what that word holds while it does".to_owned()),
            ("base", Word(word(24)), "the stack pointer once the entry function has returned".to_owned()),
            ("id", Word(word(32)), "the stack's identity".to_owned()),
            ("phase", Word(bytes[1].into()), phase.to_owned()),
        ];
        let entry = self.entry.and_then(|at| Some((Word(at), Word(read(at)?), Word(read(at + 8)?))));
        RecordShown { at: Word(self.record), entry, fields }
    }
}
