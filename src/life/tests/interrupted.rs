//! Signal handlers that interrupt an operation at each of its instructions, and use storage there.
//! For the processor that can stop at each instruction; the code under test is the same for all.

use super::{alone, array_stacks, black_box, on_another_page};
use crate::machine::arch::stack_pointer;
use crate::map::entry::pointer;
use crate::map::pages::{PAGE, page_of_base};
use crate::record::header::Record;
use crate::record::stacks::STACKS;
use std::arch::asm;
use std::ffi::{c_int, c_void};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};

/// The number of instructions after which the handler interrupts, the number that it has seen, and
/// what it does then.
static AT: AtomicUsize = AtomicUsize::new(0);
static SEEN: AtomicUsize = AtomicUsize::new(0);
static INTERRUPTION: AtomicPtr<()> = AtomicPtr::new(std::ptr::null_mut());
/// Whether the code that is to be interrupted is over.
static OVER: AtomicBool = AtomicBool::new(false);
/// The processor's trap flag.
const TRAP: i64 = 0x100;

extern "C" fn handler(_: c_int, _: *mut libc::siginfo_t, context: *mut c_void) {
    let over = OVER.load(Ordering::Relaxed);
    if !over && SEEN.fetch_add(1, Ordering::Relaxed) < AT.load(Ordering::Relaxed) {
        return;
    }
    // SAFETY: what the kernel gives a handler of this kind.
    unsafe { (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs[libc::REG_EFL as usize] &= !TRAP };
    if over {
        return;
    }
    // SAFETY: `at_each_instruction` has stored a function of this kind.
    unsafe { std::mem::transmute::<*mut (), fn()>(INTERRUPTION.load(Ordering::Relaxed))() };
}

/// Runs `code`, which the handler interrupts.
fn stepping(code: impl FnOnce()) {
    OVER.store(false, Ordering::Relaxed);
    // SAFETY: sets the trap flag, whose signal has a handler. It takes effect after these
    // instructions, when the stack pointer is where unwinders expect it.
    unsafe { asm!("pushfq", "or qword ptr [rsp], 0x100", "popfq") };
    code();
    // The handler clears it.
    OVER.store(true, Ordering::Relaxed);
}

/// Calls `run` again and again, and interrupts the code that it runs in [`stepping`] a little later
/// each time.
fn at_each_instruction(interruption: fn(), run: impl Fn()) {
    // SAFETY: the handler fits what the flags say.
    let outcome = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO;
        libc::sigaction(libc::SIGTRAP, &raw const action, std::ptr::null_mut())
    };
    assert_eq!(outcome, 0);
    INTERRUPTION.store(interruption as *mut (), Ordering::Relaxed);
    let was_interrupted = |&at: &usize| {
        AT.store(at, Ordering::Relaxed);
        SEEN.store(0, Ordering::Relaxed);
        run();
        SEEN.load(Ordering::Relaxed) > at
    };
    // One instruction in optimised code is many in other code.
    let step = if cfg!(debug_assertions) { 8 } else { 1 };
    let times = (0..100_000).step_by(step).take_while(was_interrupted).count();
    // How long the code is depends on the compiler, so the measure is `stepping` without any code.
    AT.store(usize::MAX, Ordering::Relaxed);
    SEEN.store(0, Ordering::Relaxed);
    stepping(|| ());
    let without_code = SEEN.load(Ordering::Relaxed) / step;
    assert!(times > without_code, "{times} interruptions, {without_code} of them without any code");
}

fn arm() -> &'static Record {
    crate::set("key", 1).expect("it can be armed");
    crate::life::lookup::lookup().expect("it is armed")
}

#[test]
fn blocks_that_a_signal_handler_adds_during_add_block_are_removed_when_the_stack_ends() {
    let run = || {
        let entered = crate::enter(|| {
            let record = arm();
            on_another_page(|| stepping(|| STACKS.add_block(stack_pointer(), record)));
            (record, page_of_base(record.base()))
        });
        let (record, base) = entered.expect("it can be entered");
        for page in base - 64..base {
            let owner = STACKS.entry(page << PAGE).map(|entry| entry.owner());
            assert_ne!(owner, Some(pointer(record)), "{} pages below the base", base - page);
        }
    };
    alone("interrupted::blocks_that_a_signal_handler_adds_during_add_block_are_removed_when_the_stack_ends", || {
        at_each_instruction(|| on_another_page(|| assert_eq!(crate::get::<i32>(&"key"), Some(1))), run);
    });
}

/// Runs `code` on a page with lower addresses.
#[inline(never)]
fn on_page_below(page: usize, code: &dyn Fn()) {
    let room = black_box([0_u8; 256]);
    if stack_pointer() >> PAGE <= page {
        code()
    } else {
        on_page_below(page, code)
    }
    black_box(&room);
}

#[test]
fn a_look_up_that_a_signal_handler_interrupts_never_finds_another_stacks_record() {
    static ELSEWHERE: AtomicPtr<Record> = AtomicPtr::new(std::ptr::null_mut());
    let reads_and_then_another_stack_begins = || {
        on_another_page(|| assert_eq!(crate::get::<i32>(&"key"), Some(1)));
        ELSEWHERE.store(pointer(array_stacks::arm(array_stacks::end_of_page())), Ordering::Relaxed);
    };
    let run = || {
        // Its record is cached on a page that the next stack will use.
        let earlier = on_another_page(|| crate::enter(arm)).expect("it can be entered");
        let page = page_of_base(earlier.base());
        let entered = crate::enter(|| {
            let record = arm();
            let look_ups = || {
                let found = std::cell::Cell::new(None);
                stepping(|| found.set(STACKS.find(stack_pointer())));
                assert!(found.get().is_none_or(|found| std::ptr::eq(found, record)), "another stack's");
            };
            on_page_below(page, &look_ups);
        });
        entered.expect("it can be entered");
        // SAFETY: null, or a record, which live for ever.
        if let Some(record) = unsafe { ELSEWHERE.swap(std::ptr::null_mut(), Ordering::Relaxed).as_ref() } {
            array_stacks::end(record);
        }
    };
    alone("interrupted::a_look_up_that_a_signal_handler_interrupts_never_finds_another_stacks_record", || {
        at_each_instruction(reads_and_then_another_stack_begins, run);
    });
}

#[test]
fn the_predecessor_is_unset_before_its_record_serves_another_stack() {
    static FINDER: AtomicPtr<Record> = AtomicPtr::new(std::ptr::null_mut());
    // Takes a record, as another thread may, at a moment when the stack that has found the
    // abandoned one may itself be abandoned.
    let takes_another = || {
        // SAFETY: the record of the run that is interrupted.
        let finder = unsafe { &*FINDER.load(Ordering::Relaxed) };
        let taken = STACKS.records.take().expect("there is memory");
        assert!(finder.has_predecessor().is_none_or(|found| !std::ptr::eq(found, taken)));
        STACKS.give(taken);
    };
    alone("interrupted::the_predecessor_is_unset_before_its_record_serves_another_stack", || {
        at_each_instruction(takes_another, || {
            let (finder, abandoned) = array_stacks::arm_over_an_abandoned_one();
            FINDER.store(pointer(finder), Ordering::Relaxed);
            stepping(|| finder.drain_predecessor(abandoned));
            assert!(finder.has_predecessor().is_none());
            array_stacks::end(finder);
        });
    });
}

#[test]
fn a_stack_whose_canary_moves_during_the_staleness_check_is_not_stale() {
    static RECORD: AtomicPtr<Record> = AtomicPtr::new(std::ptr::null_mut());
    // As a drain does whose outer frames are gone.
    let moves_the_canary = || {
        // SAFETY: the record of the run that is interrupted, whose foot is a word of an array.
        let record = unsafe { &*RECORD.load(Ordering::Relaxed) };
        let foot = record.canary_at() as *mut usize;
        let word = Box::leak(Box::new(AtomicUsize::new(record.mark())));
        record.set_canary(word.as_ptr().addr(), record.mark());
        // SAFETY: as above.
        unsafe { foot.write_volatile(0) };
    };
    alone("interrupted::a_stack_whose_canary_moves_during_the_staleness_check_is_not_stale", || {
        at_each_instruction(moves_the_canary, || {
            let record = array_stacks::arm(array_stacks::end_of_page());
            RECORD.store(pointer(record), Ordering::Relaxed);
            let stale = std::cell::Cell::new(true);
            stepping(|| stale.set(record.is_stale()));
            assert!(!stale.get());
            array_stacks::end(record);
        });
    });
}
