//! The list of the armed stacks.

mod common;

use common::{on_a_thread, process};
use exeunt::{ArmedStack, Kind, StackId, stacks};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;

fn find(id: StackId) -> Option<ArmedStack> {
    stacks().find(|stack| stack.id == id)
}

/// The running stack, which is armed.
fn own() -> ArmedStack {
    find(exeunt::id().unwrap()).expect("it is armed")
}

#[test]
fn an_armed_stack_is_listed_until_it_ends_or_is_unloaded() {
    let id = on_a_thread(|| {
        let kept = own();
        assert_eq!(kept.kind, Kind::Thread);
        assert!(!kept.is_draining);
        let stack = exeunt::Stack::current();
        assert_eq!(stack.foot().map(|foot| foot.address), Some(kept.foot));
        assert!(kept.foot < kept.base && kept.base - kept.foot <= 4096);
        exeunt::unload().unwrap();
        assert_eq!(find(kept.id), None);
        let again = own();
        assert_ne!(again.id, kept.id);
        assert_eq!((again.foot, again.base, again.kind), (kept.foot, kept.base, kept.kind));
        exeunt::at_exit(move || {
            let found = find(again.id).expect("it has not ended yet");
            assert!(found.is_draining);
            assert_eq!((found.base, found.kind), (again.base, again.kind));
        })
        .unwrap();
        again.id
    });
    assert_eq!(find(id), None);
}

#[test]
fn stacks_of_all_threads_and_of_enter_are_listed_on_any_thread() {
    process::alone("stacks_of_all_threads_and_of_enter_are_listed_on_any_thread", || {
        let (said, ids) = channel();
        let mut go_on = Vec::new();
        for number in 0..6 {
            let (sender, receiver) = channel::<()>();
            let said = said.clone();
            go_on.push((
                sender,
                std::thread::spawn(move || {
                    let wait = || {
                        said.send((exeunt::id().unwrap(), number % 2 == 0)).unwrap();
                        receiver.recv().unwrap();
                    };
                    if number % 2 == 0 { exeunt::enter(wait).unwrap() } else { wait() }
                }),
            ));
        }
        let mut expected: Vec<_> = ids.iter().take(6).collect();
        expected.sort_by_key(|(id, _)| *id);
        let mut listed: Vec<_> = stacks().map(|stack| (stack.id, stack.kind == Kind::Entered)).collect();
        listed.sort_by_key(|(id, _)| *id);
        assert_eq!(listed, expected);
        for (sender, thread) in go_on {
            sender.send(()).unwrap();
            thread.join().unwrap();
        }
        assert_eq!(stacks().count(), 0);
    });
}

/// The names of the functions at the call that returns to `address`, the outermost one last.
fn functions_at(address: usize) -> Vec<String> {
    let mut names = Vec::new();
    backtrace::resolve((address - 1) as *mut _, |symbol| {
        names.extend(symbol.name().map(|name| name.to_string()));
    });
    names
}

mod places {
    use super::*;

    exeunt::stack_local! {
        static LOCAL: u32 = 7;
    }

    #[inline(never)]
    pub fn by_at_exit() -> ArmedStack {
        exeunt::at_exit(|| ()).unwrap();
        own()
    }

    #[inline(never)]
    pub fn by_at_exit_stoppable() -> ArmedStack {
        _ = exeunt::at_exit_stoppable(|| ()).unwrap();
        own()
    }

    #[inline(never)]
    pub fn by_id() -> ArmedStack {
        _ = exeunt::id().unwrap();
        own()
    }

    #[inline(never)]
    pub fn by_set() -> ArmedStack {
        exeunt::set("key", 1).unwrap();
        own()
    }

    #[inline(never)]
    pub fn by_set_inheritable() -> ArmedStack {
        exeunt::set_inheritable("key", 1).unwrap();
        own()
    }

    static SLOT: std::sync::OnceLock<exeunt::Slot<u32>> = std::sync::OnceLock::new();

    pub fn slot() -> &'static exeunt::Slot<u32> {
        SLOT.get_or_init(|| exeunt::Slot::new().unwrap())
    }

    #[inline(never)]
    pub fn by_slot() -> ArmedStack {
        SLOT.get().unwrap().set(1).unwrap();
        own()
    }

    #[inline(never)]
    pub fn by_local() -> ArmedStack {
        LOCAL.with(|_| ());
        own()
    }
}

#[test]
fn a_stack_is_listed_with_the_call_that_has_armed_it() {
    type Place = (&'static str, fn() -> ArmedStack);
    let all: [Place; 7] = [
        ("by_at_exit", places::by_at_exit),
        ("by_at_exit_stoppable", places::by_at_exit_stoppable),
        ("by_id", places::by_id),
        ("by_set", places::by_set),
        ("by_set_inheritable", places::by_set_inheritable),
        ("by_slot", places::by_slot),
        ("by_local", places::by_local),
    ];
    // Before all: the call of `set` after the slot's creation can be another instruction.
    places::slot();
    for (name, place) in all {
        let mut before = None;
        // First by a walk, and then by a remembered one.
        for _ in 0..3 {
            let from = on_a_thread(place).armed_from.expect("a walk leads there");
            assert_eq!(*before.get_or_insert(from), from, "{name}");
            let functions = functions_at(from);
            let outermost = functions.last().expect("the test has debug information or symbols");
            let is_method = name == "by_local" && cfg!(debug_assertions) && outermost.contains("LocalKey");
            let here = outermost.split("::").any(|part| part == name);
            assert!(is_method || here, "{name}: {functions:?}");
        }
    }
}

#[cfg(target_env = "gnu")]
#[test]
fn a_fiber_that_is_suspended_for_ever_is_listed_until_it_is_discarded() {
    use common::fiber::{Fiber, Pages};
    let pages = Pages::new(256 * 1024);
    let (said, ids) = channel();
    // SAFETY: the pages are this fiber's, which is not resumed.
    let fiber = unsafe {
        Fiber::new(pages.range(), move |fiber| {
            said.send(exeunt::id().unwrap()).unwrap();
            fiber.suspend();
            unreachable!("it is abandoned");
        })
    };
    fiber.abandon();
    let id = ids.recv().unwrap();
    let found = find(id).expect("it is armed");
    assert_eq!(found.kind, Kind::Fiber);
    assert!(pages.range().contains(&found.foot));
    // SAFETY: the fiber is not resumed.
    assert_eq!(unsafe { exeunt::discard(pages.range()) }, 1);
    assert_eq!(find(id), None);
}

#[test]
fn what_is_said_of_one_stack_belongs_together_while_stacks_come_and_go() {
    process::alone("what_is_said_of_one_stack_belongs_together_while_stacks_come_and_go", || {
        static OVER: AtomicBool = AtomicBool::new(false);
        #[inline(never)]
        fn as_entered() {
            exeunt::enter(|| _ = exeunt::id().unwrap()).unwrap();
        }
        #[inline(never)]
        fn as_thread() {
            exeunt::at_exit(|| ()).unwrap();
        }
        // Each kind of stack is armed from a place of its own.
        let places: Vec<_> = [as_entered as fn(), as_thread].into_iter().collect();
        let threads: Vec<_> = (0..4)
            .map(|number| {
                let place = places[number % 2];
                std::thread::spawn(move || {
                    while !OVER.load(Ordering::Relaxed) {
                        on_a_thread(place);
                    }
                })
            })
            .collect();
        let mut seen = std::collections::HashMap::new();
        let mut count = 0;
        let rounds = common::scaled(100_000, 2_000);
        // At least until both kinds were seen; bounded in any case.
        for round in 0.. {
            if round >= rounds && seen.len() == 2 || round == 1000 * rounds {
                break;
            }
            for stack in stacks() {
                count += 1;
                let kind = seen.entry(stack.armed_from).or_insert(stack.kind);
                assert_eq!(*kind, stack.kind, "{stack:?}");
                assert!(stack.foot < stack.base && stack.base - stack.foot <= 4096, "{stack:?}");
            }
        }
        OVER.store(true, Ordering::Relaxed);
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert!(count > 0 && seen.len() == 2, "{count} of {seen:?}");
        assert_eq!(stacks().count(), 0);
    });
}
