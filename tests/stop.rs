//! Handlers that are taken back: what `Registration::stop` answers where, and what it leaves.

mod common;

use common::{Log, OnDrop, on_a_thread};
use exeunt::{Registration, at_exit, at_exit_stoppable};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::hash::{Hash, Hasher};
use std::rc::Rc;

/// Counts this thread's bytes.
struct Counting;

thread_local! {
    static BYTES: Cell<isize> = const { Cell::new(0) };
}

// SAFETY: the system's allocator does the work.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        BYTES.set(BYTES.get() + layout.size() as isize);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        BYTES.set(BYTES.get() - layout.size() as isize);
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn a_handler_that_was_taken_back_is_dropped_at_once_and_the_others_run_in_their_order() {
    let log = Log::new();
    let theirs = log.clone();
    on_a_thread(move || {
        let mut registrations = Vec::new();
        for number in 0..6 {
            let (held, log) = (theirs.loud(number.to_string()), theirs.clone());
            let handler = move || log.note(format!("run {}", held.name));
            registrations.push(at_exit_stoppable(handler).unwrap());
        }
        for number in [4, 5, 1] {
            // The later ones stand where those that were removed did.
            let index = [4, 4, 1][[4, 5, 1].iter().position(|&n| n == number).unwrap()];
            assert!(registrations.remove(index).stop());
        }
        theirs.note("end");
        at_exit(theirs.noting("run the last")).unwrap();
    });
    let expected =
        ["drop 4", "drop 5", "drop 1", "end", "run the last", "run 3", "drop 3", "run 2", "drop 2", "run 0", "drop 0"];
    assert_eq!(log.take(), expected);
}

#[test]
fn a_registration_that_is_dropped_leaves_its_handler() {
    let log = Log::new();
    let theirs = log.clone();
    on_a_thread(move || drop(at_exit_stoppable(theirs.noting("run")).unwrap()));
    assert_eq!(log.take(), ["run"]);
}

/// As 100,000 requests on one connection.
#[test]
fn a_hundred_thousand_handlers_that_are_taken_back_leave_memory_as_it_was() {
    on_a_thread(|| {
        at_exit(|| ()).unwrap();
        // One at a time; many at a time, oldest first; many at a time, newest first.
        for (live, oldest) in [(1, true), (1000, true), (1000, false)] {
            let mut registrations = VecDeque::new();
            let round = |registrations: &mut VecDeque<Registration>, number: usize| {
                registrations.push_back(at_exit_stoppable(move || unreachable!("{number}")).unwrap());
                if registrations.len() >= live {
                    let next = if oldest { registrations.pop_front() } else { registrations.pop_back() };
                    assert!(next.unwrap().stop());
                }
            };
            (0..5000).for_each(|number| round(&mut registrations, number));
            let before = BYTES.get();
            (0..100_000).for_each(|number| round(&mut registrations, number));
            assert_eq!(BYTES.get(), before, "{live} at a time, oldest first: {oldest}");
            registrations.drain(..).for_each(|registration| assert!(registration.stop()));
        }
    });
}

#[test]
fn a_stack_from_which_all_was_taken_back_unloads() {
    on_a_thread(|| {
        let [first, second] = [(); 2].map(|()| at_exit_stoppable(|| unreachable!()).unwrap());
        assert!(first.stop() && second.stop());
        exeunt::unload().unwrap();
        assert!(!exeunt::Stack::current().is_armed());
    });
}

#[test]
fn a_handler_cannot_take_itself_back_but_another_one_that_has_not_begun() {
    let log = Log::new();
    let theirs = log.clone();
    on_a_thread(move || {
        let (own, ran, log) = (Rc::new(RefCell::new(None)), Rc::new(RefCell::new(None)), theirs.clone());
        let held = theirs.loud("other");
        let other = at_exit_stoppable(move || drop(held)).unwrap();
        let (own_there, ran_there) = (Rc::clone(&own), Rc::clone(&ran));
        let handler = move || {
            let own: Option<Registration> = own_there.borrow_mut().take();
            let ran: Option<Registration> = ran_there.borrow_mut().take();
            log.note(format!("itself: {}", own.unwrap().stop()));
            log.note(format!("one that has run: {}", ran.unwrap().stop()));
            log.note(format!("another: {}", other.stop()));
            let late = at_exit_stoppable(|| unreachable!()).unwrap();
            log.note(format!("one of the drain: {}", late.stop()));
        };
        *own.borrow_mut() = Some(at_exit_stoppable(handler).unwrap());
        *ran.borrow_mut() = Some(at_exit_stoppable(theirs.noting("first")).unwrap());
    });
    let expected =
        ["first", "itself: false", "one that has run: false", "drop other", "another: true", "one of the drain: true"];
    assert_eq!(log.take(), expected);
}

#[test]
fn after_unload_and_after_the_end_nothing_is_taken_back() {
    struct Late(RefCell<Option<Registration>>, Log);
    impl Drop for Late {
        fn drop(&mut self) {
            self.1.note(format!("after the end: {}", self.0.take().unwrap().stop()));
            self.1.note(format!("armed: {}", exeunt::Stack::current().is_armed()));
        }
    }
    thread_local! {
        static LATE: RefCell<Option<Late>> = const { RefCell::new(None) };
    }
    let log = Log::new();
    let theirs = log.clone();
    on_a_thread(move || {
        let before = at_exit_stoppable(|| unreachable!("it is forgotten")).unwrap();
        exeunt::unload().unwrap();
        assert!(!before.stop());
        assert!(!exeunt::Stack::current().is_armed(), "stop arms nothing");
        let registration = at_exit_stoppable(theirs.noting("run")).unwrap();
        LATE.set(Some(Late(RefCell::new(Some(registration)), theirs.clone())));
    });
    assert_eq!(log.take(), ["run", "after the end: false", "armed: false"]);
}

#[cfg(target_os = "linux")]
#[cfg(target_env = "gnu")]
#[test]
fn only_the_handlers_own_stack_takes_it_back() {
    use common::fiber::{Fiber, Pages};
    let log = Log::new();
    let theirs = log.clone();
    on_a_thread(move || {
        let pages = Pages::new(1 << 20);
        let given: Rc<RefCell<Vec<Registration>>> = Rc::default();
        let (inside, noting) = (Rc::clone(&given), theirs.clone());
        let entry = move |_| {
            inside.borrow_mut().push(at_exit_stoppable(noting.noting("fiber")).unwrap());
            let outer = inside.borrow_mut().remove(0);
            assert!(!outer.stop(), "it is the thread's");
        };
        given.borrow_mut().push(at_exit_stoppable(theirs.noting("thread")).unwrap());
        // SAFETY: the memory lives longer than the fiber, which runs on this thread alone.
        unsafe { Fiber::new(pages.range(), entry) }.finish();
        // The next fiber on this memory gets the same record.
        let noting = theirs.clone();
        let entry = move |_| {
            at_exit(noting.noting("next fiber")).unwrap();
            assert!(!given.borrow_mut().remove(0).stop(), "it was the first fiber's");
        };
        // SAFETY: as above.
        unsafe { Fiber::new(pages.range(), entry) }.finish();
    });
    assert_eq!(log.take(), ["fiber", "next fiber", "thread"]);
}

#[test]
fn handlers_come_and_go_while_keys_are_compared() {
    struct Meddler(Log);
    impl Hash for Meddler {
        fn hash<H: Hasher>(&self, _: &mut H) {}
    }
    impl PartialEq for Meddler {
        fn eq(&self, _: &Self) -> bool {
            at_exit(self.0.noting("kept")).unwrap();
            assert!(at_exit_stoppable(|| unreachable!()).unwrap().stop());
            true
        }
    }
    impl Eq for Meddler {}
    let log = Log::new();
    let theirs = log.clone();
    on_a_thread(move || {
        exeunt::set(Meddler(theirs.clone()), 1).unwrap();
        exeunt::set(Meddler(theirs.clone()), 2).unwrap();
        assert_eq!(exeunt::get(&Meddler(theirs.clone())), Some(2));
        assert!(exeunt::del(&Meddler(theirs.clone())).unwrap());
        theirs.note("end");
    });
    assert_eq!(log.take(), ["end", "kept", "kept", "kept"]);
}

#[test]
fn the_dropped_handlers_destructor_may_use_everything_and_its_panic_leaves_stop() {
    let log = Log::new();
    let theirs = log.clone();
    on_a_thread(move || {
        let first = at_exit_stoppable(theirs.noting("first")).unwrap();
        let (mut first, noting) = (Some(first), theirs.clone());
        let uses = OnDrop(move || {
            assert!(first.take().unwrap().stop());
            at_exit(noting.noting("second")).unwrap();
            exeunt::set("k", 1).unwrap();
        });
        assert!(at_exit_stoppable(move || drop(uses)).unwrap().stop());
        let panics = OnDrop(|| panic!("dropped"));
        let registration = at_exit_stoppable(move || drop(panics)).unwrap();
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| registration.stop()));
        assert!(panicked.is_err());
        assert_eq!(exeunt::get("k"), Some(1));
        let unloads = OnDrop(|| exeunt::unload().unwrap());
        assert!(at_exit_stoppable(move || drop(unloads)).unwrap().stop());
        assert!(!exeunt::Stack::current().is_armed());
        at_exit(theirs.noting("last")).unwrap();
    });
    assert_eq!(log.take(), ["last"]);
}

/// In a signal handler `stop` is not allowed, as it frees memory. On an alternate stack it cannot.
#[cfg(target_os = "linux")]
#[test]
fn on_an_alternate_signal_stack_nothing_is_taken_back() {
    use std::ffi::c_int;
    thread_local! {
        static REGISTRATION: RefCell<Option<Registration>> = const { RefCell::new(None) };
        static STOPPED: Cell<Option<bool>> = const { Cell::new(None) };
    }
    extern "C" fn handle(_: c_int) {
        STOPPED.set(Some(REGISTRATION.with_borrow(|registration| registration.as_ref().unwrap().stop())));
    }
    let log = Log::new();
    let theirs = log.clone();
    on_a_thread(move || {
        let mut memory = vec![0_u8; 1 << 18];
        let stack = libc::stack_t { ss_sp: memory.as_mut_ptr().cast(), ss_flags: 0, ss_size: memory.len() };
        let off = libc::stack_t { ss_sp: std::ptr::null_mut(), ss_flags: libc::SS_DISABLE, ss_size: 0 };
        // std has set up a stack of its own for this thread.
        let mut before = off;
        REGISTRATION.set(Some(at_exit_stoppable(theirs.noting("run")).unwrap()));
        // SAFETY: the memory outlives its use, and no other test uses this signal.
        unsafe {
            assert_eq!(libc::sigaltstack(&stack, &mut before), 0);
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = handle as *const () as usize;
            action.sa_flags = libc::SA_ONSTACK;
            assert_eq!(libc::sigaction(libc::SIGUSR2, &action, std::ptr::null_mut()), 0);
            assert_eq!(libc::raise(libc::SIGUSR2), 0);
            assert_eq!(libc::sigaltstack(&before, std::ptr::null_mut()), 0);
        }
        assert_eq!(STOPPED.get(), Some(false));
    });
    assert_eq!(log.take(), ["run"]);
}
