//! `stack_local!`: statics with one value for each stack.

mod common;

#[cfg(target_env = "gnu")]
use common::fiber::{Fiber, Pages};
use common::{Log, Loud, keep_panics, on_a_thread, panics_with};
use std::cell::{Cell, OnceCell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};

mod elsewhere {
    //! The declarations of another module.

    exeunt::stack_local! {
        pub static PUBLIC: std::cell::Cell<u8> = const { std::cell::Cell::new(3) };
        pub(crate) static CRATE: std::cell::Cell<u8> = std::cell::Cell::new(4)
    }
}

#[test]
fn an_initialiser_may_call_a_function_of_any_name() {
    fn init() -> Cell<u32> {
        Cell::new(7)
    }
    const fn make() -> Cell<u32> {
        Cell::new(8)
    }
    exeunt::stack_local! {
        static BY_INIT: Cell<u32> = init();
        static BY_CONST: Cell<u32> = const { make() };
    }
    on_a_thread(|| assert_eq!((BY_INIT.get(), BY_CONST.get()), (7, 8)));
}

#[test]
fn the_macro_accepts_the_syntax_of_thread_local() {
    exeunt::stack_local! {}
    exeunt::stack_local! {
        /// Documented.
        #[allow(dead_code)]
        static CONST: Cell<u32> = const { Cell::new(1) };
        static EXPRESSION: RefCell<Vec<u32>> = RefCell::new(vec![1, 2]);
        static CONST_WITH_STATEMENTS: Cell<usize> = const {
            let sum = 1 + 2;
            Cell::new(sum)
        };
    }
    exeunt::stack_local!(static ONE_LINE: OnceCell<String> = OnceCell::new());
    on_a_thread(|| {
        assert_eq!(CONST.get(), 1);
        assert_eq!(CONST_WITH_STATEMENTS.get(), 3);
        EXPRESSION.with_borrow(|list| assert_eq!(list[..], [1, 2]));
        assert_eq!(ONE_LINE.with(|once| once.get_or_init(|| "text".into()).clone()), "text");
        assert_eq!((elsewhere::PUBLIC.get(), elsewhere::CRATE.get()), (3, 4));
    });
}

#[test]
fn a_value_is_made_at_the_first_use_on_each_stack() {
    static MADE: AtomicUsize = AtomicUsize::new(0);
    exeunt::stack_local! {
        static NUMBER: usize = MADE.fetch_add(1, Ordering::Relaxed);
    }
    for expected in 0..3 {
        on_a_thread(move || {
            assert_eq!(MADE.load(Ordering::Relaxed), expected);
            for _ in 0..3 {
                assert_eq!(NUMBER.with(|number| *number), expected);
                assert_eq!(NUMBER.try_with(|number| *number), Ok(expected));
            }
        });
    }
}

#[test]
fn a_cell_can_be_got_set_taken_and_replaced() {
    exeunt::stack_local! { static CELL: Cell<u32> = const { Cell::new(5) }; }
    on_a_thread(|| {
        assert_eq!(CELL.get(), 5);
        CELL.set(6);
        assert_eq!(CELL.replace(7), 6);
        assert_eq!(CELL.take(), 7);
        assert_eq!(CELL.get(), 0);
    });
    on_a_thread(|| assert_eq!(CELL.replace(1), 5));
    on_a_thread(|| assert_eq!(CELL.take(), 5));
    on_a_thread(|| assert_eq!(CELL.with(Cell::get), 5));
}

#[test]
fn a_ref_cell_can_be_borrowed_set_taken_and_replaced() {
    exeunt::stack_local! { static LIST: RefCell<Vec<u32>> = RefCell::new(vec![1]); }
    on_a_thread(|| {
        assert_eq!(LIST.with_borrow(|list| list.len()), 1);
        assert_eq!(LIST.with_borrow_mut(|list| list.pop()), Some(1));
        LIST.set(vec![2, 3]);
        assert_eq!(LIST.replace(vec![4]), [2, 3]);
        assert_eq!(LIST.take(), [4]);
        assert!(LIST.with_borrow(Vec::is_empty));
    });
}

#[test]
fn borrowing_a_ref_cell_twice_panics_as_it_does_anywhere() {
    exeunt::stack_local! { static LIST: RefCell<Vec<u32>> = RefCell::new(vec![1]); }
    on_a_thread(|| {
        LIST.with_borrow(|_| assert_eq!(LIST.with_borrow(Vec::len), 1));
        LIST.with_borrow_mut(|_| {
            assert!(catch_unwind(|| LIST.with_borrow(|_| ())).is_err());
            assert!(catch_unwind(|| LIST.with_borrow_mut(|_| ())).is_err());
            assert!(catch_unwind(|| LIST.set(vec![])).is_err());
            assert!(catch_unwind(|| LIST.take()).is_err());
            assert!(catch_unwind(|| LIST.replace(vec![])).is_err());
        });
        assert_eq!(LIST.take(), [1]);
    });
}

#[test]
fn set_does_not_make_the_initial_value_first() {
    exeunt::stack_local! {
        static CELL: Cell<u32> = panic!("the initial value is not wanted");
        static LIST: RefCell<Vec<u32>> = panic!("the initial value is not wanted");
    }
    on_a_thread(|| {
        CELL.set(1);
        LIST.set(vec![2]);
        assert_eq!((CELL.get(), LIST.take()), (1, vec![2]));
    });
}

#[test]
fn values_are_dropped_last_made_first_when_the_stack_ends() {
    exeunt::stack_local! {
        static A: RefCell<Option<Loud>> = const { RefCell::new(None) };
        static B: Cell<Option<Loud>> = const { Cell::new(None) };
        static C: RefCell<Option<Loud>> = const { RefCell::new(None) };
    }
    let log = Log::new();
    let theirs = log.clone();
    on_a_thread(move || {
        B.set(Some(theirs.loud("b")));
        C.set(Some(theirs.loud("c")));
        A.set(Some(theirs.loud("a")));
        // The content is new, but the stack's value is the same.
        B.set(Some(theirs.loud("new b")));
        theirs.note("end");
    });
    assert_eq!(log.take(), ["drop b", "end", "drop a", "drop c", "drop new b"]);
}

/// Seventy stack locals: more than the 32 that have a place in the record itself, whichever ones a
/// test run numbers first.
macro_rules! seventy {
    ($($name:ident)*) => {
        exeunt::stack_local! { $(static $name: RefCell<Option<Loud>> = const { RefCell::new(None) };)* }
        static SEVENTY: [&exeunt::LocalKey<RefCell<Option<Loud>>>; 70] = [$(&$name),*];
    };
}
seventy! {
    L00 L01 L02 L03 L04 L05 L06 L07 L08 L09 L10 L11 L12 L13 L14 L15 L16 L17 L18 L19 L20 L21 L22 L23 L24 L25 L26 L27 L28 L29
    L30 L31 L32 L33 L34 L35 L36 L37 L38 L39 L40 L41 L42 L43 L44 L45 L46 L47 L48 L49 L50 L51 L52 L53 L54 L55 L56 L57 L58 L59
    L60 L61 L62 L63 L64 L65 L66 L67 L68 L69
}

#[test]
fn any_number_of_stack_locals_have_values_of_their_own_on_every_stack() {
    let log = Log::new();
    let threads: Vec<_> = (0..4)
        .map(|thread| {
            let theirs = if thread == 0 { log.clone() } else { Log::new() };
            std::thread::spawn(move || {
                for (number, local) in SEVENTY.iter().enumerate() {
                    assert!(local.with_borrow(Option::is_none));
                    local.set(Some(theirs.loud(format!("{thread}.{number}"))));
                }
                for (number, local) in SEVENTY.iter().enumerate() {
                    let name = local.with_borrow(|value| value.as_ref().unwrap().name.clone());
                    assert_eq!(name, format!("{thread}.{number}"));
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    let expected: Vec<_> = (0..70).rev().map(|number| format!("drop 0.{number}")).collect();
    assert_eq!(log.take(), expected);
}

#[test]
fn stack_locals_in_the_record_and_beyond_it_can_be_reset_and_unloaded() {
    on_a_thread(|| {
        let log = Log::new();
        for clear in [exeunt::reset, exeunt::unload] {
            for (number, local) in SEVENTY.iter().enumerate() {
                local.set(Some(log.loud(number.to_string())));
            }
            clear().unwrap();
            let expected: Vec<_> = (0..70).rev().map(|number| format!("drop {number}")).collect();
            assert_eq!(log.take(), expected);
            for local in SEVENTY {
                assert!(local.with_borrow(Option::is_none));
            }
        }
    });
}

#[test]
fn a_value_that_is_lent_while_it_is_reset_or_unloaded_stays_alive_but_cannot_be_read_again() {
    for (clear, local) in
        [exeunt::reset, exeunt::unload].into_iter().flat_map(|clear| SEVENTY.map(|local| (clear, local)))
    {
        let log = Log::new();
        let theirs = log.clone();
        on_a_thread(move || {
            local.set(Some(theirs.loud("lent")));
            exeunt::set("other", theirs.loud("other")).unwrap();
            local.with(|lent| {
                clear().unwrap();
                assert_eq!(lent.borrow().as_ref().unwrap().name, "lent");
                assert!(local.with_borrow(Option::is_none), "the stack has another value now");
                local.set(Some(theirs.loud("new")));
                assert_eq!(lent.borrow().as_ref().unwrap().name, "lent");
            });
            assert_eq!(local.with_borrow(|now| now.as_ref().unwrap().name.clone()), "new");
            theirs.note("end");
        });
        assert_eq!(log.take(), ["drop other", "end", "drop new", "drop lent"]);
    }
}

#[test]
fn a_value_that_is_not_lent_any_more_is_dropped_at_once() {
    exeunt::stack_local! { static LOCAL: RefCell<Option<Loud>> = const { RefCell::new(None) }; }
    let log = Log::new();
    let theirs = log.clone();
    on_a_thread(move || {
        for _ in 0..3 {
            LOCAL.set(Some(theirs.loud("value")));
            LOCAL.with(|value| LOCAL.with(|same| assert!(std::ptr::eq(value, same))));
            exeunt::reset().unwrap();
            theirs.note("reset is done");
        }
    });
    assert_eq!(log.take(), ["drop value", "reset is done"].repeat(3));
}

#[test]
fn a_value_that_is_lent_several_times_over_survives_resets_in_between() {
    exeunt::stack_local! { static LOCAL: Cell<u32> = const { Cell::new(0) }; }
    fn nest(depth: u32) {
        LOCAL.with(|value| {
            value.set(depth);
            if depth < 20 {
                exeunt::reset().unwrap();
                nest(depth + 1);
            }
            assert_eq!(value.get(), depth);
        });
    }
    on_a_thread(|| nest(0));
}

#[test]
fn after_unload_inside_a_with_the_stack_has_a_new_id_and_handlers_still_run() {
    exeunt::stack_local! { static LOCAL: RefCell<Option<Loud>> = const { RefCell::new(None) }; }
    let log = Log::new();
    let theirs = log.clone();
    on_a_thread(move || {
        LOCAL.set(Some(theirs.loud("lent")));
        exeunt::at_exit(theirs.noting("removed")).unwrap();
        let before = exeunt::id().unwrap();
        LOCAL.with(|_| exeunt::unload().unwrap());
        assert_ne!(exeunt::id().unwrap(), before);
        exeunt::at_exit(theirs.noting("handler")).unwrap();
    });
    assert_eq!(log.take(), ["handler", "drop lent"]);
}

#[test]
fn an_initialiser_and_a_destructor_cannot_use_their_own_stack_local() {
    struct Own(Log);
    impl Own {
        fn make() -> Self {
            let refused = OWN.try_with(|_| ()) == Err(exeunt::Error::RecursiveInit);
            let panicked = catch_unwind(|| OWN.with(|_| ())).is_err();
            let log: Log = exeunt::get(&"log").unwrap();
            log.note(format!("made: {refused} {panicked}"));
            Self(log)
        }
    }
    impl Drop for Own {
        fn drop(&mut self) {
            let refused = OWN.try_with(|_| ()) == Err(exeunt::Error::RecursiveInit);
            let panicked = catch_unwind(|| OWN.with(|_| ())).is_err();
            self.0.note(format!("dropped: {refused} {panicked}"));
        }
    }
    exeunt::stack_local! {
        static OWN: Own = Own::make();
    }
    let log = Log::new();
    let theirs = log.clone();
    on_a_thread(move || {
        exeunt::set("log", theirs.clone()).unwrap();
        OWN.with(|_| ());
        theirs.note("reset");
        exeunt::reset().unwrap();
        exeunt::set("log", theirs).unwrap();
        OWN.with(|_| ());
    });
    let (made, dropped) = ("made: true true", "dropped: true true");
    assert_eq!(log.take(), [made, "reset", dropped, made, dropped]);
}

#[test]
fn an_initialiser_that_panics_leaves_no_value_and_is_tried_again() {
    static TRIES: AtomicUsize = AtomicUsize::new(0);
    exeunt::stack_local! {
        static LOCAL: usize = {
            let tries = TRIES.fetch_add(1, Ordering::Relaxed);
            assert!(tries > 1, "not yet");
            tries
        };
    }
    on_a_thread(|| {
        assert!(catch_unwind(|| LOCAL.with(|_| ())).is_err());
        assert!(catch_unwind(|| LOCAL.try_with(|_| ())).is_err());
        assert_eq!(LOCAL.with(|value| *value), 2);
    });
}

#[test]
fn an_initialiser_may_use_other_stack_locals_and_values() {
    exeunt::stack_local! {
        static BASE: Cell<u32> = const { Cell::new(10) };
        static SUM: u32 = BASE.get() + exeunt::get::<u32>(&"more").unwrap_or(0);
    }
    on_a_thread(|| {
        exeunt::set("more", 5_u32).unwrap();
        assert_eq!(SUM.with(|sum| *sum), 15);
    });
}

#[test]
fn an_initialiser_may_reset_and_unload_and_set() {
    exeunt::stack_local! {
        static RESETS: u32 = {
            exeunt::set("early", 1).unwrap();
            exeunt::reset().unwrap();
            exeunt::set("late", 2).unwrap();
            3
        };
        static UNLOADS: u32 = {
            exeunt::unload().unwrap();
            exeunt::set("after unload", 4).unwrap();
            5
        };
    }
    on_a_thread(|| {
        assert_eq!(RESETS.with(|value| *value), 3);
        assert_eq!((exeunt::get::<i32>(&"early"), exeunt::get(&"late")), (None, Some(2)));
        assert_eq!(UNLOADS.with(|value| *value), 5);
        assert_eq!((exeunt::get::<i32>(&"late"), exeunt::get(&"after unload")), (None, Some(4)));
        assert_eq!(UNLOADS.try_with(|value| *value), Ok(5));
        assert_eq!(RESETS.with(|value| *value), 3);
    });
}

#[test]
fn a_stack_that_gets_the_record_which_an_initialiser_has_unloaded_keeps_its_own_values() {
    common::process::alone(
        "a_stack_that_gets_the_record_which_an_initialiser_has_unloaded_keeps_its_own_values",
        || {
            exeunt::stack_local! {
                static LOCAL: usize = {
                    if OUTER.load(Ordering::Relaxed) {
                        OUTER.store(false, Ordering::Relaxed);
                        exeunt::unload().unwrap();
                        // This thread gets the record that was just released, and makes the same
                        // stack local.
                        on_a_thread(|| assert_eq!(LOCAL.try_with(|value| *value), Ok(7)));
                    }
                    7
                };
            }
            static OUTER: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(true);
            on_a_thread(|| assert_eq!(LOCAL.try_with(|value| *value), Ok(7)));
            on_a_thread(|| assert_eq!(LOCAL.try_with(|value| *value), Ok(7)));
        },
    );
}

#[test]
fn a_stack_that_gets_the_record_which_a_destructor_has_unloaded_keeps_its_own_values() {
    common::process::alone("a_stack_that_gets_the_record_which_a_destructor_has_unloaded_keeps_its_own_values", || {
        struct Unloads(bool);
        impl Drop for Unloads {
            fn drop(&mut self) {
                if self.0 {
                    exeunt::unload().unwrap();
                    on_a_thread(|| assert_eq!(LOCAL.try_with(|_| 7), Ok(7)));
                }
            }
        }
        exeunt::stack_local! { static LOCAL: RefCell<Unloads> = const { RefCell::new(Unloads(false)) }; }
        on_a_thread(|| {
            LOCAL.set(Unloads(true));
            exeunt::reset().unwrap();
            assert_eq!(LOCAL.try_with(|_| 7), Ok(7));
        });
        on_a_thread(|| assert_eq!(LOCAL.try_with(|_| 7), Ok(7)));
        assert_eq!(exeunt::survey().unwrap().armed, 0);
    });
}

#[test]
fn a_value_that_a_destructor_makes_again_is_dropped_as_well() {
    struct Uses(Log);
    impl Drop for Uses {
        fn drop(&mut self) {
            self.0.note("destructor");
            // It was made later than this one, so it has been dropped already. Now it is made
            // again.
            LATER.with_borrow_mut(|later| *later = Some(self.0.loud("made by a destructor")));
        }
    }
    exeunt::stack_local! {
        static USER: RefCell<Option<Uses>> = const { RefCell::new(None) };
        static LATER: RefCell<Option<Loud>> = const { RefCell::new(None) };
    }
    let log = Log::new();
    let theirs = log.clone();
    on_a_thread(move || {
        USER.set(Some(Uses(theirs.clone())));
        LATER.set(Some(theirs.loud("made by the thread")));
    });
    assert_eq!(log.take(), ["drop made by the thread", "destructor", "drop made by a destructor"]);
}

#[test]
fn a_destructor_that_panics_is_reported_and_the_others_still_run() {
    struct Panics;
    impl Drop for Panics {
        fn drop(&mut self) {
            panic!("in a destructor of locals.rs");
        }
    }
    exeunt::stack_local! {
        static FIRST: RefCell<Option<Loud>> = const { RefCell::new(None) };
        static SECOND: Panics = const { Panics };
        static THIRD: RefCell<Option<Loud>> = const { RefCell::new(None) };
    }
    keep_panics();
    let log = Log::new();
    let theirs = log.clone();
    on_a_thread(move || {
        FIRST.set(Some(theirs.loud("first")));
        SECOND.with(|_| ());
        THIRD.set(Some(theirs.loud("third")));
    });
    assert_eq!(log.take(), ["drop third", "drop first"]);
    assert_eq!(panics_with("in a destructor of locals.rs"), 1);
}

#[test]
fn a_panic_out_of_with_leaves_the_value_in_place() {
    exeunt::stack_local! { static LOCAL: RefCell<Option<Loud>> = const { RefCell::new(None) }; }
    let log = Log::new();
    let theirs = log.clone();
    on_a_thread(move || {
        LOCAL.set(Some(theirs.loud("value")));
        let panics = AssertUnwindSafe(|| LOCAL.with(|_| panic!("out of with")));
        assert!(catch_unwind(panics).is_err());
        assert!(LOCAL.with_borrow(Option::is_some));
        theirs.note("end");
    });
    assert_eq!(log.take(), ["end", "drop value"]);
}

#[test]
fn values_of_any_size_and_alignment_are_stored_aligned() {
    #[repr(align(256))]
    struct Aligned(u8);
    exeunt::stack_local! {
        static NOTHING: () = ();
        static ALIGNED: Aligned = Aligned(9);
        static LARGE: [u64; 2000] = [5; 2000];
    }
    on_a_thread(|| {
        NOTHING.with(|()| ());
        NOTHING.with(|()| exeunt::reset().unwrap());
        ALIGNED.with(|value| assert_eq!((value.0, (&raw const *value).addr() % 256), (9, 0)));
        LARGE.with(|value| assert_eq!(value.iter().sum::<u64>(), 10_000));
    });
}

exeunt::stack_local! { static DEPTH: Cell<usize> = const { Cell::new(0) }; }

/// Reads at every depth from here inwards, on the way in and on the way out.
#[inline(never)]
fn read_at_every_depth(depth: usize, deepest: usize) {
    let room = [depth; 100];
    assert_eq!(DEPTH.get(), depth);
    assert_eq!(exeunt::get::<&str>(&"key"), Some("here"));
    if depth < deepest {
        DEPTH.set(depth + 1);
        read_at_every_depth(depth + 1, deepest);
        DEPTH.set(depth);
    }
    assert_eq!(DEPTH.get(), depth);
    assert_eq!(std::hint::black_box(&room)[depth % 100], depth);
}

#[test]
fn a_deep_recursion_reads_its_value_at_every_depth() {
    let thread = std::thread::Builder::new().stack_size(64 << 20).spawn(|| {
        exeunt::set("key", "here").unwrap();
        for deepest in [10, 5_000, 5, 100] {
            read_at_every_depth(0, deepest);
        }
    });
    thread.unwrap().join().unwrap();
}

#[cfg(target_env = "gnu")]
#[test]
fn a_deep_recursion_on_a_fiber_reads_its_value_at_every_depth() {
    let pages = Pages::new(32 << 20);
    // SAFETY: the pages are this fiber's, and it runs to its end.
    let fiber = unsafe {
        Fiber::new(pages.range(), |fiber| {
            exeunt::set("key", "here").unwrap();
            for deepest in [10, 5_000, 5, 100] {
                fiber.suspend();
                read_at_every_depth(0, deepest);
            }
        })
    };
    fiber.finish();
}

#[test]
fn the_first_use_may_be_in_a_deep_frame() {
    #[inline(never)]
    fn arm_at(depth: usize) {
        let room = [depth; 64];
        match depth {
            0 => DEPTH.set(77),
            _ => arm_at(depth - 1),
        }
        assert_eq!(DEPTH.get(), 77);
        std::hint::black_box(&room);
    }
    on_a_thread(|| {
        arm_at(500);
        assert_eq!(DEPTH.get(), 77);
    });
}

#[test]
fn debug_of_a_key_does_not_arm() {
    on_a_thread(|| {
        assert!(format!("{DEPTH:?}").contains("LocalKey"));
        assert!(!exeunt::Stack::current().is_armed());
    });
}

#[cfg(target_env = "gnu")]
#[test]
fn a_handler_of_an_abandoned_fiber_reads_the_new_one_s_values_wherever_it_is_called() {
    exeunt::stack_local! { static WHOSE: Cell<&'static str> = const { Cell::new("default") }; }

    /// Calls itself, reads in each frame within `places`, and calls `at_the_end` below them. Frames
    /// of different sizes make it read at different addresses.
    #[inline(never)]
    fn read_on_the_way<const ROOM: usize>(
        places: &std::ops::Range<usize>,
        seen: &mut Vec<&'static str>,
        at_the_end: &mut dyn FnMut(),
    ) {
        let room = std::hint::black_box([0_u64; ROOM]);
        if places.contains(&here()) {
            seen.push(WHOSE.get());
        }
        if here() >= places.start {
            read_on_the_way::<ROOM>(places, seen, at_the_end);
        } else {
            at_the_end();
        }
        std::hint::black_box((seen, room));
    }

    #[inline(never)]
    fn here() -> usize {
        let local = 0_u8;
        std::hint::black_box(&raw const local).addr()
    }

    let pages = Pages::new(256 << 10);
    let range = pages.range();
    // Few enough that exeunt remembers all of the walks, and in reach of the handler, whose frames
    // are inside those of the code that arms the new one.
    let places = range.end - (33 << 10)..range.end - (32 << 10);
    // SAFETY: the pages are this fiber's, which is not resumed.
    unsafe {
        Fiber::new(range.clone(), move |fiber| {
            WHOSE.set("the old one's");
            let theirs = places.clone();
            exeunt::at_exit(move || {
                let mut seen = Vec::new();
                let descents = [
                    read_on_the_way::<1>,
                    read_on_the_way::<2>,
                    read_on_the_way::<3>,
                    read_on_the_way::<5>,
                    read_on_the_way::<9>,
                    read_on_the_way::<12>,
                    read_on_the_way::<17>,
                ];
                for look in descents {
                    look(&theirs, &mut seen, &mut || ());
                }
                seen.dedup();
                assert_eq!(seen, ["default"], "the new one has set none yet");
                WHOSE.set("the new one's");
            })
            .unwrap();
            read_on_the_way::<1>(&places, &mut Vec::new(), &mut || fiber.suspend());
            unreachable!("it is abandoned");
        })
    }
    .abandon();
    // SAFETY: the old one is not resumed.
    let new = unsafe {
        Fiber::new(range, |_| {
            exeunt::at_exit(|| ()).unwrap();
            assert_eq!(WHOSE.get(), "the new one's");
        })
    };
    new.finish();
}
