//! Stack pointer → record: the page map, and the records by the top of their stack.
//!
//! The map has two levels: a static root, and leaves that are mapped when a page of theirs is first used. It is a cache
//! of what unwinding has proven, but for one page of each armed stack: the entry of the page that holds the stack's top
//! always leads to its record, or, where that page is another stack's already, the list of extras does. When the stack has
//! ended, its record mostly stays there, and waits for the next one (`parking.rs`).

mod entry;
mod judges;
mod parking;
mod slab;

use crate::record::Record;
use crate::sync::{AtomicPtr, AtomicU32, AtomicU64, Ordering};
use entry::Entry;
pub(crate) use judges::Judges;
pub(crate) use parking::Parking;
use slab::Slab;
pub(crate) use slab::{Links, Slot};
use std::hint::cold_path;

/// Bytes of a page of the map. The processor's may be larger; the map does not care.
const PAGE: u32 = 12;
/// Pages of one leaf: 2^17, half a GiB of addresses, 2 MiB of entries of which only touched pages cost memory.
const LEAF: u32 = 17;
/// Addresses that the map covers: 2^48, all that Linux and macOS give without being asked for more.
const ADDRESS: u32 = 48;
const ROOT: usize = 1 << (ADDRESS - PAGE - LEAF);

static MAP: [AtomicPtr<Entry<Record>>; ROOT] = [const { AtomicPtr::new(std::ptr::null_mut()) }; ROOT];

static RECORDS: Slab<Record> =
    Slab::from_parts([const { AtomicPtr::new(std::ptr::null_mut()) }; 26], AtomicU32::new(0), AtomicU64::new(0));

/// Memory that the page map's leaves occupy in address space, in bytes; how much of it is resident is the system's word.
static LEAVES: AtomicU64 = AtomicU64::new(0);

#[inline(always)]
fn bit(sp: usize) -> u64 {
    1 << ((sp >> 6) & 63)
}

#[inline(always)]
fn entry(sp: usize) -> Option<&'static Entry<Record>> {
    let page = sp >> PAGE;
    let leaf = MAP[(page >> LEAF) & (ROOT - 1)].load(Ordering::Acquire);
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
    let record = unsafe { record.as_ref() };
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
    let leaf = crate::os::map_zeroes(size)?;
    let slot = &MAP[(sp >> PAGE >> LEAF) & (ROOT - 1)];
    if slot.compare_exchange(std::ptr::null_mut(), leaf.cast(), Ordering::AcqRel, Ordering::Acquire).is_err() {
        // SAFETY: another thread was first; nobody else has seen this mapping.
        unsafe { crate::os::unmap(leaf, size) };
    } else {
        LEAVES.fetch_add(size as u64, Ordering::Relaxed);
    }
    entry(sp)
}

/// Notes that `sp` is on the stack of `record`, so that the next [`find`] there is quick. A page that another live stack
/// owns is left alone: stack pointers there go on being looked up by unwinding.
#[inline]
pub(crate) fn prove(sp: usize, record: &'static Record) {
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
    top.wrapping_sub(1) >> PAGE
}

/// Makes `record` the one that [`by_top`] finds for its top. `false` without memory.
#[inline]
pub(crate) fn insert(record: &'static Record) -> bool {
    let page = page_of_top(record.top());
    let Some(entry) = ensure_entry(page << PAGE) else { return false };
    if !claim(entry, page, record) {
        extras::insert(record);
    }
    true
}

/// The record of the stack whose top is `top`, if that is armed, or was abandoned.
///
/// Another thread may be taking a record away that has waited there, and use it elsewhere. So it counts only if it is of a
/// stack, and of one with this top, looked at in this order: its top is there before it is a stack's.
#[inline]
pub(crate) fn by_top(top: usize) -> Option<&'static Record> {
    let is_of = |record: &&'static Record| !record.is_free() && record.top() == top;
    // SAFETY: as in `find`.
    let owner = unsafe { entry(top - 1)?.owner().as_ref() };
    owner.filter(is_of).or_else(|| extras::all().find(is_of))
}

/// The same, where a stack ends in a trampoline of ours, and so has a record (but for one that was unloaded in the very
/// moment of its return). Looks everywhere before it gives up: what is not found is not drained.
#[inline]
pub(crate) fn ending_at(top: usize) -> Option<&'static Record> {
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

/// An armed or abandoned record whose stack's top is in `range`, and so all of the stack.
pub(crate) fn any_in(range: std::ops::Range<usize>) -> Option<&'static Record> {
    // In this order: see `by_top`.
    let inside = |record: &&'static Record| record.is_placed() && (range.start + 1..=range.end).contains(&record.top());
    let last = range.end.saturating_sub(1).min((1 << ADDRESS) - 1) >> PAGE;
    let mut page = range.start >> PAGE;
    while page <= last {
        match entry(page << PAGE) {
            // SAFETY: entries lead to the slab's slots only, which live for ever.
            Some(entry) => match unsafe { entry.owner().as_ref() }.filter(inside) {
                Some(record) => return Some(record),
                None => page += 1,
            },
            // Nothing was ever armed in all of this leaf.
            None => page = ((page >> LEAF) + 1) << LEAF,
        }
    }
    extras::all().find(inside)
}

/// Takes back that stack pointers in `range` were ever proven to belong to some stack.
pub(crate) fn disprove(range: &std::ops::Range<usize>) {
    let end = range.end.min(1 << ADDRESS);
    let mut sp = range.start & !63;
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
    let stolen = if RECORDS.has_none_up_to(parking::MOST) { steal() } else { None };
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
    RECORDS.get(turn % parking::MOST + 1).filter(|record| evict(record))
}

/// Takes a record that waits away from where it does. Whether it has waited: then the caller has it to itself.
fn evict(record: &'static Record) -> bool {
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
    let Some(entry) = entry.filter(|_| record.links().number() <= parking::MOST) else {
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

fn pointer(record: &Record) -> *mut Record {
    std::ptr::from_ref(record).cast_mut()
}

/// Whether an entry for `page` may be taken from the stack that owns it. The one of its top never: that leads a new stack
/// on the same memory to the abandoned record, before it would be mistaken for the new one's.
fn is_stale(record: &Record, page: usize) -> bool {
    page_of_top(record.top()) != page && record.is_stale()
}

/// Records whose top's page is another's: of a stack with its top there or its lower end, or of one that has ended, whose
/// record somebody is just taking away. A list that only grows, of places that are used again. Stacks that share a page
/// are rare, so it is short.
mod extras {
    use super::{Ordering, Record};
    use crate::sync::AtomicPtr;

    struct Place {
        record: AtomicPtr<Record>,
        next: AtomicPtr<Place>,
    }

    static FIRST: AtomicPtr<Place> = AtomicPtr::new(std::ptr::null_mut());

    fn places() -> impl Iterator<Item = &'static Place> {
        let mut next = FIRST.load(Ordering::Acquire);
        std::iter::from_fn(move || {
            // SAFETY: places are leaked when they are published, and never freed.
            let place = unsafe { next.as_ref() }?;
            next = place.next.load(Ordering::Acquire);
            Some(place)
        })
    }

    pub(super) fn insert(record: &'static Record) {
        let pointer = super::pointer(record);
        let null = std::ptr::null_mut();
        let free =
            |place: &&Place| place.record.compare_exchange(null, pointer, Ordering::AcqRel, Ordering::Relaxed).is_ok();
        if places().find(free).is_some() {
            return;
        }
        let place =
            Box::leak(Box::new(Place { record: AtomicPtr::new(pointer), next: AtomicPtr::new(std::ptr::null_mut()) }));
        let mut first = FIRST.load(Ordering::Acquire);
        loop {
            place.next.store(first, Ordering::Relaxed);
            match FIRST.compare_exchange(first, place, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return,
                Err(now) => first = now,
            }
        }
    }

    pub(super) fn all() -> impl Iterator<Item = &'static Record> {
        // SAFETY: places hold null or a slot of the slab, which lives for ever.
        places().filter_map(|place| unsafe { place.record.load(Ordering::Acquire).as_ref() })
    }

    pub(super) fn remove(record: &'static Record) {
        let pointer = super::pointer(record);
        for place in places() {
            let _ = place.record.compare_exchange(pointer, std::ptr::null_mut(), Ordering::AcqRel, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{RECORDS, parking};
    use std::hint::black_box;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// Runs `code` in a process in which the test is the only one: all tests of a process use the same records.
    fn alone(test: &str, code: impl FnOnce()) {
        crate::alone::alone(&format!("registry::tests::{test}"), "EXEUNT_TEST_ALONE", code);
    }

    /// Stacks with other tops each, one after the other.
    #[inline(never)]
    fn arm_here_and_there(left: usize) {
        let room = black_box([0_u8; 1000]);
        crate::enter(|| crate::at_exit(|| ()).expect("it can be armed")).expect("it can be entered");
        if left > 1 {
            arm_here_and_there(left - 1);
        }
        black_box(&room);
    }

    #[test]
    fn records_that_wait_where_nobody_comes_serve_others() {
        alone("records_that_wait_where_nobody_comes_serve_others", || {
            arm_here_and_there(100);
            assert_eq!(RECORDS.all().count(), parking::MOST as usize, "two wait, and serve in turns");
        });
    }

    #[test]
    fn while_a_record_is_being_taken_away_the_next_stack_there_has_another_one() {
        static RAN: AtomicUsize = AtomicUsize::new(0);
        let handler = || crate::at_exit(|| _ = RAN.fetch_add(1, Ordering::Relaxed)).expect("it can be armed");
        #[inline(never)]
        fn elsewhere<R>(code: impl FnOnce() -> R) -> R {
            let room = black_box([0_u8; 8192]);
            let result = code();
            black_box(&room);
            result
        }
        let life = move || {
            crate::at_exit(|| unreachable!("forgotten")).expect("it can be armed");
            let record = crate::arm::lookup().expect("it is armed");
            crate::unload();
            // As a thread does that is held up then, or that a child of `fork` does not have.
            assert!(record.parking().take(), "it has waited");
            handler();
            elsewhere(handler);
            elsewhere(|| crate::set("key", 1)).expect("it is armed");
            assert_eq!(elsewhere(|| crate::get::<i32>(&"key")), Some(1));
            assert_eq!(crate::survey().map(|survey| survey.armed), Ok(1));
        };
        alone("while_a_record_is_being_taken_away_the_next_stack_there_has_another_one", || {
            std::thread::spawn(life).join().expect("no panic in the thread");
            assert_eq!(RAN.load(Ordering::Relaxed), 2);
        });
    }

    /// Stacks that exist for the registry only: words of an array of two pages.
    mod of_words {
        use super::super::{RECORDS, by_top, evict, extras, insert, prove};
        use super::{Ordering, alone};
        use crate::arm::arm_at;
        use crate::record::Record;
        use crate::redirect::Place;
        use std::sync::atomic::{AtomicBool, AtomicUsize};

        /// The end of a page that is ours.
        pub(super) fn end_of_page() -> usize {
            let words = Box::leak(vec![0_u64; 2 * 512].into_boxed_slice());
            words.as_ptr().addr().next_multiple_of(4096) + 4096
        }

        fn place(top: usize) -> Place {
            Place::scope(top - 8, top, 0)
        }

        pub(super) fn arm(top: usize) -> &'static Record {
            // SAFETY: the foot is a word of the array.
            let (record, abandoned) = unsafe { arm_at(place(top)) }.expect("there is memory");
            assert!(abandoned.is_none());
            record
        }

        pub(super) fn end(record: &'static Record) {
            let foot = record.foot();
            record.retire();
            // SAFETY: as in `arm`.
            unsafe { (foot as *mut usize).write_volatile(0) };
        }

        /// The records of a stack and of another one on its memory that was abandoned, which the first has just found.
        #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
        pub(super) fn find_an_abandoned_one() -> (&'static Record, &'static Record) {
            let top = end_of_page();
            let abandoned = arm(top);
            // SAFETY: as in `arm`.
            unsafe { (abandoned.foot() as *mut usize).write_volatile(0) };
            // SAFETY: as in `arm`.
            let (record, found) = unsafe { arm_at(place(top)) }.expect("there is memory");
            assert!(found.is_some_and(|found| std::ptr::eq(found, abandoned)));
            (record, abandoned)
        }

        #[test]
        fn many_stacks_at_once_and_again_elsewhere_need_no_more_records_than_they_are() {
            alone("of_words::many_stacks_at_once_and_again_elsewhere_need_no_more_records_than_they_are", || {
                for _ in 0..10 {
                    let records: Vec<_> = (0..5).map(|_| arm(end_of_page())).collect();
                    records.into_iter().for_each(end);
                }
                assert_eq!(RECORDS.all().count(), 5);
            });
        }

        #[test]
        fn where_tops_share_a_page_nothing_is_left_of_those_that_ended() {
            alone("of_words::where_tops_share_a_page_nothing_is_left_of_those_that_ended", || {
                let upper = end_of_page();
                for _ in 0..20 {
                    let (first, second) = (arm(upper), arm(upper - 512));
                    end(first);
                    // It takes over the page.
                    prove(upper - 768, second);
                    end(second);
                    assert_eq!(extras::all().count(), 0);
                }
            });
        }

        #[test]
        fn a_record_that_is_judged_begins_no_life_elsewhere() {
            alone("of_words::a_record_that_is_judged_begins_no_life_elsewhere", || {
                let (first, second) = (arm(end_of_page()), arm(end_of_page()));
                end(first);
                end(second);
                let first_is_among = |count| {
                    let records: Vec<_> = (0..count).map(|_| arm(end_of_page())).collect();
                    let among = records.iter().any(|&record| std::ptr::eq(record, first));
                    records.into_iter().for_each(end);
                    among
                };
                let judging = first.judges().begin();
                assert!(!first_is_among(2));
                drop(judging);
                assert!(first_is_among(3));
                assert_eq!(RECORDS.all().count(), 3, "one more, while the first was judged");
            });
        }

        #[test]
        fn a_scope_takes_no_record_that_is_judged() {
            alone("of_words::a_scope_takes_no_record_that_is_judged", || {
                let here = end_of_page();
                let first = arm(here);
                end(first);
                let judging = first.judges().begin();
                let second = arm(here);
                assert!(!std::ptr::eq(first, second));
                drop(judging);
                end(second);
                assert!(std::ptr::eq(second, arm(here)), "it has waited");
            });
        }

        #[test]
        fn a_record_that_serves_elsewhere_by_now_is_not_found_where_it_has_waited() {
            static NOBODY_THERE: AtomicUsize = AtomicUsize::new(0);
            static LOOKS: AtomicUsize = AtomicUsize::new(0);
            static DONE: AtomicBool = AtomicBool::new(false);
            alone("of_words::a_record_that_serves_elsewhere_by_now_is_not_found_where_it_has_waited", || {
                let (here, elsewhere) = (end_of_page(), end_of_page());
                let looks = std::thread::spawn(move || {
                    while !DONE.load(Ordering::Relaxed) {
                        let before = NOBODY_THERE.load(Ordering::SeqCst);
                        let found = by_top(here);
                        // Odd, and the same all the time: no stack with this top was armed.
                        if before % 2 == 1 && NOBODY_THERE.load(Ordering::SeqCst) == before {
                            assert!(found.is_none(), "another stack's");
                            LOOKS.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                });
                for round in 0..crate::registry::tests::rounds() {
                    let record = arm(here);
                    end(record);
                    NOBODY_THERE.fetch_add(1, Ordering::SeqCst);
                    assert!(evict(record), "it has waited");
                    let place = place(elsewhere);
                    record.prepare(&place);
                    assert!(insert(record));
                    let (canary, word) = place.canary(record);
                    record.watch(canary, word);
                    // SAFETY: as in `arm`.
                    unsafe { place.redirect(record) };
                    record.armed();
                    std::hint::spin_loop();
                    // The scheduler may leave the other thread out for long: now and then it is waited for.
                    if round % 10_000 == 0 {
                        let before = LOOKS.load(Ordering::Relaxed);
                        while LOOKS.load(Ordering::Relaxed) == before && !looks.is_finished() {
                            std::thread::yield_now();
                        }
                    }
                    NOBODY_THERE.fetch_add(1, Ordering::SeqCst);
                    end(record);
                }
                DONE.store(true, Ordering::Relaxed);
                looks.join().expect("it finds none");
            });
        }
    }

    /// What a signal handler finds and does in the middle of something, wherever that is. For the processor that can be told to stop
    /// at each instruction; what is tested is the same for all.
    #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
    mod interrupted {
        use super::super::{PAGE, RECORDS, entry, find, give, page_of_top, pointer, prove};
        use super::{alone, black_box, of_words};
        use crate::arch::stack_pointer;
        use crate::record::Record;
        use std::arch::asm;
        use std::ffi::{c_int, c_void};
        use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};

        /// After how many instructions the handler interrupts, how many it has seen, and what it does then.
        static AT: AtomicUsize = AtomicUsize::new(0);
        static SEEN: AtomicUsize = AtomicUsize::new(0);
        static INTERRUPTION: AtomicPtr<()> = AtomicPtr::new(std::ptr::null_mut());
        /// Whether the code is through that is to be interrupted.
        static OVER: AtomicBool = AtomicBool::new(false);
        /// The processor's trap flag.
        const TRAP: i64 = 0x100;

        extern "C" fn handler(_: c_int, _: *mut libc::siginfo_t, context: *mut c_void) {
            let over = OVER.load(Ordering::Relaxed);
            if !over && SEEN.fetch_add(1, Ordering::Relaxed) < AT.load(Ordering::Relaxed) {
                return;
            }
            // SAFETY: what the kernel gives a handler of this kind.
            unsafe { (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs[libc::REG_EFL as usize] &= !TRAP };
            if over {
                return;
            }
            // SAFETY: `at_each_instruction` has stored a function of this kind.
            unsafe { std::mem::transmute::<*mut (), fn()>(INTERRUPTION.load(Ordering::Relaxed))() };
        }

        /// Runs `code`, which the handler interrupts.
        fn stepping(code: impl FnOnce()) {
            OVER.store(false, Ordering::Relaxed);
            // SAFETY: sets the trap flag, whose signal has a handler; it is in force behind these, when the stack pointer is where
            // unwinders expect it.
            unsafe { asm!("pushfq", "or qword ptr [rsp], 0x100", "popfq") };
            code();
            // The handler clears it.
            OVER.store(true, Ordering::Relaxed);
        }

        /// Calls `life` again and again, and has what it does in [`stepping`] interrupted a little later each time.
        fn at_each_instruction(interruption: fn(), life: impl Fn()) {
            // SAFETY: the handler fits what the flags say.
            let outcome = unsafe {
                let mut action: libc::sigaction = std::mem::zeroed();
                action.sa_sigaction = handler as *const () as usize;
                action.sa_flags = libc::SA_SIGINFO;
                libc::sigaction(libc::SIGTRAP, &raw const action, std::ptr::null_mut())
            };
            assert_eq!(outcome, 0);
            INTERRUPTION.store(interruption as *mut (), Ordering::Relaxed);
            let was_interrupted = |&at: &usize| {
                AT.store(at, Ordering::Relaxed);
                SEEN.store(0, Ordering::Relaxed);
                life();
                SEEN.load(Ordering::Relaxed) > at
            };
            // What is one instruction in optimised code is many in other code.
            let step = if cfg!(debug_assertions) { 8 } else { 1 };
            let times = (0..100_000).step_by(step).take_while(was_interrupted).count();
            assert!(times > 20, "{times}");
        }

        /// Runs `code` on another page of the stack.
        #[inline(never)]
        fn further_down<R>(code: impl FnOnce() -> R) -> R {
            let room = black_box([0_u8; 8192]);
            let result = code();
            black_box(&room);
            result
        }

        fn arm() -> &'static Record {
            crate::set("key", 1).expect("it can be armed");
            crate::arm::lookup().expect("it is armed")
        }

        #[test]
        fn what_a_signal_handler_proves_in_the_middle_of_a_proof_is_taken_back_at_the_end() {
            let life = || {
                let entered = crate::enter(|| {
                    let record = arm();
                    further_down(|| stepping(|| prove(stack_pointer(), record)));
                    (record, page_of_top(record.top()))
                });
                let (record, top) = entered.expect("it can be entered");
                for page in top - 64..top {
                    let owner = entry(page << PAGE).map(|entry| entry.owner());
                    assert_ne!(owner, Some(pointer(record)), "{} pages below the top", top - page);
                }
            };
            alone(
                "interrupted::what_a_signal_handler_proves_in_the_middle_of_a_proof_is_taken_back_at_the_end",
                || {
                    at_each_instruction(|| further_down(|| assert_eq!(crate::get::<i32>(&"key"), Some(1))), life);
                },
            );
        }

        /// Runs `code` on a page further down.
        #[inline(never)]
        fn down_to(page: usize, code: &dyn Fn()) {
            let room = black_box([0_u8; 256]);
            if stack_pointer() >> PAGE <= page {
                code()
            } else {
                down_to(page, code)
            }
            black_box(&room);
        }

        #[test]
        fn a_look_up_in_the_middle_of_which_a_signal_handler_reads_never_finds_another_stacks_record() {
            static ELSEWHERE: AtomicPtr<Record> = AtomicPtr::new(std::ptr::null_mut());
            let reads_and_then_another_stack_begins = || {
                further_down(|| assert_eq!(crate::get::<i32>(&"key"), Some(1)));
                ELSEWHERE.store(pointer(of_words::arm(of_words::end_of_page())), Ordering::Relaxed);
            };
            let life = || {
                // Its record waits below, on a page that is the next stack's.
                let earlier = further_down(|| crate::enter(arm)).expect("it can be entered");
                let page = page_of_top(earlier.top());
                let entered = crate::enter(|| {
                    let record = arm();
                    let looks = || {
                        let found = std::cell::Cell::new(None);
                        stepping(|| found.set(find(stack_pointer())));
                        assert!(found.get().is_none_or(|found| std::ptr::eq(found, record)), "another stack's");
                    };
                    down_to(page, &looks);
                });
                entered.expect("it can be entered");
                // SAFETY: null, or a record, which live for ever.
                if let Some(record) = unsafe { ELSEWHERE.swap(std::ptr::null_mut(), Ordering::Relaxed).as_ref() } {
                    of_words::end(record);
                }
            };
            alone(
                "interrupted::a_look_up_in_the_middle_of_which_a_signal_handler_reads_never_finds_another_stacks_record",
                || {
                    at_each_instruction(reads_and_then_another_stack_begins, life);
                },
            );
        }

        #[test]
        fn a_record_that_was_found_abandoned_is_nobody_elses_before_it_is_forgotten() {
            static FINDER: AtomicPtr<Record> = AtomicPtr::new(std::ptr::null_mut());
            // Takes a record, as another thread may, while the one that has found it may be abandoned.
            let takes_another = || {
                // SAFETY: the record of the life that is interrupted.
                let finder = unsafe { &*FINDER.load(Ordering::Relaxed) };
                let taken = RECORDS.take().expect("there is memory");
                assert!(finder.has_found().is_none_or(|found| !std::ptr::eq(found, taken)));
                give(taken);
            };
            alone("interrupted::a_record_that_was_found_abandoned_is_nobody_elses_before_it_is_forgotten", || {
                at_each_instruction(takes_another, || {
                    let (finder, abandoned) = of_words::find_an_abandoned_one();
                    FINDER.store(pointer(finder), Ordering::Relaxed);
                    stepping(|| finder.drain_found(abandoned));
                    assert!(finder.has_found().is_none());
                    of_words::end(finder);
                });
            });
        }
    }

    /// How often a race is tried. An emulator has a hundredth of the time.
    fn rounds() -> usize {
        if std::env::vars_os().any(|(name, _)| name.to_string_lossy().ends_with("_RUNNER")) {
            20_000
        } else {
            2_000_000
        }
    }
}
