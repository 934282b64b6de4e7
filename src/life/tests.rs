//! The stack map and records, each test in a process of its own: all tests of one process use the
//! same records.

mod array_stacks;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod interrupted;

use crate::map::cached;
use crate::record::stacks::STACKS;
use std::hint::black_box;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Runs `code` in a process in which the test is the only one.
fn alone(test: &str, code: impl FnOnce()) {
    crate::base::testing::alone(&format!("life::tests::{test}"), "EXEUNT_TEST_ALONE", code);
}

/// Runs `code` on another page of the stack.
#[inline(never)]
fn on_another_page<R>(code: impl FnOnce() -> R) -> R {
    let room = black_box([0_u8; 8192]);
    let result = code();
    black_box(&room);
    result
}

/// Arms stacks one after another, each with another base.
#[inline(never)]
fn arm_at_distinct_bases(left: usize) {
    let room = black_box([0_u8; 1000]);
    crate::enter(|| crate::at_exit(|| ()).expect("it can be armed")).expect("it can be entered");
    if left > 1 {
        arm_at_distinct_bases(left - 1);
    }
    black_box(&room);
}

#[test]
fn a_drain_without_a_foot_is_found_by_no_walk_wherever_its_canary_lies() {
    alone("a_drain_without_a_foot_is_found_by_no_walk_wherever_its_canary_lies", || {
        let record = array_stacks::arm(array_stacks::end_of_page());
        record.set_draining();
        // Where a drain in a trampoline has its mark.
        let right_below_the_base = record.base() - size_of::<usize>();
        record.set_canary(right_below_the_base, record.mark());
        assert!(record.is_found_by_walk());
        for word in [record.mark_without_foot(), record.mark_without_block(true), record.mark_without_block(false)] {
            record.set_canary(right_below_the_base, word);
            assert!(!record.is_found_by_walk());
        }
        record.release();
    });
}

#[test]
fn cached_records_serve_stacks_with_other_bases() {
    alone("cached_records_serve_stacks_with_other_bases", || {
        arm_at_distinct_bases(100);
        assert_eq!(STACKS.records.all().count(), cached::MAX_NUMBER as usize, "two are cached, and serve in turns");
    });
}

#[test]
fn a_stack_whose_cached_record_is_being_evicted_gets_a_different_record() {
    static RAN: AtomicUsize = AtomicUsize::new(0);
    let handler = || crate::at_exit(|| _ = RAN.fetch_add(1, Ordering::Relaxed)).expect("it can be armed");
    let life = move || {
        crate::at_exit(|| unreachable!("forgotten")).expect("it can be armed");
        let record = crate::life::lookup::lookup().expect("it is armed");
        crate::unload().unwrap();
        // As a thread does that is then held up, or that does not exist in a child of `fork`.
        assert!(record.cached_flag().take(), "it was cached");
        handler();
        on_another_page(handler);
        on_another_page(|| crate::set("key", 1)).expect("it is armed");
        assert_eq!(on_another_page(|| crate::get::<i32>(&"key")), Some(1));
        assert_eq!(crate::survey().map(|survey| survey.armed), Ok(1));
    };
    alone("a_stack_whose_cached_record_is_being_evicted_gets_a_different_record", || {
        std::thread::spawn(life).join().expect("no panic in the thread");
        assert_eq!(RAN.load(Ordering::Relaxed), 2);
    });
}

#[test]
fn addresses_outside_the_map_are_not_found() {
    alone("addresses_outside_the_map_are_not_found", || {
        std::thread::spawn(|| {
            crate::at_exit(|| ()).expect("it can be armed");
            crate::life::lookup::lookup().expect("it is armed");
            let (here, base) =
                (crate::machine::arch::stack_pointer(), crate::life::lookup::lookup().expect("it is armed").base());
            let found = (0..64).filter(|page| STACKS.find((here & !63) + 64 * page).is_some()).count();
            assert!(found > 0, "blocks of this stack are known");
            // The bits above are a tag, where the processor ignores them.
            let end = if cfg!(target_arch = "aarch64") { 56 } else { usize::BITS };
            for bit in 48..end {
                for block in 0..64 {
                    assert!(STACKS.find(((here & !63) + 64 * block) | 1 << bit).is_none(), "bit {bit}");
                }
                assert!(STACKS.by_base(base | 1 << bit).is_none(), "bit {bit}");
            }
        })
        .join()
        .expect("no panic in the thread");
    });
}

/// The number of times that a race is tried. An emulator is about a hundred times slower.
fn rounds() -> usize {
    if std::env::vars_os().any(|(name, _)| name.to_string_lossy().ends_with("_RUNNER")) { 20_000 } else { 2_000_000 }
}
