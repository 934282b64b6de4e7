//! The lock-free parts of the stack map under the model checker `loom`. It runs them in every order
//! of their loads and stores that the memory model allows (up to a bound on involuntary switches).
//!
//! ```text
//! cargo test --release -p exeunt-model
//! ```
//!
//! The files under test are the library's own, compiled a second time with loom's atomics in the
//! place of `std`'s.

/// The modules that the files under test import from `src/base/`.
mod base {
    /// The module that `src/base/atomics.rs` is in the library.
    pub(crate) mod atomics {
        pub(crate) use loom::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, Ordering};
    }

    /// The types that `src/base/alloc.rs` needs.
    pub(crate) mod error {
        pub(crate) enum Error {
            OutOfMemory,
            Reentered,
        }
    }

    pub(crate) use super::{alloc, cold};
}

#[path = "../../../src/base/alloc.rs"]
#[allow(dead_code, reason = "the model does not need all of it")]
mod alloc;
#[path = "../../../src/map/cached.rs"]
#[allow(dead_code, reason = "the model does not need all of it")]
mod cached;
#[path = "../../../src/base/cold.rs"]
mod cold;
#[path = "../../../src/map/entry.rs"]
#[allow(dead_code, reason = "the model does not need all of it")]
mod entry;
#[path = "../../../src/map/pins.rs"]
mod pins;
#[path = "../../../src/map/slab.rs"]
#[allow(dead_code, reason = "the model does not need all of it")]
mod slab;

use cached::CachedFlag;
use entry::Entry;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, Ordering};
use pins::PinCount;
use slab::{Links, Slab, SlabItem};

/// Runs a model with as many involuntary switches as are affordable. Two find all bugs that these
/// files ever had; the bound is one more.
fn check(model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(model);
}

/// An item of the slab, with a cell by which loom checks its users: where two use it at once, loom
/// fails.
struct Item {
    links: Links,
    used: loom::cell::UnsafeCell<u32>,
}

// SAFETY: the slab hands an item to one user at a time. loom checks that.
unsafe impl Sync for Item {}
// SAFETY: as above.
unsafe impl Send for Item {}

impl SlabItem for Item {
    fn links(&self) -> &Links {
        &self.links
    }

    fn vacant() -> Self {
        Self { links: Links::new(), used: loom::cell::UnsafeCell::new(0) }
    }
}

impl Item {
    fn use_it(&self) {
        // SAFETY: the slab gave it to this thread only.
        self.used.with_mut(|used| unsafe { *used += 1 });
    }
}

fn slab() -> Arc<Slab<Item>> {
    use crate::base::atomics::{AtomicPtr, AtomicU32, AtomicU64};
    let chunks = std::array::from_fn(|_| AtomicPtr::new(std::ptr::null_mut()));
    Arc::new(Slab::from_parts(chunks, AtomicU32::new(0), AtomicU64::new(0)))
}

#[test]
fn the_slab_hands_no_item_to_two_users() {
    check(|| {
        let slab = slab();
        let other = Arc::clone(&slab);
        let thread = loom::thread::spawn(move || {
            let first = other.take().unwrap();
            first.use_it();
            other.give(first);
            other.take().unwrap().use_it();
        });
        let first = slab.take().unwrap();
        first.use_it();
        let second = slab.take().unwrap();
        second.use_it();
        assert!(!std::ptr::eq(first, second));
        slab.give(first);
        slab.give(second);
        slab.take().unwrap().use_it();
        thread.join().unwrap();
    });
}

#[test]
fn a_free_list_that_changes_and_changes_back_meanwhile_is_detected() {
    check(|| {
        let slab = slab();
        // The free list is first, second.
        let (second, first) = (slab.take().unwrap(), slab.take().unwrap());
        slab.give(second);
        slab.give(first);
        let other = Arc::clone(&slab);
        let thread = loom::thread::spawn(move || {
            let first = other.take().unwrap();
            let second = other.take().unwrap();
            first.use_it();
            second.use_it();
            // The list begins with the first again, and a different item follows it.
            other.give(first);
            second.use_it();
        });
        slab.take().unwrap().use_it();
        slab.take().unwrap().use_it();
        thread.join().unwrap();
    });
}

#[test]
fn every_item_that_was_handed_out_is_among_all_of_them() {
    check(|| {
        let slab = slab();
        let other = Arc::clone(&slab);
        let thread = loom::thread::spawn(move || {
            let mine = other.take().unwrap();
            assert!(other.all().any(|item| std::ptr::eq(item, mine)));
        });
        let mine = slab.take().unwrap();
        assert!(slab.all().any(|item| std::ptr::eq(item, mine)));
        thread.join().unwrap();
        assert_eq!(slab.all().count(), 2);
    });
}

/// A record as entries use it: whether it would be taken for that of an abandoned stack.
#[derive(Default)]
struct Record {
    stale: AtomicBool,
}

impl Record {
    fn new(stale: bool) -> Arc<Self> {
        Arc::new(Self { stale: AtomicBool::new(stale) })
    }
}

fn pointer(record: &Arc<Record>) -> *mut Record {
    Arc::as_ptr(record).cast_mut()
}

/// The result of a look-up, or null.
fn find<R>(entry: &Entry<R>, bit: u64) -> *mut R {
    entry.find(bit).unwrap_or(std::ptr::null_mut())
}

fn is_stale(record: *mut Record) -> bool {
    // SAFETY: every model keeps its records until all of its threads are joined.
    unsafe { &*record }.stale.load(Ordering::Acquire)
}

/// One look-up on a stack: claims the entry for its record if it can, and reads.
fn live(entry: &Entry<Record>, record: &Arc<Record>, bit: u64) {
    if entry.claim(pointer(record), is_stale) {
        entry.add_block(pointer(record), bit);
    }
    let found = find(entry, bit);
    assert!(
        found.is_null() || found == pointer(record),
        "another stack's record, by a bit that this stack did not add"
    );
}

const LOW: u64 = 1;
const HIGH: u64 = 1 << 63;

#[test]
fn two_stacks_on_one_page_never_find_each_other() {
    check(|| {
        let (one, two) = (Record::new(false), Record::new(false));
        let entry = Arc::new(Entry::new());
        let (theirs, entry_too) = (Arc::clone(&two), Arc::clone(&entry));
        let thread = loom::thread::spawn(move || live(&entry_too, &theirs, HIGH));
        live(&entry, &one, LOW);
        thread.join().unwrap();
        let owner = entry.owner();
        assert!(
            owner == pointer(&one) || owner == pointer(&two),
            "one of them has the entry, and a live one loses nothing"
        );
    });
}

#[test]
fn stacks_after_an_abandoned_one_do_not_find_its_record() {
    check(|| {
        // It added its block, and was abandoned. Its neighbour and a new stack at the same address
        // meet there.
        let (abandoned, neighbour, next) = (Record::new(true), Record::new(false), Record::new(false));
        let entry = Arc::new(Entry::new());
        assert!(entry.claim(pointer(&abandoned), is_stale));
        entry.add_block(pointer(&abandoned), LOW);
        let (theirs, entry_too) = (Arc::clone(&neighbour), Arc::clone(&entry));
        let thread = loom::thread::spawn(move || live(&entry_too, &theirs, HIGH));
        let found = find(&entry, LOW);
        assert!(found.is_null() || found == pointer(&abandoned), "its canary shows that it is stale");
        // A new stack at its address removes it first, as `Record::detach` does.
        entry.clear(pointer(&abandoned));
        live(&entry, &next, LOW);
        thread.join().unwrap();
    });
}

#[test]
fn a_live_stack_that_is_taken_for_stale_loses_the_entry_and_nothing_else() {
    check(|| {
        // Between its return through the foot and the trampoline's first look-up, a stack cannot be
        // distinguished from an abandoned one. It continues, and adds the block that it drains in.
        let (ending, neighbour) = (Record::new(false), Record::new(false));
        let entry = Arc::new(Entry::new());
        assert!(entry.claim(pointer(&ending), is_stale));
        let (theirs, entry_too) = (Arc::clone(&neighbour), Arc::clone(&entry));
        let thread = loom::thread::spawn(move || live(&entry_too, &theirs, HIGH));
        ending.stale.store(true, Ordering::Release);
        ending.stale.store(false, Ordering::Release);
        live(&entry, &ending, LOW);
        thread.join().unwrap();
        let found = find(&entry, LOW);
        assert!(found.is_null() || found == pointer(&ending));
        let found = find(&entry, HIGH);
        assert!(found.is_null() || found == pointer(&neighbour));
    });
}

#[test]
fn a_stack_that_is_taken_for_stale_before_it_has_the_entry_shares_it_with_no_other() {
    check(|| {
        let (ending, neighbour) = (Record::new(true), Record::new(false));
        let entry = Arc::new(Entry::new());
        let (theirs, entry_too) = (Arc::clone(&neighbour), Arc::clone(&entry));
        let thread = loom::thread::spawn(move || live(&entry_too, &theirs, HIGH));
        live(&entry, &ending, LOW);
        thread.join().unwrap();
        let found = find(&entry, LOW);
        assert!(found.is_null() || found == pointer(&ending));
        let found = find(&entry, HIGH);
        assert!(found.is_null() || found == pointer(&neighbour));
    });
}

#[test]
fn a_record_that_is_used_again_meanwhile_is_not_taken_for_its_earlier_generation() {
    check(|| {
        // The neighbour decides that the owner is stale. Then the owner is released and serves
        // another stack. Only then does the neighbour act on its decision.
        let (again, neighbour) = (Record::new(true), Record::new(false));
        let entry = Arc::new(Entry::new());
        assert!(entry.claim(pointer(&again), is_stale));
        entry.add_block(pointer(&again), HIGH >> 1);
        let (theirs, entry_too) = (Arc::clone(&neighbour), Arc::clone(&entry));
        let thread = loom::thread::spawn(move || live(&entry_too, &theirs, HIGH));
        entry.clear(pointer(&again));
        again.stale.store(false, Ordering::Release);
        live(&entry, &again, LOW);
        thread.join().unwrap();
        let found = find(&entry, LOW);
        assert!(found.is_null() || found == pointer(&again));
        // The blocks of the record's earlier generation are removed.
        assert!(find(&entry, HIGH >> 1).is_null());
    });
}

#[test]
fn blocks_of_a_stack_that_comes_and_goes_meanwhile_are_not_the_next_owner_s() {
    check(|| {
        let (one, two) = (Record::new(false), Record::new(false));
        let entry = Arc::new(Entry::new());
        let (theirs, entry_too) = (Arc::clone(&two), Arc::clone(&entry));
        let thread = loom::thread::spawn(move || {
            if entry_too.claim(pointer(&theirs), is_stale) {
                entry_too.add_block(pointer(&theirs), LOW);
                entry_too.clear(pointer(&theirs));
            }
            // The next stack on the same memory.
            assert!(find(&entry_too, LOW).is_null());
        });
        live(&entry, &one, HIGH);
        thread.join().unwrap();
        assert!(find(&entry, LOW).is_null());
    });
}

#[test]
fn clearing_an_entry_removes_nothing_of_its_next_owner() {
    check(|| {
        let (ended, next) = (Record::new(true), Record::new(false));
        let entry = Arc::new(Entry::new());
        assert!(entry.claim(pointer(&ended), is_stale));
        entry.add_block(pointer(&ended), LOW);
        let (theirs, entry_too) = (Arc::clone(&ended), Arc::clone(&entry));
        let thread = loom::thread::spawn(move || entry_too.clear(pointer(&theirs)));
        let mine = entry.claim(pointer(&next), is_stale);
        if mine {
            entry.add_block(pointer(&next), HIGH);
        }
        thread.join().unwrap();
        if mine {
            assert_eq!(entry.owner(), pointer(&next));
        } else {
            assert!(entry.owner().is_null());
        }
        assert!(find(&entry, LOW).is_null());
    });
}

/// A record of a stack whose base is on this page, or elsewhere.
struct Placed {
    pins: PinCount,
    base_is_here: AtomicBool,
    stale: AtomicBool,
}

#[test]
fn a_pinned_decision_about_an_earlier_generation_does_not_remove_the_entry_of_a_stack_s_base() {
    check(|| {
        let placed = |stale| {
            let (base_is_here, stale) = (AtomicBool::new(false), AtomicBool::new(stale));
            Arc::new(Placed { pins: PinCount::new(), base_is_here, stale })
        };
        let (again, neighbour) = (placed(true), placed(false));
        let entry = Arc::new(Entry::new());
        let owner = Arc::as_ptr(&again).cast_mut();
        assert!(entry.claim(owner, |_| false));
        // As `StackMap::claim` does (`src/map/claims.rs`).
        let (theirs, entry_too) = (Arc::clone(&again), Arc::clone(&entry));
        let thread = loom::thread::spawn(move || {
            let owner = Arc::as_ptr(&theirs).cast_mut();
            if entry_too.owner() != owner {
                return;
            }
            let _pinned = theirs.pins.pin();
            let is_stale = || !theirs.base_is_here.load(Ordering::Relaxed) && theirs.stale.load(Ordering::Acquire);
            entry_too.claim(Arc::as_ptr(&neighbour).cast_mut(), |now| now == owner && is_stale());
        });
        // The stack ends, and another one begins on this page: as `StackMap::remove`, `take` and
        // `insert` do.
        entry.clear(owner);
        if !again.pins.is_pinned() {
            again.base_is_here.store(true, Ordering::Relaxed);
            again.stale.store(false, Ordering::Release);
            let is_found = entry.claim(owner, |_| false);
            thread.join().unwrap();
            assert!(entry.owner() == owner || !is_found, "a stack whose claim has succeeded is found");
        } else {
            thread.join().unwrap();
        }
    });
}

/// A cached record: a cell by which loom checks its users, and whether look-ups find it live.
struct CachedRecord {
    flag: CachedFlag,
    live: AtomicBool,
    used: loom::cell::UnsafeCell<u32>,
}

// SAFETY: a thread that takes a cached record has it alone. loom checks that.
unsafe impl Sync for CachedRecord {}
// SAFETY: as above.
unsafe impl Send for CachedRecord {}

impl CachedRecord {
    fn new() -> Arc<Self> {
        Arc::new(Self { flag: CachedFlag::new(), live: AtomicBool::new(false), used: loom::cell::UnsafeCell::new(0) })
    }

    fn use_it(&self) {
        // SAFETY: this thread alone has taken it.
        self.used.with_mut(|used| unsafe { *used += 1 });
    }
}

/// The page's entry with a cached record, which has added both blocks in its last generation.
fn cached_record() -> (Arc<Entry<CachedRecord>>, Arc<CachedRecord>) {
    let (entry, record) = (Arc::new(Entry::new()), CachedRecord::new());
    assert!(entry.claim(Arc::as_ptr(&record).cast_mut(), |_| false));
    entry.add_block(Arc::as_ptr(&record).cast_mut(), LOW | HIGH);
    (entry, record)
}

/// The end of a stack, as in `StackMap::cache` (`src/map/supply.rs`).
fn cache(entry: &Entry<CachedRecord>, record: &CachedRecord) {
    record.use_it();
    record.live.store(false, Ordering::Release);
    entry.clear_blocks();
    record.flag.set();
}

/// The next stack with that base, as in `StackMap::take_at_base` (`src/map/supply.rs`). Returns
/// whether it got the record.
fn next(entry: &Entry<CachedRecord>, bit: u64) -> bool {
    let owner = entry.owner();
    // SAFETY: every model keeps its records until all of its threads are joined.
    let Some(record) = (unsafe { owner.as_ref() }).filter(|record| record.flag.take()) else { return false };
    record.use_it();
    record.live.store(true, Ordering::Release);
    if entry.claim(owner, |_| false) {
        entry.add_block(owner, bit);
    }
    true
}

/// Whether the stack that runs in this block finds a live record.
fn finds_one(entry: &Entry<CachedRecord>, bit: u64) -> bool {
    // SAFETY: as above.
    unsafe { find(entry, bit).as_ref() }.is_some_and(|record| record.live.load(Ordering::Acquire))
}

/// A neighbour takes over the entry, as in `StackMap::evict_to_slab` (`src/map/claims.rs`). Returns
/// whether it got the cached record.
fn evict(entry: &Entry<CachedRecord>) -> bool {
    let owner = entry.owner();
    // SAFETY: as above.
    let taken = unsafe { owner.as_ref() }.filter(|record| record.flag.take());
    if let Some(record) = taken {
        record.use_it();
        entry.clear(owner);
    }
    taken.is_some()
}

#[test]
fn one_stack_alone_gets_a_cached_record() {
    check(|| {
        let (entry, record) = cached_record();
        cache(&entry, &record);
        let (entry_too, thieves) = (Arc::clone(&entry), Arc::clone(&record));
        let neighbour = loom::thread::spawn({
            let entry = Arc::clone(&entry);
            move || evict(&entry)
        });
        let thief = loom::thread::spawn(move || {
            let taken = thieves.flag.take();
            if taken {
                thieves.use_it();
                entry_too.clear(Arc::as_ptr(&thieves).cast_mut());
            }
            taken
        });
        let mine = next(&entry, LOW);
        let others = [neighbour.join().unwrap(), thief.join().unwrap()];
        assert_eq!(others.into_iter().chain([mine]).filter(|&taken| taken).count(), 1);
        assert_eq!(entry.owner().is_null(), !mine);
        assert_eq!(finds_one(&entry, LOW), mine);
    });
}

#[test]
fn on_memory_that_is_divided_anew_only_the_stack_with_the_old_base_finds_the_cached_record() {
    check(|| {
        let (entry, record) = cached_record();
        cache(&entry, &record);
        // Two stacks now share the memory of one: the upper one has its base.
        let entry_too = Arc::clone(&entry);
        let upper = loom::thread::spawn(move || assert!(next(&entry_too, HIGH)));
        assert!(!finds_one(&entry, LOW));
        assert!(!finds_one(&entry, LOW));
        upper.join().unwrap();
        assert!(finds_one(&entry, HIGH) && !finds_one(&entry, LOW));
    });
}

#[test]
fn the_next_stack_or_a_neighbour_gets_the_entry_of_a_cached_record() {
    check(|| {
        let (entry, record) = cached_record();
        cache(&entry, &record);
        let theirs = CachedRecord::new();
        let entry_too = Arc::clone(&entry);
        let neighbour = loom::thread::spawn(move || {
            let record = Arc::as_ptr(&theirs).cast_mut();
            evict(&entry_too);
            let has_it = entry_too.claim(record, |_| false);
            if has_it {
                entry_too.add_block(record, LOW);
            }
            let found = find(&entry_too, LOW);
            assert!(found == if has_it { record } else { std::ptr::null_mut() });
            (theirs, has_it)
        });
        let mine = next(&entry, HIGH);
        let (_theirs, has_it) = neighbour.join().unwrap();
        // The second one does not get it, because it is a live stack's.
        assert!(mine != has_it);
        assert!(finds_one(&entry, HIGH) == mine);
    });
}

#[test]
fn the_next_generation_sees_the_writes_of_the_previous_one() {
    check(|| {
        let (entry, record) = cached_record();
        let entry_too = Arc::clone(&entry);
        let theirs = Arc::clone(&record);
        let ending = loom::thread::spawn(move || cache(&entry_too, &theirs));
        // Before that the next stack finds nothing. After it, it sees everything that was written.
        if next(&entry, LOW) {
            assert!(finds_one(&entry, LOW) && !finds_one(&entry, HIGH));
        }
        ending.join().unwrap();
    });
}
