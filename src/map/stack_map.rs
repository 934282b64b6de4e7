//! Stack pointer → record: the page map, and the records by the top of their stack.
//!
//! The map has two levels: a static root, and leaves that are mapped when a page of theirs is first used. It is a cache
//! of what unwinding has proven, but for one page of each armed stack: the entry of the page that holds the stack's top
//! always leads to its record, or, where that page is another stack's already, the list of extras does. When the stack has
//! ended, its record mostly stays there, and waits for the next one (`parking.rs`).
//!
//! Whatever address comes in here is looked up without its tag, if it has one (`arch::untagged`).

use super::entry::Entry;
use super::slab::Slab;
use super::slab::Slot;
use super::{cached, extras};
use crate::base::atomics::{AtomicPtr, AtomicU32, AtomicU64, Ordering};
use crate::machine::arch::untagged;
use crate::record::header::Record;
use std::hint::cold_path;

/// Bytes of a page of the map. The processor's may be larger; the map does not care.
pub(crate) const PAGE: u32 = 12;
/// Pages of one leaf: 2^17, half a GiB of addresses, 2 MiB of entries of which only touched pages cost memory.
const LEAF: u32 = 17;
/// Addresses that the map covers: 2^48, all that Linux and macOS give without being asked for more.
const ADDRESS: u32 = 48;
const ROOT: usize = 1 << (ADDRESS - PAGE - LEAF);

static MAP: [AtomicPtr<Entry<Record>>; ROOT] = [const { AtomicPtr::new(std::ptr::null_mut()) }; ROOT];

pub(crate) static RECORDS: Slab<Record> =
    Slab::from_parts([const { AtomicPtr::new(std::ptr::null_mut()) }; 26], AtomicU32::new(0), AtomicU64::new(0));

/// Memory that the page map's leaves occupy in address space, in bytes; how much of it is resident is the system's word.
static LEAVES: AtomicU64 = AtomicU64::new(0);

#[inline(always)]
fn bit(sp: usize) -> u64 {
    1 << ((sp >> 6) & 63)
}

#[inline(always)]
pub(crate) fn entry(sp: usize) -> Option<&'static Entry<Record>> {
    let page = sp >> PAGE;
    // Beyond the map there is nothing: on a processor with addresses of more bits no other page is
    // mistaken for this.
    let leaf = MAP.get(page >> LEAF)?.load(Ordering::Acquire);
    if leaf.is_null() {
        return None;
    }
    // SAFETY: a leaf has 2^LEAF entries, all zero at first, which is a valid empty entry, and is never unmapped.
    Some(unsafe { &*leaf.add(page & ((1 << LEAF) - 1)) })
}

/// The live record that is known to own the stack that `sp` is on; `None` where that is not known yet.
///
/// This is the read path: no lock, no thread-local register, safe in a signal handler.
#[inline(always)]
pub(crate) fn find(sp: usize) -> Option<&'static Record> {
    let record = entry(sp)?.find(bit(sp))?;
    // SAFETY: entries lead to the slab's slots only, which live for ever.
    let record = unsafe { &*record };
    record.is_live().then_some(record)
}

/// The entry for `sp`, mapping its leaf if need be; `None` outside the map or without memory.
#[inline]
fn ensure_entry(sp: usize) -> Option<&'static Entry<Record>> {
    if sp >> ADDRESS != 0 {
        return None;
    }
    let found = entry(sp);
    if found.is_none() {
        cold_path();
        return map_leaf(sp);
    }
    found
}

fn map_leaf(sp: usize) -> Option<&'static Entry<Record>> {
    let size = size_of::<Entry<Record>>() << LEAF;
    let leaf = crate::machine::os::map_zeroes(size)?;
    let slot = MAP.get(sp >> PAGE >> LEAF)?;
    if slot.compare_exchange(std::ptr::null_mut(), leaf.cast(), Ordering::AcqRel, Ordering::Acquire).is_err() {
        // SAFETY: another thread was first; nobody else has seen this mapping.
        unsafe { crate::machine::os::unmap(leaf, size) };
    } else {
        LEAVES.fetch_add(size as u64, Ordering::Relaxed);
    }
    entry(sp)
}

/// Notes that `sp` is on the stack of `record`, so that the next [`find`] there is quick. A page that another live stack
/// owns is left alone: stack pointers there go on being looked up by unwinding.
#[inline]
pub(crate) fn prove(sp: usize, record: &'static Record) {
    let sp = untagged(sp);
    let Some(entry) = ensure_entry(sp) else { return };
    // The block that holds the top may hold another stack's lowest words as well: never vouch for it.
    if sp >> 6 == record.top() >> 6 {
        cold_path();
        return;
    }
    // In this order: what a record owns is emptied at its end, wherever this is left for good.
    record.note_page(sp >> PAGE);
    if claim(entry, sp >> PAGE, record) {
        entry.prove(pointer(record), bit(sp));
    }
}

/// Makes `record` the owner of a page's entry, if that can be.
#[inline]
fn claim(entry: &Entry<Record>, page: usize, record: &'static Record) -> bool {
    if entry.is_owned_by(pointer(record)) {
        return true;
    }
    cold_path();
    // SAFETY: as in `find`.
    let Some(owner) = (unsafe { entry.owner().as_ref() }) else { return entry.claim(pointer(record), |_| false) };
    make_way(owner);
    let _judging = owner.judges().begin();
    entry.claim(pointer(record), |now| now == pointer(owner) && is_stale(owner, page))
}

/// Gives the record to the slab, if it only waits.
#[cold]
fn make_way(owner: &'static Record) {
    if evict(owner) {
        give(owner);
    }
}

/// The page that the last word of a stack is on.
#[inline]
pub(crate) fn page_of_top(top: usize) -> usize {
    untagged(top).wrapping_sub(1) >> PAGE
}

/// Why a record could not be made known.
pub(crate) enum Failed {
    NoMemory,
    /// While memory was allocated the stack was armed, with this record: the allocator uses
    /// storage.
    Taken(&'static Record),
}

/// Makes `record` the one that [`by_top`] finds for its top.
#[inline]
pub(crate) fn insert(record: &'static Record) -> Result<(), Failed> {
    let page = page_of_top(record.top());
    let Some(entry) = ensure_entry(page << PAGE) else { return Err(Failed::NoMemory) };
    if claim(entry, page, record) { Ok(()) } else { insert_extra(record) }
}

#[cold]
fn insert_extra(record: &'static Record) -> Result<(), Failed> {
    if !extras::insert(record) {
        return Err(Failed::NoMemory);
    }
    let top = record.top();
    let other = |other: &&'static Record| !std::ptr::eq(*other, record) && other.top() == top;
    match extras::all().find(|found| other(found) && found.is_armed_at(record.place())) {
        Some(found) => Err(Failed::Taken(found)),
        None => Ok(()),
    }
}

/// The record of the stack whose top is `top`, if that is armed, or was abandoned.
///
/// Another thread may be taking a record away that has waited there, and use it elsewhere. So it counts only if it is of a
/// stack, and of one with this top, looked at in this order: its top is there before it is a stack's.
#[inline]
pub(crate) fn by_top(top: usize) -> Option<&'static Record> {
    let top = untagged(top);
    let is_of = |record: &&'static Record| !record.is_free() && record.top() == top;
    // SAFETY: as in `find`.
    let owner = unsafe { entry(top - 1)?.owner().as_ref() };
    owner.filter(is_of).or_else(|| extras::all().find(is_of))
}

/// The same, where a stack ends in a trampoline of ours, and so has a record (but for one that was unloaded in the very
/// moment of its return). Looks everywhere before it gives up: what is not found is not drained.
#[inline]
pub(crate) fn ending_at(top: usize) -> Option<&'static Record> {
    let top = untagged(top);
    by_top(top).or_else(|| all().find(|record| !record.is_free() && record.top() == top))
}

/// What a stack finds where its top is, before it is armed.
pub(crate) enum Found {
    /// A record that has waited here. Nobody else has it.
    Waiting(&'static Record),
    /// The record of a stack that was abandoned.
    Abandoned(&'static Record),
    Nothing,
}

/// What the stack that runs, and is not armed, finds where its top is. One that is `found_by_pages_alone` takes no record that
/// is judged: it must not lose a page.
#[inline]
pub(crate) fn found(top: usize, found_by_pages_alone: bool) -> Found {
    let top = untagged(top);
    // SAFETY: as in `find`.
    let owner = entry(top - 1).and_then(|entry| unsafe { entry.owner().as_ref() });
    match owner.filter(|record| record.top() == top && record.parking().take()) {
        Some(record) if record.top() == top && !(found_by_pages_alone && record.judges().are_there()) => {
            Found::Waiting(record)
        }
        taken => {
            cold_path();
            if let Some(record) = taken {
                // Mostly it has served another stack meanwhile, and has waited where that one's top was.
                leave_top(record);
                give(record);
            }
            by_top(top).map_or(Found::Nothing, Found::Abandoned)
        }
    }
}

/// The armed and the abandoned records whose stacks' tops are in `range`, and so all of those
/// stacks. Each page is looked at once, so that it takes a time in proportion to the range; what
/// the caller does with one record does not make this look again at those before it.
pub(crate) fn all_in(range: std::ops::Range<usize>) -> impl Iterator<Item = &'static Record> {
    let range = untagged(range.start)..untagged(range.end);
    // In this order: see `by_top`.
    let inside =
        move |record: &&'static Record| record.is_placed() && record.top() > range.start && record.top() <= range.end;
    let last = range.end.saturating_sub(1).min((1 << ADDRESS) - 1) >> PAGE;
    let mut page = range.start >> PAGE;
    let of_pages = std::iter::from_fn(move || {
        while page <= last {
            match entry(page << PAGE) {
                Some(entry) => {
                    page += 1;
                    // SAFETY: entries lead to the slab's slots only, which live for ever.
                    if let Some(record) = unsafe { entry.owner().as_ref() } {
                        return Some(record);
                    }
                }
                // Nothing was ever armed in all of this leaf.
                None => page = ((page >> LEAF) + 1) << LEAF,
            }
        }
        None
    });
    // A stack of several pages is met on each of them; when it has been drained it is no longer
    // placed.
    of_pages.chain(extras::all()).filter(inside)
}

/// Takes back that stack pointers in `range` were ever proven to belong to some stack.
pub(crate) fn disprove(range: &std::ops::Range<usize>) {
    let end = untagged(range.end).min(1 << ADDRESS);
    let mut sp = untagged(range.start) & !63;
    while sp < end {
        let next_page = (sp | ((1 << PAGE) - 1)) + 1;
        match entry(sp) {
            Some(entry) => {
                let last = end.min(next_page) - 1;
                // From the block of `sp` to the block of `last`.
                entry.disprove((u64::MAX << ((sp >> 6) & 63)) & (u64::MAX >> (63 - ((last >> 6) & 63))));
                sp = next_page;
            }
            // Nothing was ever armed in all of this leaf.
            None => sp = ((sp >> PAGE >> LEAF) + 1) << LEAF << PAGE,
        }
    }
}

/// Whether any stack was ever armed.
pub(crate) fn is_used() -> bool {
    RECORDS.is_used()
}

/// Whether a stack that has not ended is known to have code of its own on the page of this address: then its memory is there.
pub(crate) fn is_of_live_stack(address: usize) -> bool {
    // SAFETY: as in `find`.
    address >> ADDRESS == 0
        && entry(address).and_then(|entry| unsafe { entry.owner().as_ref() }).is_some_and(Record::is_live)
}

/// Takes `record` out of the map.
#[inline]
pub(crate) fn remove(record: &'static Record) {
    record.pages().for_each(|page| clear(page, record));
    extras::remove(record);
}

#[inline]
fn clear(page: usize, record: &'static Record) {
    if let Some(entry) = entry(page << PAGE) {
        entry.clear(pointer(record));
    }
}

/// A record that nobody else has, for a stack with any top.
#[inline]
pub(crate) fn take() -> Option<&'static Record> {
    let stolen = if RECORDS.has_none_up_to(cached::MOST) { steal() } else { None };
    let record = stolen.or_else(|| RECORDS.take())?;
    if record.judges().are_there() { another(record) } else { Some(record) }
}

/// Another one than this, which is judged.
#[cold]
fn another(judged: &'static Record) -> Option<&'static Record> {
    let other = take();
    give(judged);
    other
}

/// One of those that wait; whose turn it is.
#[cold]
fn steal() -> Option<&'static Record> {
    static TURN: AtomicU32 = AtomicU32::new(0);
    let turn = TURN.load(Ordering::Relaxed);
    // Two that have the same turn differ about its record, and one of them has a new one.
    TURN.store(turn.wrapping_add(1), Ordering::Relaxed);
    RECORDS.get(turn % cached::MOST + 1).filter(|record| evict(record))
}

/// Takes a record that waits away from where it does. Whether it has waited: then the caller has it to itself.
pub(crate) fn evict(record: &'static Record) -> bool {
    let waited = record.parking().take();
    if waited {
        leave_top(record);
    }
    waited
}

/// Takes a record, which the caller has to itself, away from the top at which it has waited.
fn leave_top(record: &'static Record) {
    clear(page_of_top(record.top()), record);
    record.forget_top();
}

/// Lets a record wait at the top of its stack, which has ended, if there is room. From then on it is nobody's.
#[inline]
pub(crate) fn park(record: &'static Record) -> bool {
    let page = page_of_top(record.top());
    let entry = entry(page << PAGE).filter(|entry| entry.is_owned_by(pointer(record)));
    let Some(entry) = entry.filter(|_| record.links().number() <= cached::MOST) else {
        cold_path();
        return false;
    };
    let pages = record.pages();
    if pages != (page..page + 1) {
        cold_path();
        pages.filter(|&other| other != page).for_each(|other| clear(other, record));
    }
    extras::remove(record);
    // Now, not when the next life begins: then another stack's code may be about to look there, on what was this one's memory.
    entry.disprove_all();
    record.parking().park();
    true
}

/// Gives back a record that is in nobody's way any more.
#[inline]
pub(crate) fn give(record: &'static Record) {
    RECORDS.give(record);
}

/// The record at an address, if there is one.
#[cfg(target_arch = "x86_64")]
pub(crate) fn at(address: usize) -> Option<&'static Record> {
    RECORDS.at(address)
}

/// Every record there ever was.
pub(crate) fn all() -> impl Iterator<Item = &'static Record> {
    RECORDS.all()
}

/// Address space that the page map has reserved, in bytes.
pub(crate) fn reserved() -> u64 {
    LEAVES.load(Ordering::Relaxed)
}

pub(crate) fn pointer(record: &Record) -> *mut Record {
    std::ptr::from_ref(record).cast_mut()
}

/// Whether an entry for `page` may be taken from the stack that owns it. The one of its top never: that leads a new stack
/// on the same memory to the abandoned record, before it would be mistaken for the new one's.
fn is_stale(record: &Record, page: usize) -> bool {
    page_of_top(record.top()) != page && record.is_stale()
}
