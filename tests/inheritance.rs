//! Values that are carried into the stacks that `context::go` starts.

use corosensei::Coroutine;
use exeunt::{context, del, get, set, set_inheritable, set_inheritable_by};
use std::panic::catch_unwind;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

fn on_thread<R: Send + 'static>(body: impl FnOnce() -> R + Send + 'static) -> R {
    std::thread::spawn(body).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

#[test]
fn an_inheritable_value_is_carried_as_a_clone() {
    on_thread(|| {
        set_inheritable("tenant", vec![1, 2]).unwrap();
        let there = context::go(|| {
            let mut value = get::<Vec<i32>>(&"tenant").unwrap();
            value.push(3);
            set("tenant", value.clone()).unwrap();
            value
        });
        assert_eq!(there.join().unwrap(), [1, 2, 3]);
        assert_eq!(get::<Vec<i32>>(&"tenant").unwrap(), [1, 2], "the heir's value is its own");
    });
}

#[test]
fn a_value_that_was_not_marked_stays_behind() {
    on_thread(|| {
        set("plain", 1).unwrap();
        set_inheritable("marked", 2).unwrap();
        let there = context::go(|| (get::<i32>(&"plain"), get::<i32>(&"marked")));
        assert_eq!(there.join().unwrap(), (None, Some(2)));
        let plain_thread = std::thread::spawn(|| get::<i32>(&"marked"));
        assert_eq!(plain_thread.join().unwrap(), None, "only context::go carries");
    });
}

#[test]
fn a_function_of_the_owner_makes_the_heirs_value_or_none() {
    on_thread(|| {
        // No Clone, and it counts generations of heirs.
        struct Generation(u32);
        set_inheritable_by("generation", Generation(0), |own| (own.0 < 2).then_some(Generation(own.0 + 1))).unwrap();
        fn here() -> Option<u32> {
            exeunt::with(&"generation", |own: Option<&Generation>| own.map(|own| own.0))
        }
        let seen = context::go(|| {
            let child = here();
            let grandchild = context::go(|| (here(), context::go(here).join().unwrap())).join().unwrap();
            (child, grandchild)
        });
        assert_eq!(seen.join().unwrap(), (Some(1), (Some(2), None)));
        assert_eq!(here(), Some(0));
    });
}

#[test]
fn inherited_values_are_inherited_again_by_the_next_stack() {
    fn descend(generations: u32) -> Option<String> {
        if generations == 0 {
            return get(&"name");
        }
        context::go(move || descend(generations - 1)).join().unwrap()
    }
    on_thread(|| {
        set_inheritable("name", String::from("Capet")).unwrap();
        assert_eq!(descend(20).as_deref(), Some("Capet"));
    });
}

#[test]
fn the_heir_gets_what_was_there_when_it_was_started() {
    on_thread(|| {
        set_inheritable("k", 1).unwrap();
        let (go_on, wait) = std::sync::mpsc::channel::<()>();
        let there = context::go(move || {
            wait.recv().unwrap();
            get::<i32>(&"k")
        });
        set_inheritable("k", 2).unwrap();
        go_on.send(()).unwrap();
        assert_eq!(there.join().unwrap(), Some(1));
        assert_eq!(context::go(|| get::<i32>(&"k")).join().unwrap(), Some(2));
    });
}

#[test]
fn a_plain_set_or_del_ends_the_inheritance() {
    on_thread(|| {
        set_inheritable("set", 1).unwrap();
        set_inheritable("deleted", 1).unwrap();
        set("set", 2).unwrap();
        assert!(del(&"deleted").unwrap());
        let there = context::go(|| (get::<i32>(&"set"), get::<i32>(&"deleted")));
        assert_eq!(there.join().unwrap(), (None, None));
        assert_eq!(get::<i32>(&"set"), Some(2));
    });
}

#[test]
fn the_owners_function_runs_on_the_owners_stack_and_may_use_its_storage() {
    on_thread(|| {
        set("sequence", 10).unwrap();
        set_inheritable_by("ticket", (exeunt::id().unwrap(), 0), |(owner, _)| {
            assert_eq!(exeunt::id().as_ref(), Ok(owner));
            let next = get::<i32>(&"sequence").unwrap() + 1;
            set("sequence", next).unwrap();
            Some((*owner, next))
        })
        .unwrap();
        let ticket = || context::go(|| get::<(exeunt::StackId, i32)>(&"ticket").unwrap().1).join().unwrap();
        // The heirs' own function never runs, because they start no stack.
        assert_eq!((ticket(), ticket(), ticket()), (11, 12, 13));
    });
}

#[test]
fn an_owners_function_that_panics_starts_no_thread() {
    static STARTED: AtomicUsize = AtomicUsize::new(0);
    on_thread(|| {
        set_inheritable_by("k", (), |()| panic!("not to be had")).unwrap();
        let result = catch_unwind(|| context::go(|| STARTED.fetch_add(1, Ordering::Relaxed)));
        assert!(result.is_err());
        assert!(del(&"k").unwrap());
        context::go(|| STARTED.fetch_add(10, Ordering::Relaxed)).join().unwrap();
        assert_eq!(STARTED.load(Ordering::Relaxed), 10);
    });
}

#[test]
fn inherited_values_are_dropped_with_the_heirs_stack() {
    on_thread(|| {
        let value = Arc::new(());
        set_inheritable("shared", Arc::clone(&value)).unwrap();
        context::go(|| assert!(get::<Arc<()>>(&"shared").is_some())).join().unwrap();
        assert_eq!(Arc::strong_count(&value), 2, "this one and this stack's: the heir's went with it");
        exeunt::unload().unwrap();
        assert_eq!(Arc::strong_count(&value), 1);
    });
}

#[test]
fn several_keys_of_several_types_are_carried_with_the_context() {
    on_thread(|| {
        set_inheritable(1_u8, 'a').unwrap();
        set_inheritable(1_u16, "b").unwrap();
        set_inheritable("c", 3.5_f64).unwrap();
        let there = context::with(7_u64, || {
            context::go(|| (get::<char>(&1_u8), get::<&str>(&1_u16), get::<f64>(&"c"), context::get::<u64>()))
        });
        assert_eq!(there.join().unwrap(), (Some('a'), Some("b"), Some(3.5), 7));
    });
}

#[test]
fn go_on_a_fiber_passes_on_the_fiber_s_values_and_not_those_of_its_thread() {
    on_thread(|| {
        set_inheritable("where", "thread").unwrap();
        let mut fiber = Coroutine::<(), (), Option<&str>>::new(|_, ()| {
            exeunt::enter(|| {
                assert_eq!(context::go(|| get::<&str>(&"where")).join().unwrap(), None);
                set_inheritable("where", "fiber").unwrap();
                context::go(|| get::<&str>(&"where")).join().unwrap()
            })
            .unwrap()
        });
        assert_eq!(fiber.resume(()).as_return(), Some(Some("fiber")));
    });
}
