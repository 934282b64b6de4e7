//! The cache of rules by program counter: a table of fixed size without locks. If all places that a
//! rule could take are taken, it replaces another rule.
//!
//! A slot is two words, and two threads may write it at once. The first word is the program counter
//! mixed with the second word, so that words of two writers do not match and count as a miss.
//!
//! A rule must not outlive its code: a library may be unloaded, and another one loaded at its
//! addresses. So the key of a rule is the program counter only where the code is never unloaded.
//! `tables.rs` makes the other keys.

use super::rule::{Base, Rule};
use foldhash::fast::FixedState;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// A hash of a program counter. Functions lie at regular distances, which must not show in the
/// hash: Fibonacci hashing mapped 64 functions 304 bytes apart to 18 of 64 places.
#[inline]
pub(super) fn hash_pc(pc: usize) -> usize {
    FixedState::default().hash_one(pc) as usize
}

/// Rules that share a cache line: the places at which the rule of one program counter can be.
const WAYS: usize = 4;
const SETS: usize = 512;

struct Slot {
    mixed: AtomicU64,
    packed: AtomicU64,
}

impl Slot {
    const fn new() -> Self {
        Self { mixed: AtomicU64::new(0), packed: AtomicU64::new(0) }
    }

    #[inline]
    fn get(&self, pc: usize) -> Option<u64> {
        let packed = self.packed.load(Ordering::Relaxed);
        let mixed = self.mixed.load(Ordering::Relaxed);
        (mixed ^ packed == pc as u64 && packed != 0).then_some(packed)
    }

    fn put(&self, pc: usize, packed: u64) {
        self.packed.store(packed, Ordering::Relaxed);
        self.mixed.store(packed ^ pc as u64, Ordering::Relaxed);
    }
}

#[repr(align(64))]
struct Set([Slot; WAYS]);

struct Table {
    sets: [Set; SETS],
    /// Counts the rules that found no empty place. They replace the places of their sets in turn,
    /// so that rules which are in use do not replace each other again and again.
    turn: AtomicUsize,
}

static TABLE: Table = Table::new();

impl Table {
    const fn new() -> Self {
        Self { sets: [const { Set([const { Slot::new() }; WAYS]) }; SETS], turn: AtomicUsize::new(0) }
    }

    /// The places for a program counter.
    #[inline]
    fn set(&self, pc: usize) -> &[Slot; WAYS] {
        &self.sets[hash_pc(pc) % SETS].0
    }

    #[inline]
    fn get(&self, pc: usize) -> Option<Rule> {
        self.set(pc).iter().find_map(|slot| slot.get(pc)).map(unpack)
    }

    fn put(&self, pc: usize, rule: Rule) {
        let Some(packed) = pack(rule) else { return };
        let set = self.set(pc);
        let empty = set.iter().find(|slot| slot.packed.load(Ordering::Relaxed) == 0);
        empty.unwrap_or_else(|| &set[self.turn.fetch_add(1, Ordering::Relaxed) % WAYS]).put(pc, packed);
    }
}

#[inline(always)]
pub(super) fn get(pc: usize) -> Option<Rule> {
    TABLE.get(pc)
}

pub(super) fn put(pc: usize, rule: Rule) {
    TABLE.put(pc, rule);
}

// A packed rule, from the lowest bit: 4 bits of tag, 28 of offset, 16 for the return address's
// place and 16 for the frame pointer's. All but the tag are signed, and count words of 8 bytes. The
// lowest value of a place means «in its register».
const FRAME_BY_SP: u64 = 1;
const FRAME_BY_FP: u64 = 2;
const SIGNAL: u64 = 3;
const OUTERMOST: u64 = 4;
const OTHER: u64 = 5;
const IN_REGISTER: i64 = i16::MIN as i64;

fn pack(rule: Rule) -> Option<u64> {
    let (base, offset, return_at, fp_at) = match rule {
        Rule::Frame { base, offset, return_at, fp_at } => (base, offset, return_at, fp_at),
        Rule::Signal => return Some(SIGNAL),
        Rule::Outermost => return Some(OUTERMOST),
        Rule::Other => return Some(OTHER),
        // Code without a table may get one later: just-in-time compilers register theirs at any
        // time.
        Rule::NoTable => return None,
    };
    let words = |bytes: i32, bits: u32| {
        let words = i64::from(bytes) / 8;
        let fits = bytes % 8 == 0 && words > -(1 << (bits - 1)) && words < 1 << (bits - 1);
        fits.then_some(words)
    };
    let place = |at: Option<i32>| at.map_or(Some(IN_REGISTER), |at| words(at, 16));
    let tag = if base == Base::StackPointer { FRAME_BY_SP } else { FRAME_BY_FP };
    let offset = words(offset, 28)? as u64 & ((1 << 28) - 1);
    let return_at = place(return_at)? as u64 & 0xffff;
    let fp_at = place(fp_at)? as u64 & 0xffff;
    Some(tag | offset << 4 | return_at << 32 | fp_at << 48)
}

#[inline]
fn unpack(packed: u64) -> Rule {
    let tag = packed & 15;
    if tag > FRAME_BY_FP {
        return unpack_other(tag);
    }
    let base = if tag == FRAME_BY_SP { Base::StackPointer } else { Base::FramePointer };
    let place = |words: i16| (i64::from(words) != IN_REGISTER).then_some(i32::from(words) * 8);
    Rule::Frame {
        base,
        offset: ((packed as i64) << 32 >> 36) as i32 * 8,
        return_at: place((packed >> 32) as i16),
        fp_at: place((packed >> 48) as i16),
    }
}

#[cold]
#[inline(never)]
fn unpack_other(tag: u64) -> Rule {
    match tag {
        SIGNAL => Rule::Signal,
        OUTERMOST => Rule::Outermost,
        _ => Rule::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_comes_back_as_it_was_put_in() {
        let rules = [
            Rule::Frame { base: Base::StackPointer, offset: 16, return_at: Some(-8), fp_at: None },
            Rule::Frame { base: Base::FramePointer, offset: 16, return_at: Some(-8), fp_at: Some(-16) },
            Rule::Frame { base: Base::StackPointer, offset: 1 << 20, return_at: None, fp_at: Some(-(1 << 15)) },
            Rule::Frame { base: Base::StackPointer, offset: -8, return_at: Some(-8), fp_at: None },
            Rule::Signal,
            Rule::Outermost,
            Rule::Other,
        ];
        for (pc, rule) in (0x7f00_dead_0000..).zip(rules) {
            put(pc, rule);
            assert_eq!(get(pc), Some(rule));
        }
    }

    #[test]
    fn a_rule_that_does_not_fit_is_not_kept() {
        let odd = Rule::Frame { base: Base::StackPointer, offset: 12, return_at: Some(-8), fp_at: None };
        let far = Rule::Frame { base: Base::StackPointer, offset: 16, return_at: Some(-(1 << 20)), fp_at: None };
        put(1, odd);
        put(1, far);
        put(1, Rule::NoTable);
        assert_eq!(get(1), None);
    }

    #[test]
    fn words_of_two_writers_do_not_fit_together() {
        let slot = Slot::new();
        slot.put(0x7777_1111, 5);
        assert_eq!(slot.get(0x7777_1111), Some(5));
        slot.packed.store(6, Ordering::Relaxed);
        assert_eq!(slot.get(0x7777_1111), None);
    }

    #[test]
    fn functions_at_any_distance_are_kept_side_by_side() {
        let rule = Rule::Frame { base: Base::StackPointer, offset: 16, return_at: Some(-8), fp_at: None };
        for distance in (1..=512).chain([4096, 5168, 1 << 16, 1 << 20]) {
            let table = Table::new();
            let all = || (0..256).map(|number| (1 << 46) + number * distance);
            all().for_each(|pc| table.put(pc, rule));
            let kept = all().filter(|&pc| table.get(pc).is_some()).count();
            assert!(kept >= 250, "{kept} of 256 that are {distance} bytes apart");
        }
    }

    #[test]
    fn rules_that_are_in_use_settle_in_a_table_that_is_full_of_others() {
        let rule = Rule::Frame { base: Base::StackPointer, offset: 16, return_at: Some(-8), fp_at: None };
        let table = Table::new();
        (0..64 * WAYS * SETS).for_each(|old| table.put(1 << 46 | old, rule));
        let used = || (0..256).map(|number| (1 << 45) + number * 304);
        for _ in 0..100 {
            used().filter(|&pc| table.get(pc).is_none()).for_each(|pc| table.put(pc, rule));
        }
        let kept = used().filter(|&pc| table.get(pc).is_some()).count();
        // More of them than a set has places may have come together in one set.
        assert!(kept >= 250, "{kept} of 256");
    }
}
