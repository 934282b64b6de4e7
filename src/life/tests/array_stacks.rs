//! Stacks that exist for the stack map only: words of an array of two pages.

use super::{Ordering, alone};
use crate::exit::redirect::plan::Plan;
use crate::life::arm::{Arming, arm_at};
use crate::record::header::Record;
use crate::record::stacks::STACKS;
use std::sync::atomic::{AtomicBool, AtomicUsize};

/// The end of a page in a new array.
pub(super) fn end_of_page() -> usize {
    let words = Box::leak(vec![0_u64; 2 * 512].into_boxed_slice());
    words.as_ptr().addr().next_multiple_of(4096) + 4096
}

fn plan(base: usize) -> Plan {
    Plan::scope(base - 8, base, 0)
}

pub(super) fn arm(base: usize) -> &'static Record {
    // SAFETY: the foot is a word of the array.
    let Arming { record, abandoned, .. } = unsafe { arm_at(plan(base), 0) }.expect("there is memory");
    assert!(abandoned.is_none());
    record
}

pub(super) fn end(record: &'static Record) {
    let foot = record.canary_at();
    record.release();
    // SAFETY: as in `arm`.
    unsafe { (foot as *mut usize).write_volatile(0) };
}

/// Arms a stack on the memory of an abandoned one. Returns the records of both, of which the first
/// has just found the second.
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
pub(super) fn arm_over_an_abandoned_one() -> (&'static Record, &'static Record) {
    let base = end_of_page();
    let abandoned = arm(base);
    // SAFETY: as in `arm`.
    unsafe { (abandoned.canary_at() as *mut usize).write_volatile(0) };
    // SAFETY: as in `arm`.
    let Arming { record, abandoned: found, .. } = unsafe { arm_at(plan(base), 0) }.expect("there is memory");
    assert!(found.is_some_and(|found| std::ptr::eq(found, abandoned)));
    (record, abandoned)
}

#[test]
fn stacks_with_other_bases_use_the_records_of_stacks_that_ended() {
    alone("array_stacks::stacks_with_other_bases_use_the_records_of_stacks_that_ended", || {
        for _ in 0..10 {
            let records: Vec<_> = (0..5).map(|_| arm(end_of_page())).collect();
            records.into_iter().for_each(end);
        }
        assert_eq!(STACKS.records.all().count(), 5);
    });
}

#[test]
fn the_record_of_a_stack_whose_memory_is_discarded_serves_others() {
    alone("array_stacks::the_record_of_a_stack_whose_memory_is_discarded_serves_others", || {
        for _ in 0..5 {
            let base = end_of_page();
            arm(base);
            // SAFETY: no code runs there.
            assert_eq!(unsafe { crate::discard(base - 4096..base) }, 1);
        }
        assert_eq!(STACKS.records.all().count(), 1);
    });
}

#[test]
fn stacks_whose_bases_share_a_page_leave_nothing_in_the_extras() {
    alone("array_stacks::stacks_whose_bases_share_a_page_leave_nothing_in_the_extras", || {
        let upper = end_of_page();
        for _ in 0..20 {
            let (first, second) = (arm(upper), arm(upper - 512));
            end(first);
            // It takes over the page's entry.
            STACKS.add_block(upper - 768, second);
            end(second);
            assert_eq!(STACKS.extras.all().count(), 0);
        }
    });
}

#[test]
fn a_pinned_record_serves_no_stack_with_another_base() {
    alone("array_stacks::a_pinned_record_serves_no_stack_with_another_base", || {
        let (first, second) = (arm(end_of_page()), arm(end_of_page()));
        end(first);
        end(second);
        let first_is_among = |count| {
            let records: Vec<_> = (0..count).map(|_| arm(end_of_page())).collect();
            let among = records.iter().any(|&record| std::ptr::eq(record, first));
            records.into_iter().for_each(end);
            among
        };
        let pinned = first.pins().pin();
        assert!(!first_is_among(2));
        drop(pinned);
        assert!(first_is_among(3));
        assert_eq!(STACKS.records.all().count(), 3, "one more, while the first was pinned");
    });
}

#[test]
fn a_scope_takes_no_pinned_record() {
    alone("array_stacks::a_scope_takes_no_pinned_record", || {
        let here = end_of_page();
        let first = arm(here);
        end(first);
        let pinned = first.pins().pin();
        let second = arm(here);
        assert!(!std::ptr::eq(first, second));
        drop(pinned);
        end(second);
        assert!(std::ptr::eq(second, arm(here)), "it was cached");
    });
}

#[test]
fn a_record_that_serves_another_base_is_not_found_at_the_old_one() {
    static IS_UNARMED: AtomicUsize = AtomicUsize::new(0);
    static LOOK_UPS: AtomicUsize = AtomicUsize::new(0);
    static DONE: AtomicBool = AtomicBool::new(false);
    alone("array_stacks::a_record_that_serves_another_base_is_not_found_at_the_old_one", || {
        let (here, elsewhere) = (end_of_page(), end_of_page());
        let look_ups = std::thread::spawn(move || {
            while !DONE.load(Ordering::Relaxed) {
                let before = IS_UNARMED.load(Ordering::SeqCst);
                let found = STACKS.by_base(here);
                // Odd, and the same all the time: no stack with this base was armed.
                if before % 2 == 1 && IS_UNARMED.load(Ordering::SeqCst) == before {
                    assert!(found.is_none(), "another stack's");
                    LOOK_UPS.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        for round in 0..super::rounds() {
            let record = arm(here);
            end(record);
            IS_UNARMED.fetch_add(1, Ordering::SeqCst);
            assert!(STACKS.evict(record), "it was cached");
            let place = plan(elsewhere);
            record.prepare(&place.stack(), 0);
            assert!(STACKS.insert(record).is_ok());
            let (canary, word) = place.canary(record);
            record.set_canary(canary, word);
            // SAFETY: as in `arm`.
            unsafe { place.redirect(record) };
            record.set_armed();
            std::hint::spin_loop();
            // The scheduler may not run the other thread for long. So this waits for it now and
            // then.
            if round % 10_000 == 0 {
                let before = LOOK_UPS.load(Ordering::Relaxed);
                while LOOK_UPS.load(Ordering::Relaxed) == before && !look_ups.is_finished() {
                    std::thread::yield_now();
                }
            }
            IS_UNARMED.fetch_add(1, Ordering::SeqCst);
            end(record);
        }
        DONE.store(true, Ordering::Relaxed);
        look_ups.join().expect("it finds none");
    });
}
