//! The two ways to redirect exits: how one is chosen, and what is special about that of the code. Each test has a process
//! of its own, as the choice is the process's. That all else is the same in both is what the other suites say, run with
//! `EXEUNT_REDIRECT=code`.
#![cfg(target_os = "linux")]

mod common;

use common::fiber::{Fiber, Pages};
use common::{Log, on_a_thread, process};
use exeunt::{Builder, Error, Kind, Redirect, Stack};

fn choose(redirect: Redirect) {
    Builder::new().redirect(redirect).install().unwrap();
}

/// Sets the variable that chooses.
fn environment(value: &str) {
    // SAFETY: a process of this test's own, in which nobody else looks at the environment meanwhile.
    unsafe { std::env::set_var("EXEUNT_REDIRECT", value) };
}

#[test]
fn the_first_stack_that_is_armed_settles_the_choice() {
    process::alone("the_first_stack_that_is_armed_settles_the_choice", || {
        environment("slot");
        assert_eq!(exeunt::survey().unwrap().redirect, Redirect::Slot);
        on_a_thread(|| exeunt::id().unwrap());
        let late = Builder::new().redirect(Redirect::Code).install();
        assert_eq!(late, Err(Error::RedirectChosen { chosen: Redirect::Slot, wanted: Redirect::Code }));
        let text = late.unwrap_err().to_string();
        assert!(text.contains("by slot already") && text.contains("before the first stack is armed"), "{text}");
        choose(Redirect::Slot);
        choose(Redirect::Auto);
    });
}

#[test]
fn a_builder_comes_before_the_environment() {
    process::alone("a_builder_comes_before_the_environment", || {
        environment("slot");
        choose(Redirect::Code);
        choose(Redirect::Code);
        assert_eq!(exeunt::survey().unwrap().redirect, Redirect::Code);
        assert!(Builder::new().redirect(Redirect::Slot).install().is_err());
    });
}

#[test]
fn a_word_in_the_environment_that_says_nothing_is_an_error_and_changes_nothing() {
    process::alone("a_word_in_the_environment_that_says_nothing_is_an_error_and_changes_nothing", || {
        environment("cod");
        on_a_thread(|| {
            let error = exeunt::at_exit(|| unreachable!()).unwrap_err();
            assert_eq!(error, Error::UnknownRedirect("cod".into()));
            assert!(error.to_string().contains("EXEUNT_REDIRECT is \"cod\""), "{error}");
            let stack = Stack::current();
            assert_eq!((stack.is_armed(), stack.problem()), (false, Some(&error)));
            assert!(exeunt::enter(|| ()).is_err());
        });
        environment("auto");
        on_a_thread(|| exeunt::at_exit(|| ()).unwrap());
        assert_eq!(exeunt::survey().unwrap().redirect, Redirect::Slot);
    });
}

#[test]
fn code_redirect_leaves_a_thread_s_stack_as_it_is_and_drains_it() {
    process::alone("code_redirect_leaves_a_thread_s_stack_as_it_is_and_drains_it", || {
        choose(Redirect::Code);
        let log = Log::new();
        let theirs = log.clone();
        on_a_thread(move || {
            let bare = Stack::current();
            assert_eq!(bare.problem(), None);
            exeunt::at_exit(theirs.noting("handler")).unwrap();
            exeunt::set("value", theirs.loud("value")).unwrap();
            let armed = Stack::current();
            assert!(armed.is_armed());
            assert_eq!(armed.foot(), bare.foot());
            assert_eq!(armed.foot().unwrap().word, armed.foot().unwrap().original);
        });
        assert_eq!(log.take(), ["handler", "drop value"]);
        // One that stores nothing goes through the hook.
        assert_eq!(on_a_thread(|| 7), 7);
        assert_eq!(exeunt::survey().unwrap().armed, 0);
    });
}

#[test]
fn sites_are_told_before_and_after_they_are_patched_and_no_page_stays_writable() {
    process::alone("sites_are_told_before_and_after_they_are_patched_and_no_page_stays_writable", || {
        choose(Redirect::Code);
        let planned = exeunt::code_sites().unwrap();
        assert!(planned.iter().all(|site| !site.applied && site.problem.is_none()), "{planned:#?}");
        on_a_thread(|| exeunt::id().unwrap());
        let sites = exeunt::code_sites().unwrap();
        for (before, after) in planned.iter().zip(&sites) {
            assert_eq!((&before.before, before.address), (&after.before, after.address));
            let branch = if cfg!(target_arch = "x86_64") { "call" } else { "bl" };
            let is_thread = after.kind == Kind::Thread;
            assert_eq!(after.applied, is_thread, "{after:#?}");
            assert!(!is_thread || after.before.contains(branch) && after.after.contains(branch), "{after:#?}");
            assert_ne!(after.before, after.after);
        }
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        assert!(!maps.contains("rwx"), "{maps}");
        let is_code = |line: &&str| sites.iter().any(|site| site.applied && is_in(line, site.address));
        let pages: Vec<&str> = maps.lines().filter(is_code).collect();
        assert!(!pages.is_empty() && pages.iter().all(|line| line.contains(" r-xp ")), "{maps}");
    });
}

/// Whether a line of `/proc/self/maps` is of the mapping that holds `address`.
fn is_in(line: &str, address: usize) -> bool {
    let (start, rest) = line.split_once('-').unwrap();
    let number = |text: &str| usize::from_str_radix(text, 16).unwrap();
    (number(start)..number(rest.split(' ').next().unwrap())).contains(&address)
}

#[test]
fn a_fiber_on_the_memory_of_an_abandoned_one_starts_empty_and_ends_alone() {
    process::alone("a_fiber_on_the_memory_of_an_abandoned_one_starts_empty_and_ends_alone", || {
        choose(Redirect::Code);
        let memory = Pages::new(256 * 1024);
        let log = Log::new();
        for arguments in [1, 7, 12] {
            let theirs = log.clone();
            // SAFETY: nobody else is on that memory, from each abandoned fiber to the next one.
            let abandoned = unsafe {
                Fiber::with_arguments(memory.range(), arguments, move |inside| {
                    exeunt::set("k", 1).unwrap();
                    exeunt::at_exit(theirs.noting("handler of the abandoned one")).unwrap();
                    inside.suspend();
                    unreachable!("abandoned");
                })
            };
            assert!(abandoned.resume());
            drop(abandoned);

            // One that does not use anything ends without a drain.
            // SAFETY: as above.
            unsafe { Fiber::with_arguments(memory.range(), arguments, |_| ()) }.finish();
            assert_eq!(log.take(), [""; 0], "{arguments} arguments");

            let theirs = log.clone();
            // SAFETY: as above.
            unsafe {
                Fiber::with_arguments(memory.range(), arguments, move |inside| {
                    assert!(!Stack::current().is_armed());
                    assert_eq!(exeunt::get::<i32>(&"k"), None);
                    exeunt::at_exit(theirs.noting("handler of the next one")).unwrap();
                    // The first use finds the abandoned record, and runs its handlers here.
                    assert_eq!(theirs.take(), ["handler of the abandoned one"]);
                    assert_eq!(exeunt::get::<i32>(&"k"), None);
                    inside.suspend();
                })
            }
            .finish();
            assert_eq!(log.take(), ["handler of the next one"], "{arguments} arguments");
        }
    });
}

#[test]
fn a_fiber_that_is_unloaded_ends_as_if_it_had_never_been_armed() {
    process::alone("a_fiber_that_is_unloaded_ends_as_if_it_had_never_been_armed", || {
        choose(Redirect::Code);
        let memory = Pages::new(256 * 1024);
        let log = Log::new();
        let theirs = log.clone();
        // SAFETY: nobody else is on that memory.
        unsafe {
            Fiber::new(memory.range(), move |_| {
                let bare = Stack::current().foot().cloned();
                for _ in 0..3 {
                    exeunt::at_exit(|| unreachable!("forgotten")).unwrap();
                    exeunt::unload();
                    assert!(!Stack::current().is_armed());
                    assert_eq!(Stack::current().foot().cloned(), bare);
                }
                theirs.note("over");
            })
        }
        .finish();
        assert_eq!(log.take(), ["over"]);
    });
}
