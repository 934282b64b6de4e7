//! Records whose top's page is another's: of a stack with its top there or its lower end, or of one that has ended, whose
//! record somebody is just taking away. A list that only grows, of places that are used again. Stacks that share a page
//! are rare, so it is short.

use crate::base::alloc::try_box;
use crate::base::atomics::{AtomicPtr, Ordering};
use crate::record::header::Record;

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

/// Adds the record; `false` without memory.
pub(crate) fn insert(record: &'static Record) -> bool {
    let pointer = pointer(record);
    let null = std::ptr::null_mut();
    let free =
        |place: &&Place| place.record.compare_exchange(null, pointer, Ordering::AcqRel, Ordering::Relaxed).is_ok();
    if places().find(free).is_some() {
        return true;
    }
    let place = Place { record: AtomicPtr::new(pointer), next: AtomicPtr::new(std::ptr::null_mut()) };
    let Ok(place) = try_box(place) else { return false };
    let place = Box::leak(place);
    let mut first = FIRST.load(Ordering::Acquire);
    loop {
        place.next.store(first, Ordering::Relaxed);
        match FIRST.compare_exchange(first, place, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => return true,
            Err(now) => first = now,
        }
    }
}

pub(crate) fn all() -> impl Iterator<Item = &'static Record> {
    // SAFETY: places hold null or a slot of the slab, which lives for ever.
    places().filter_map(|place| unsafe { place.record.load(Ordering::Acquire).as_ref() })
}

pub(crate) fn remove(record: &'static Record) {
    let pointer = pointer(record);
    for place in places() {
        let _ = place.record.compare_exchange(pointer, std::ptr::null_mut(), Ordering::AcqRel, Ordering::Relaxed);
    }
}

fn pointer(record: &Record) -> *mut Record {
    std::ptr::from_ref(record).cast_mut()
}
