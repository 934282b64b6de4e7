//! Keyed values: set, get, with, del, reset, unload, id.

mod common;

use common::{Log, OnDrop, keep_panics, on_a_thread, panics_with, process, scaled};
use std::any::Any;
use std::cell::Cell;
use std::collections::HashMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::rc::Rc;
use std::sync::mpsc::channel;
use std::thread::JoinHandle;

/// A value whose destructor is a closure, its type erased.
struct Destructor(#[allow(dead_code)] Box<dyn Any>);

impl Destructor {
    fn new(code: impl FnMut() + 'static) -> Self {
        Self(Box::new(OnDrop(code)))
    }
}

#[test]
fn a_value_is_there_from_set_to_del() {
    on_a_thread(|| {
        assert_eq!(exeunt::get::<u32>(&"key"), None);
        exeunt::set("key", 1_u32).unwrap();
        assert_eq!(exeunt::get::<u32>(&"key"), Some(1));
        exeunt::set("key", 2_u32).unwrap();
        assert_eq!(exeunt::get::<u32>(&"key"), Some(2));
        assert!(exeunt::del(&"key").unwrap());
        assert_eq!(exeunt::get::<u32>(&"key"), None);
        assert!(!exeunt::del(&"key").unwrap());
    });
}

#[test]
fn get_does_not_return_a_value_of_another_type() {
    on_a_thread(|| {
        exeunt::set("key", 1_u32).unwrap();
        assert_eq!(exeunt::get::<i32>(&"key"), None);
        assert_eq!(exeunt::get::<u32>(&"key"), Some(1));
        exeunt::with(&"key", |value: Option<&String>| assert!(value.is_none()));
    });
}

#[test]
fn keys_of_distinct_types_never_clash() {
    #[derive(PartialEq, Eq, Hash, Clone)]
    struct Mine(u32);
    #[derive(PartialEq, Eq, Hash, Clone)]
    struct Yours(u32);
    on_a_thread(|| {
        exeunt::set(1_u8, "u8").unwrap();
        exeunt::set(1_u32, "u32").unwrap();
        exeunt::set(1_i32, "i32").unwrap();
        exeunt::set(1_u64, "u64").unwrap();
        exeunt::set((1_u32,), "tuple").unwrap();
        exeunt::set(Mine(1), "Mine").unwrap();
        exeunt::set(Yours(1), "Yours").unwrap();
        exeunt::set("1", "&str").unwrap();
        exeunt::set(String::from("1"), "String").unwrap();
        exeunt::set((), "unit").unwrap();
        let text = |key: Option<&'static str>| key.unwrap_or("none");
        assert_eq!(text(exeunt::get(&1_u8)), "u8");
        assert_eq!(text(exeunt::get(&1_u32)), "u32");
        assert_eq!(text(exeunt::get(&1_i32)), "i32");
        assert_eq!(text(exeunt::get(&1_u64)), "u64");
        assert_eq!(text(exeunt::get(&(1_u32,))), "tuple");
        assert_eq!(text(exeunt::get(&Mine(1))), "Mine");
        assert_eq!(text(exeunt::get(&Yours(1))), "Yours");
        assert_eq!(text(exeunt::get(&"1")), "&str");
        assert_eq!(text(exeunt::get(&String::from("1"))), "String");
        assert_eq!(text(exeunt::get(&())), "unit");
        assert!(exeunt::del(&Mine(1)).unwrap());
        assert_eq!(text(exeunt::get(&Yours(1))), "Yours");
    });
}

#[test]
fn keys_of_one_hash_are_told_apart_by_eq() {
    #[derive(PartialEq, Eq)]
    struct Same(u32);
    impl Hash for Same {
        fn hash<H: Hasher>(&self, state: &mut H) {
            0_u8.hash(state);
        }
    }
    on_a_thread(|| {
        for number in 0..50 {
            exeunt::set(Same(number), number).unwrap();
        }
        for number in (0..50).step_by(2) {
            assert!(exeunt::del(&Same(number)).unwrap());
        }
        for number in 0..50 {
            assert_eq!(exeunt::get::<u32>(&Same(number)), (number % 2 == 1).then_some(number));
        }
    });
}

#[test]
fn values_need_be_neither_send_nor_clone() {
    struct NoClone(Rc<u32>);
    on_a_thread(|| {
        exeunt::set("rc", Rc::new(5)).unwrap();
        exeunt::set("no clone", NoClone(Rc::new(6))).unwrap();
        exeunt::set("closure", Box::new(|x: u32| x + 1) as Box<dyn Fn(u32) -> u32>).unwrap();
        exeunt::set("nothing", ()).unwrap();
        exeunt::set("large", [7_u8; 4096]).unwrap();
        assert_eq!(exeunt::get::<Rc<i32>>(&"rc").as_deref(), Some(&5));
        exeunt::with(&"no clone", |value: Option<&NoClone>| assert_eq!(*value.unwrap().0, 6));
        exeunt::with(&"closure", |f: Option<&Box<dyn Fn(u32) -> u32>>| assert_eq!(f.unwrap()(1), 2));
        assert_eq!(exeunt::get::<()>(&"nothing"), Some(()));
        exeunt::with(&"large", |value: Option<&[u8; 4096]>| assert_eq!(value.unwrap()[4095], 7));
    });
}

#[test]
fn a_replaced_value_is_dropped_when_the_new_one_is_in_place() {
    let log = Log::new();
    let theirs = log.clone();
    on_a_thread(move || {
        let log = theirs.clone();
        let old = Destructor::new(move || log.note(format!("old goes, there is {:?}", exeunt::get::<u8>(&"key"))));
        exeunt::set("key", old).unwrap();
        exeunt::set("key", 2_u8).unwrap();
        theirs.note("set is done");
    });
    assert_eq!(log.take(), ["old goes, there is Some(2)", "set is done"]);
}

#[test]
fn a_replaced_value_of_the_same_type_is_dropped_when_the_new_one_is_in_place() {
    let log = Log::new();
    let theirs = log.clone();
    on_a_thread(move || {
        let log = theirs.clone();
        let value = move |name: &'static str| {
            let log = log.clone();
            let number = name.len();
            let goes = move || {
                let now = exeunt::with(&"key", |now: Option<&(Destructor, usize)>| now.map(|now| now.1));
                log.note(format!("{name} goes, there is {now:?}"));
            };
            (Destructor::new(goes), number)
        };
        for name in ["a", "bc", "def"] {
            exeunt::set("key", value(name)).unwrap();
            theirs.note("set is done");
        }
    });
    let there = ["a goes, there is Some(2)", "set is done", "bc goes, there is Some(3)", "set is done"];
    assert_eq!(log.take(), [&["set is done"], &there[..], &["def goes, there is None"]].concat());
}

#[test]
fn a_replaced_value_may_panic_unload_and_set_its_key_again_when_it_is_dropped() {
    let log = Log::new();
    let theirs = log.clone();
    on_a_thread(move || {
        let set = |goes: fn()| exeunt::set("key", Destructor::new(goes));
        set(|| panic!("as asked")).unwrap();
        let log = theirs.clone();
        let key = std::panic::catch_unwind(|| set(|| exeunt::unload().unwrap()));
        log.note(format!(
            "panicked {}, is there {}",
            key.is_err(),
            exeunt::with("key", |now: Option<&Destructor>| now.is_some())
        ));
        set(|| ()).unwrap();
        log.note(format!("unloaded {}", exeunt::with("key", |now: Option<&Destructor>| now.is_none())));
        set(|| exeunt::set("key", 7).unwrap()).unwrap();
        set(|| ()).unwrap();
        log.note(format!("{:?}", exeunt::get::<i32>("key")));
    });
    assert_eq!(log.take(), ["panicked true, is there true", "unloaded true", "Some(7)"]);
}

#[test]
fn values_that_are_set_again_in_any_order_are_dropped_last_set_first() {
    let log = Log::new();
    let theirs = log.clone();
    on_a_thread(move || {
        for round in 0..40 {
            for key in [0, 1, 2, 3] {
                exeunt::set((key * round) % 5, theirs.loud(format!("{} {round} {key}", (key * round) % 5))).unwrap();
            }
        }
        theirs.take();
    });
    // The last round, 39, sets 0, 4, 3, 2. The one before, 38, sets 1.
    assert_eq!(log.take(), ["drop 2 39 3", "drop 3 39 2", "drop 4 39 1", "drop 0 39 0", "drop 1 38 2"]);
}

#[test]
fn setting_a_key_again_makes_its_value_the_last_one() {
    let log = Log::new();
    let theirs = log.clone();
    on_a_thread(move || {
        for name in ["a", "b", "c"] {
            exeunt::set(name, theirs.loud(name)).unwrap();
        }
        exeunt::set("a", theirs.loud("new a")).unwrap();
        theirs.note("end");
    });
    assert_eq!(log.take(), ["drop a", "end", "drop new a", "drop c", "drop b"]);
}

#[test]
fn with_lends_the_value_while_the_same_key_is_set_deleted_reset_or_unloaded() {
    type Change = (&'static str, fn(&Log));
    let changes: [Change; 4] = [
        ("set", |log| exeunt::set("key", log.loud("new")).unwrap()),
        ("del", |_| assert!(exeunt::del(&"key").unwrap())),
        ("reset", |_| exeunt::reset().unwrap()),
        ("unload", |_| exeunt::unload().unwrap()),
    ];
    for (name, change) in changes {
        let log = Log::new();
        let theirs = log.clone();
        on_a_thread(move || {
            exeunt::set("key", theirs.loud("old")).unwrap();
            exeunt::with(&"key", |outer: Option<&common::Loud>| {
                exeunt::with(&"key", |inner: Option<&common::Loud>| {
                    change(&theirs);
                    theirs.note(format!("{} {}", outer.unwrap().name, inner.unwrap().name));
                    exeunt::with(&"key", |now: Option<&common::Loud>| {
                        theirs.note(now.map_or("none", |now| &now.name));
                    });
                });
                theirs.note("inner is done");
            });
            theirs.note("outer is done");
        });
        let now = if name == "set" { "new" } else { "none" };
        let mut expected = vec!["old old", now, "inner is done", "drop old", "outer is done"];
        if name == "set" {
            expected.push("drop new");
        }
        assert_eq!(log.take(), expected, "{name}");
    }
}

#[test]
fn with_returns_its_closure_s_result_and_a_panic_in_it_leaves_the_storage_usable() {
    on_a_thread(|| {
        exeunt::set("key", 3).unwrap();
        assert_eq!(exeunt::with(&"key", |value: Option<&i32>| value.map(|value| value * 2)), Some(6));
        let caught = std::panic::catch_unwind(|| exeunt::with(&"key", |_: Option<&i32>| panic!("in with")));
        assert!(caught.is_err());
        exeunt::set("key", 4).unwrap();
        assert_eq!(exeunt::get::<i32>(&"key"), Some(4));
    });
}

#[test]
fn a_change_from_inside_a_keys_eq_is_refused_and_changes_nothing() {
    exeunt::stack_local! {
        static OLD: std::cell::Cell<i32> = const { std::cell::Cell::new(0) };
        static NEW: u8 = unreachable!("no initializer runs where its value cannot be stored");
    }
    thread_local! {
        static SLOT: exeunt::Slot<u64> = exeunt::Slot::new().unwrap();
    }
    struct Meddler {
        number: u8,
        log: Log,
    }
    impl Hash for Meddler {
        fn hash<H: Hasher>(&self, state: &mut H) {
            self.number.hash(state);
        }
    }
    impl PartialEq for Meddler {
        fn eq(&self, other: &Self) -> bool {
            let busy = exeunt::Error::Busy;
            assert_eq!(exeunt::set("meddled", 1).unwrap_err(), busy);
            assert_eq!(exeunt::set_inheritable("meddled", 1).unwrap_err(), busy);
            assert_eq!(exeunt::del(&"kept").unwrap_err(), busy);
            assert_eq!(exeunt::reset().unwrap_err(), busy);
            assert_eq!(exeunt::unload().unwrap_err(), busy);
            assert_eq!(NEW.try_with(|_| ()).unwrap_err(), busy);
            // Reads see what is there, and slots and handlers are not values under keys.
            assert_eq!(exeunt::get::<i32>(&"kept"), Some(7));
            assert_eq!(OLD.with(std::cell::Cell::get), 3);
            SLOT.with(|slot| slot.set(exeunt::id().unwrap().get())).unwrap();
            self.log.note(exeunt::id().unwrap().to_string());
            self.number == other.number
        }
    }
    impl Eq for Meddler {}
    let log = Log::new();
    let theirs = log.clone();
    on_a_thread(move || {
        let key = |number| Meddler { number, log: theirs.clone() };
        OLD.set(3);
        exeunt::set("kept", 7).unwrap();
        exeunt::set(key(1), "one").unwrap();
        let id = exeunt::id().unwrap();
        assert_eq!(exeunt::get(&key(1)), Some("one"));
        exeunt::set(key(1), "uno").unwrap();
        assert_eq!(exeunt::id(), Ok(id));
        assert_eq!(exeunt::get::<i32>(&"meddled"), None);
        assert_eq!(exeunt::get(&key(1)), Some("uno"));
        assert_eq!(exeunt::get(&"kept"), Some(7));
    });
    let lines = log.take();
    assert!(lines.len() >= 3, "{lines:?}");
    assert!(lines.iter().all(|line| line == &lines[0]), "{lines:?}");
}

#[test]
fn a_panic_in_a_keys_eq_or_hash_leaves_the_storage_usable() {
    #[derive(Clone, Copy)]
    struct Panics(bool, bool);
    impl Hash for Panics {
        fn hash<H: Hasher>(&self, state: &mut H) {
            assert!(!self.0, "in hash");
            0_u8.hash(state);
        }
    }
    impl PartialEq for Panics {
        fn eq(&self, other: &Self) -> bool {
            assert!(!self.1 && !other.1, "in eq");
            true
        }
    }
    impl Eq for Panics {}
    let log = Log::new();
    let theirs = log.clone();
    on_a_thread(move || {
        exeunt::at_exit(theirs.noting("handler")).unwrap();
        exeunt::set(Panics(false, false), 1).unwrap();
        exeunt::set("loud", theirs.loud("value")).unwrap();
        for key in [Panics(true, false), Panics(false, true)] {
            assert!(std::panic::catch_unwind(|| exeunt::get::<i32>(&key)).is_err());
            assert!(std::panic::catch_unwind(|| exeunt::set(key, 2)).is_err());
            assert!(std::panic::catch_unwind(|| exeunt::del(&key)).is_err());
        }
    });
    let lines = log.take();
    assert_eq!(lines, ["handler", "drop value"]);
}

#[test]
fn an_id_is_unique_never_zero_and_stays_until_the_end() {
    let ids: Vec<_> = (0..scaled(500, 50))
        .map(|_| {
            on_a_thread(|| {
                let id = exeunt::id().unwrap();
                assert_ne!(id.get(), 0);
                exeunt::set("k", 1).unwrap();
                exeunt::reset().unwrap();
                assert_eq!(exeunt::id(), Ok(id));
                exeunt::at_exit(move || assert_eq!(exeunt::id(), Ok(id))).unwrap();
                exeunt::unload().unwrap();
                let next = exeunt::id().unwrap();
                assert_eq!(exeunt::Stack::current().id(), Some(next));
                [id, next]
            })
        })
        .collect();
    let mut all: Vec<_> = ids.into_iter().flatten().collect();
    let count = all.len();
    all.sort();
    all.dedup();
    assert_eq!(all.len(), count);
}

#[test]
fn ids_of_stacks_that_take_thousands_at_once_never_repeat() {
    let lives = scaled(5000, 1500);
    let together = std::sync::Arc::new(std::sync::Barrier::new(4));
    let takers: Vec<_> = (0..4)
        .map(|_| {
            let together = together.clone();
            std::thread::spawn(move || {
                let mut taken = Vec::with_capacity(lives);
                together.wait();
                for _ in 0..lives {
                    taken.push(exeunt::id().unwrap());
                    exeunt::unload().unwrap();
                }
                taken
            })
        })
        .collect();
    let mut all: Vec<_> = takers.into_iter().flat_map(|taker| taker.join().unwrap()).collect();
    all.sort();
    all.dedup();
    assert_eq!(all.len(), 4 * lives);
}

#[test]
fn the_handler_and_its_stack_agree_about_the_id() {
    let (sender, receiver) = std::sync::mpsc::channel();
    let id = on_a_thread(move || {
        exeunt::at_exit(move || sender.send(exeunt::id().unwrap()).unwrap()).unwrap();
        exeunt::id().unwrap()
    });
    assert_eq!(receiver.recv(), Ok(id));
}

#[test]
fn reset_drops_the_values_last_set_first_and_keeps_the_handlers() {
    let log = Log::new();
    let theirs = log.clone();
    on_a_thread(move || {
        exeunt::at_exit(theirs.noting("handler")).unwrap();
        for name in ["a", "b", "c"] {
            exeunt::set(name, theirs.loud(name)).unwrap();
        }
        exeunt::reset().unwrap();
        theirs.note("reset is done");
        assert!(exeunt::Stack::current().is_armed());
        exeunt::with(&"a", |value: Option<&common::Loud>| assert!(value.is_none()));
        exeunt::set("a", theirs.loud("new a")).unwrap();
    });
    assert_eq!(log.take(), ["drop c", "drop b", "drop a", "reset is done", "handler", "drop new a"]);
}

#[test]
fn a_destructor_that_panics_in_reset_is_reported_and_the_others_still_run() {
    struct Panics;
    impl Drop for Panics {
        fn drop(&mut self) {
            panic!("in a destructor of values.rs");
        }
    }
    keep_panics();
    let log = Log::new();
    let theirs = log.clone();
    on_a_thread(move || {
        exeunt::set("a", theirs.loud("a")).unwrap();
        exeunt::set("b", Panics).unwrap();
        exeunt::set("c", theirs.loud("c")).unwrap();
        exeunt::reset().unwrap();
        theirs.note("reset is done");
    });
    assert_eq!(log.take(), ["drop c", "drop a", "reset is done"]);
    assert_eq!(panics_with("in a destructor of values.rs"), 1);
}

#[test]
fn panics_in_destructors_of_removed_handlers_and_of_keys_are_reported_and_the_others_still_run() {
    #[derive(PartialEq, Eq, Hash)]
    struct Panics(u8);
    impl Drop for Panics {
        fn drop(&mut self) {
            panic!("in another destructor of values.rs");
        }
    }
    // Two panics at a time would abort the process.
    process::alone(
        "panics_in_destructors_of_removed_handlers_and_of_keys_are_reported_and_the_others_still_run",
        || {
            let log = Log::new();
            let theirs = log.clone();
            on_a_thread(move || {
                for number in 0..2 {
                    let held = (Panics(number), theirs.loud("held by a handler"));
                    exeunt::at_exit(move || drop(held)).unwrap();
                    exeunt::set(Panics(number), Panics(number)).unwrap();
                }
                exeunt::set("value", theirs.loud("value")).unwrap();
                exeunt::unload().unwrap();
                theirs.note("unload is done");
            });
            assert_eq!(
                log.take(),
                ["drop held by a handler", "drop held by a handler", "drop value", "unload is done"]
            );
        },
    );
}

#[test]
fn destructors_of_keys_may_use_storage_even_those_of_inheritable_values() {
    #[derive(Clone, PartialEq, Eq, Hash)]
    struct Key(u8);
    impl Drop for Key {
        fn drop(&mut self) {
            let log: Log = exeunt::get(&"log").unwrap();
            log.note(format!("{:?} {:?}", exeunt::get::<i32>(&"other"), exeunt::set("set in a key's destructor", 1)));
        }
    }
    type Set = fn(Key) -> Result<(), exeunt::Error>;
    for set in [(|key| exeunt::set(key, 1)) as Set, (|key| exeunt::set_inheritable(key, 1)) as Set] {
        let log = Log::new();
        let theirs = log.clone();
        on_a_thread(move || {
            exeunt::set("log", theirs.clone()).unwrap();
            exeunt::set("other", 42).unwrap();
            let drop_key = || drop(Key(1));
            drop_key();
            set(Key(1)).unwrap();
            theirs.note("del");
            exeunt::del(&Key(1)).unwrap();
        });
        let lines = log.take();
        assert!(lines.len() >= 3 && lines.iter().all(|line| line == "Some(42) Ok(())" || line == "del"), "{lines:?}");
    }
}

#[test]
fn unload_puts_the_stack_back_as_it_was_and_it_can_be_armed_again() {
    let log = Log::new();
    let theirs = log.clone();
    on_a_thread(move || {
        let bare = exeunt::Stack::current().foot().unwrap().clone();
        let word = || {
            // SAFETY: a word of this thread's stack.
            unsafe { (bare.address as *const usize).read_volatile() }
        };
        for round in 0..10 {
            let held = theirs.loud(format!("held by handler {round}"));
            exeunt::at_exit(move || unreachable!("{} is not called", held.name)).unwrap();
            exeunt::set("value", theirs.loud(format!("value {round}"))).unwrap();
            assert_eq!(word() != bare.word, !common::is_code());
            exeunt::unload().unwrap();
            assert_eq!(theirs.take(), [format!("drop held by handler {round}"), format!("drop value {round}")]);
            assert_eq!(word(), bare.word);
            let stack = exeunt::Stack::current();
            assert!(!stack.is_armed());
            assert_eq!(stack.foot(), Some(&bare));
            exeunt::with(&"value", |value: Option<&common::Loud>| assert!(value.is_none()));
        }
        exeunt::at_exit(theirs.noting("handler")).unwrap();
    });
    assert_eq!(log.take(), ["handler"]);
}

#[test]
fn a_thread_that_has_unloaded_ends_as_one_that_never_armed() {
    let log = Log::new();
    let theirs = log.clone();
    let result = on_a_thread(move || {
        exeunt::at_exit(theirs.noting("removed")).unwrap();
        exeunt::unload().unwrap();
        exeunt::unload().unwrap();
        12
    });
    assert_eq!((result, log.take().len()), (12, 0));
}

/// Stacks armed after a test that could have given a record back twice: each must have one of its
/// own.
fn records_are_not_shared() {
    let threads: Vec<_> = (0..8_usize)
        .map(|thread| {
            std::thread::spawn(move || {
                exeunt::set("mine", thread).unwrap();
                for _ in 0..50 {
                    std::thread::yield_now();
                    assert_eq!(exeunt::get(&"mine"), Some(thread));
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
}

#[test]
fn a_destructor_may_unload_while_an_unload_or_reset_is_under_way() {
    common::process::alone("a_destructor_may_unload_while_an_unload_or_reset_is_under_way", || {
        for outer in [exeunt::unload, exeunt::reset] {
            let log = Log::new();
            let theirs = log.clone();
            on_a_thread(move || {
                exeunt::set("first", theirs.loud("first")).unwrap();
                exeunt::set("unloads", Destructor::new(|| exeunt::unload().unwrap())).unwrap();
                outer().unwrap();
                theirs.note("done");
                records_are_not_shared();
                exeunt::set("again", theirs.loud("again")).unwrap();
                records_are_not_shared();
            });
            assert_eq!(log.take(), ["drop first", "done", "drop again"]);
            records_are_not_shared();
        }
        assert_eq!(exeunt::survey().unwrap().armed, 0);
    });
}

#[test]
fn a_destructor_may_arm_the_stack_again_while_an_unload_is_under_way() {
    common::process::alone("a_destructor_may_arm_the_stack_again_while_an_unload_is_under_way", || {
        let log = Log::new();
        let theirs = log.clone();
        on_a_thread(move || {
            let log = theirs.clone();
            let destructor = Destructor::new(move || {
                exeunt::unload().unwrap();
                exeunt::set("new", log.loud("new")).unwrap();
                exeunt::at_exit(log.noting("new handler")).unwrap();
            });
            exeunt::set("old", destructor).unwrap();
            exeunt::unload().unwrap();
            theirs.note("unload is done");
        });
        // The inner unload ended a generation of the stack. What came later belongs to the next
        // one, which the outer unload does not touch.
        assert_eq!(log.take(), ["unload is done", "new handler", "drop new"]);
        records_are_not_shared();
        assert_eq!(exeunt::survey().unwrap().armed, 0);
    });
}

#[test]
fn what_a_destructor_stores_while_an_unload_is_under_way_is_kept_to_the_end() {
    let log = Log::new();
    let theirs = log.clone();
    on_a_thread(move || {
        let before = exeunt::id().unwrap();
        let log = theirs.clone();
        let destructor = Destructor::new(move || exeunt::set("new", log.loud("new")).unwrap());
        exeunt::set("old", destructor).unwrap();
        exeunt::unload().unwrap();
        theirs.note("unload is done");
        assert_ne!(exeunt::id().unwrap(), before);
    });
    assert_eq!(log.take(), ["unload is done", "drop new"]);
}

#[test]
fn thousands_of_keys_behave_as_a_hash_map_does() {
    on_a_thread(|| {
        let mut model: HashMap<u64, u64> = HashMap::new();
        let mut random = 0x2545_f491_4f6c_dd1d_u64;
        let mut next = move || {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random
        };
        for step in 0..scaled(200_000, 20_000) {
            // First the map mostly grows, later it mostly shrinks, over and over.
            let (key, growing) = (next() % 3000, step / 10_000 % 2 == 0);
            match next() % 8 {
                0..4 if growing => {
                    exeunt::set(key, step as u64).unwrap();
                    model.insert(key, step as u64);
                }
                0..6 => assert_eq!(exeunt::del(&key).unwrap(), model.remove(&key).is_some()),
                _ => assert_eq!(exeunt::get::<u64>(&key), model.get(&key).copied()),
            }
        }
        for key in 0..3000_u64 {
            assert_eq!(exeunt::get::<u64>(&key), model.get(&key).copied());
        }
    });
}

#[test]
fn a_key_that_is_set_for_ever_needs_no_more_and_more_memory() {
    common::process::alone("a_key_that_is_set_for_ever_needs_no_more_and_more_memory", || {
        on_a_thread(|| {
            exeunt::set("stays", 1).unwrap();
            let count = scaled(200_000, 20_000);
            let round = || {
                (0..count).for_each(|n| exeunt::set("key", n).unwrap());
                assert_eq!((exeunt::get(&"stays"), exeunt::get(&"key")), (Some(1), Some(count - 1)));
                common::resident()
            };
            // In the first round an emulator's own memory grows as well.
            round();
            let before = round();
            assert!(round() < before + (512 << 10));
        });
    });
}

#[test]
fn a_key_is_found_whatever_its_hash_writes() {
    // The key's own hasher does not matter: only the bytes that `Hash` writes count.
    #[derive(PartialEq, Eq)]
    struct Prehashed(u64);
    impl Hash for Prehashed {
        fn hash<H: Hasher>(&self, state: &mut H) {
            let mut inner = DefaultHasher::new();
            self.0.hash(&mut inner);
            state.write_u64(inner.finish());
        }
    }
    on_a_thread(|| {
        exeunt::set(Prehashed(1), 'a').unwrap();
        exeunt::set(Prehashed(2), 'b').unwrap();
        assert_eq!((exeunt::get(&Prehashed(1)), exeunt::get(&Prehashed(2))), (Some('a'), Some('b')));
    });
}

#[test]
fn a_key_whose_hash_unloads_finds_no_other_stacks_value() {
    thread_local! { static UNLOADS: Cell<bool> = const { Cell::new(false) } }

    /// Equal to each other key of this type.
    #[derive(PartialEq, Eq)]
    struct Key;
    impl Hash for Key {
        fn hash<H: Hasher>(&self, _: &mut H) {
            if UNLOADS.take() {
                exeunt::unload().unwrap();
                // The memory of this stack's values serves another stack now, as long as the test
                // runs.
                let (stored, is_stored) = channel();
                OTHER.set(Some(std::thread::spawn(move || {
                    exeunt::set(Key, 2).unwrap();
                    stored.send(()).unwrap();
                    std::thread::park();
                    exeunt::get::<i32>(&Key)
                })));
                is_stored.recv().unwrap();
            }
        }
    }
    thread_local! { static OTHER: Cell<Option<JoinHandle<Option<i32>>>> = const { Cell::new(None) } }

    let uses: [fn(); 3] = [
        || assert_eq!(exeunt::get::<i32>(&Key), None),
        || assert!(!exeunt::del(&Key).unwrap()),
        || {
            exeunt::set(Key, 3).unwrap();
            assert_eq!(exeunt::get(&Key), Some(3));
        },
    ];
    for r#use in uses {
        on_a_thread(move || {
            exeunt::set(Key, 1).unwrap();
            UNLOADS.set(true);
            r#use();
            let other = OTHER.take().expect("the hash was asked for");
            other.thread().unpark();
            assert_eq!(other.join().unwrap(), Some(2), "it still has its own");
        });
    }
}
