//! Stack tags: a number in the call stack, read back by unwinding.

mod compile;

use corosensei::{Coroutine, CoroutineResult};
use exeunt::tag;
use std::collections::HashSet;
use std::hint::black_box;
use std::panic::{AssertUnwindSafe, catch_unwind};

fn numbers() -> impl Iterator<Item = u64> {
    (0..64).flat_map(|shift| [1 << shift, u64::MAX >> shift, 0xfedc_ba98_7654_3210 >> shift]).chain(0..300)
}

#[inline(never)]
fn deep(frames: usize) -> Option<u64> {
    if frames == 0 { tag::current() } else { black_box(deep(frames - 1)) }
}

#[test]
fn any_number_is_read_back() {
    for number in numbers() {
        assert_eq!(tag::run(number, tag::current), Some(number));
    }
}

#[test]
fn current_is_none_where_there_is_no_tag() {
    assert_eq!(tag::current(), None);
    assert_eq!(deep(100), None);
    tag::run(1, || ());
    assert_eq!(tag::current(), None);
}

#[test]
fn current_is_the_innermost_tag_and_then_the_outer_one_again() {
    for number in numbers() {
        tag::run(number, || {
            assert_eq!(tag::run(!number, || (tag::current(), tag::run(number ^ 0xff, tag::current))), {
                (Some(!number), Some(number ^ 0xff))
            });
            assert_eq!(tag::current(), Some(number));
        });
    }
}

#[test]
fn a_tag_is_read_from_any_depth() {
    let body = || {
        for depth in [0, 1, 10, 1_000, 10_000] {
            assert_eq!(tag::run(0xabcd_ef01_2345_6789, || deep(depth)), Some(0xabcd_ef01_2345_6789));
        }
    };
    std::thread::Builder::new().stack_size(64 << 20).spawn(body).unwrap().join().unwrap();
}

#[test]
fn the_result_and_a_panic_pass_through() {
    let text = String::from("moved in");
    assert_eq!(tag::run(0x1234, move || text + " and out"), "moved in and out");
    assert_eq!(tag::run(u64::MAX, || [7_u64; 100]), [7; 100]);
    tag::run(9, || ());
    let panic = catch_unwind(|| tag::run(5, || std::panic::panic_any(6))).expect_err("it panicked");
    assert_eq!(panic.downcast_ref(), Some(&6));
    tag::run(1, || {
        let _ = catch_unwind(AssertUnwindSafe(|| tag::run(2, || panic!("out of here"))));
        assert_eq!(tag::current(), Some(1));
    });
}

#[test]
fn every_thread_has_its_own_tags() {
    tag::run(1, || {
        let threads: Vec<_> = (100..108)
            .map(|number| {
                std::thread::spawn(move || {
                    assert_eq!(tag::current(), None);
                    for _ in 0..100 {
                        assert_eq!(tag::run(number, || deep(20)), Some(number));
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!(tag::current(), Some(1));
    });
}

#[test]
fn a_tag_needs_no_redirect_and_no_storage() {
    std::thread::spawn(|| {
        tag::run(1, || {
            assert!(!exeunt::Stack::current().is_armed());
            exeunt::set("k", 1).unwrap();
            assert_eq!(tag::current(), Some(1), "and an armed stack does not hide it");
        });
        exeunt::at_exit(|| assert_eq!(tag::run(2, tag::current), Some(2))).unwrap();
    })
    .join()
    .unwrap();
}

#[test]
fn a_fiber_has_its_own_tags_and_does_not_see_its_resumer_s() {
    // Without `enter`: nothing can be armed there, and tags do not need it.
    let mut fiber = Coroutine::new(|yielder, ()| {
        assert_eq!(tag::current(), None, "a resumer's tag is not this stack's");
        tag::run(0xf1be, || {
            yielder.suspend(deep(10));
            yielder.suspend(exeunt::enter(|| (deep(10), tag::run(3, tag::current))).unwrap().0);
            tag::current()
        })
    });
    tag::run(77, || {
        assert_eq!(fiber.resume(()), CoroutineResult::Yield(Some(0xf1be)));
        assert_eq!(tag::current(), Some(77));
    });
    tag::run(78, || assert_eq!(fiber.resume(()), CoroutineResult::Yield(Some(0xf1be))));
    assert_eq!(fiber.resume(()), CoroutineResult::Return(Some(0xf1be)));
}

#[test]
fn a_tag_moves_with_its_fiber_from_thread_to_thread() {
    struct Moving(Coroutine<(), Option<u64>, ()>);
    // SAFETY: while it is suspended, this coroutine's stack holds only numbers.
    unsafe impl Send for Moving {}
    let mut fiber = Moving(Coroutine::new(|yielder, ()| {
        tag::run(0x40, || {
            for _ in 0..4 {
                yielder.suspend(tag::current());
            }
        });
    }));
    for _ in 0..4 {
        let there = std::thread::spawn(move || {
            let seen = fiber.0.resume(());
            (fiber, seen)
        });
        let (back, seen) = there.join().unwrap();
        assert_eq!(seen, CoroutineResult::Yield(Some(0x40)));
        fiber = back;
    }
    assert_eq!(fiber.0.resume(()), CoroutineResult::Return(()));
}

#[test]
fn ensure_keeps_the_current_tag_and_makes_a_new_one_where_there_is_none() {
    assert_eq!(tag::run(12, || tag::ensure(|tag| (tag, tag::current()))), (12, Some(12)));
    let threads: Vec<_> = (0..8)
        .map(|_| {
            std::thread::spawn(|| {
                (0..50)
                    .map(|_| {
                        tag::ensure(|outer| {
                            assert_eq!(tag::current(), Some(outer));
                            assert_eq!(tag::ensure(|inner| inner), outer);
                            outer
                        })
                    })
                    .collect::<Vec<_>>()
            })
        })
        .collect();
    let made: Vec<u64> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
    assert_eq!(made.iter().collect::<HashSet<_>>().len(), made.len(), "each is unique in the process");
}

#[test]
fn a_panic_passes_frames_with_something_to_drop_in_release_and_with_link_time_optimisation() {
    for profile in ["release", compile::LTO] {
        let output = compile::run(profile, "optimised");
        assert!(output.contains("panics: 11 frames"), "{profile}: {output}");
    }
}

#[test]
fn tags_survive_release_and_so_do_complete_backtraces_through_enter_on_main() {
    let output = compile::run("release", "optimised");
    assert!(output.contains("tags: 1240 numbers") && output.contains("enter on main"), "{output}");
}

#[test]
fn tags_survive_link_time_optimisation_of_the_whole_program() {
    let output = compile::run(compile::LTO, "optimised");
    assert!(output.contains("tags: 1240 numbers") && output.contains("enter on main"), "{output}");
}
