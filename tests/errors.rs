//! Refusals: the error says what was found and what to do, and nothing has changed.
#![cfg(target_os = "linux")]

mod common;

use common::process;
use corosensei::stack::{DefaultStack, Stack};
use corosensei::{Coroutine, CoroutineResult};
use exeunt::Error;

/// The bytes of the running stack from an address up to its end.
fn bytes_above(from: usize, end: usize) -> Vec<usize> {
    let word = |address: usize| {
        // SAFETY: the tests pass a part of the running stack.
        unsafe { (address as *const usize).read_volatile() }
    };
    (from.next_multiple_of(8)..end & !7).step_by(8).map(word).collect()
}

/// An error without the list of frames, of which the innermost ones differ from call to call.
fn outline(error: Error) -> String {
    match error {
        Error::UnknownTrampoline(found) => format!("{:#x}: {}: {}", found.address(), found.reason(), found.advice()),
        error => error.to_string(),
    }
}

/// Calls everything that can arm a stack, expects the same error of each, and that no word above
/// `frame` has changed. For a process in which nothing else arms a stack, because it counts the
/// armed ones.
#[inline(never)]
fn everything_refuses(frame: usize, end: usize) -> Error {
    exeunt::stack_local! {
        static LOCAL: std::cell::Cell<u8> = const { std::cell::Cell::new(1) };
    }
    let armed = exeunt::survey().map(|survey| survey.armed);
    let before = bytes_above(frame, end);
    let error = exeunt::at_exit(|| unreachable!("it was refused")).expect_err("this stack cannot be armed");
    let same = Err(outline(error.clone()));
    assert_eq!(exeunt::set("key", "value").map_err(outline), same);
    assert_eq!(exeunt::id().map_err(outline).map(|_| ()), same);
    assert_eq!(LOCAL.try_with(|_| ()).map_err(outline), same);
    assert!(std::panic::catch_unwind(|| LOCAL.get()).is_err());
    // A read finds nothing, and returns no error.
    assert_eq!(exeunt::get::<&str>(&"key"), None);
    assert!(!exeunt::del(&"key").unwrap());
    exeunt::reset().unwrap();
    exeunt::unload().unwrap();
    let stack = exeunt::Stack::current();
    assert_eq!((stack.is_armed(), stack.id()), (false, None));
    assert_eq!(stack.problem().cloned().map(outline), same.err());
    assert!(bytes_above(frame, end) == before, "the stack has changed");
    assert_eq!(exeunt::survey().map(|survey| survey.armed), armed);
    error
}

/// The address of a local variable of the caller's caller, roughly. The words above belong to
/// callers.
#[inline(never)]
fn here() -> usize {
    let local = 0_u8;
    std::hint::black_box(&raw const local).addr() + 512
}

#[test]
fn a_fiber_with_an_unknown_end_is_refused_with_the_list_of_frames_and_advice() {
    process::alone("a_fiber_with_an_unknown_end_is_refused_with_the_list_of_frames_and_advice", || {
        // The coroutine's function never returns to code that could be redirected.
        let stack = DefaultStack::default();
        let end = stack.base().get();
        let mut coroutine = Coroutine::with_stack(stack, move |_: &corosensei::Yielder<(), ()>, ()| {
            // Optimised, there is next to nothing above.
            everything_refuses(here().min(end - 64), end)
        });
        let CoroutineResult::Return(error) = coroutine.resume(()) else { unreachable!("it does not yield") };
        let Error::UnknownTrampoline(found) = &error else { panic!("{error:?}") };
        assert!(!found.frames().is_empty() && found.address() != 0, "{error:?}");
        assert_eq!(found.addresses().last(), Some(&found.address()));
        assert_eq!(found.frames().last().and_then(|frame| frame.symbol.clone()), found.symbol());
        let program = std::env::current_exe().unwrap();
        assert!(
            found.library().is_some_and(|library| program.ends_with(library.trim_start_matches("./"))),
            "{error:?}"
        );
        let text = error.to_string();
        let named = text.contains("errors::everything_refuses\n") && text.contains("coroutine_func\n");
        if cfg!(feature = "symbols") {
            assert!(named, "the frames are named: {text}");
        } else {
            let place = format!("{}+0x", found.library().unwrap());
            assert!(named || text.contains(&place), "each frame has its name, or file and offset: {text}");
        }
        assert!(text.contains("exeunt::enter") && text.contains("register_trampoline"), "there is advice: {text}");
    });
}

#[test]
fn a_signal_stack_is_refused_and_the_thread_below_it_is_not() {
    process::alone("a_signal_stack_is_refused_and_the_thread_below_it_is_not", || {
        use std::sync::Mutex;
        static FOUND: Mutex<Option<Error>> = Mutex::new(None);
        extern "C" fn on_signal(_: libc::c_int) {
            let frame = here();
            *FOUND.lock().unwrap() = Some(everything_refuses(frame, frame + 64));
        }
        common::on_a_thread(|| {
            let mut memory = vec![0_u8; 256 * 1024];
            // SAFETY: the memory outlives its use as a signal stack, and the handler is for this
            // thread's own signal.
            unsafe {
                let stack = libc::stack_t { ss_sp: memory.as_mut_ptr().cast(), ss_flags: 0, ss_size: memory.len() };
                assert_eq!(libc::sigaltstack(&raw const stack, std::ptr::null_mut()), 0);
                let mut action: libc::sigaction = std::mem::zeroed();
                action.sa_sigaction = on_signal as *const () as usize;
                action.sa_flags = libc::SA_ONSTACK;
                assert_eq!(libc::sigaction(libc::SIGUSR2, &raw const action, std::ptr::null_mut()), 0);
                libc::raise(libc::SIGUSR2);
                let stack = libc::stack_t { ss_sp: std::ptr::null_mut(), ss_flags: libc::SS_DISABLE, ss_size: 0 };
                assert_eq!(libc::sigaltstack(&raw const stack, std::ptr::null_mut()), 0);
            }
            assert_eq!(FOUND.lock().unwrap().take(), Some(Error::SignalStack));
            exeunt::at_exit(|| ()).unwrap();
        });
        assert!(Error::SignalStack.to_string().contains("before the signal"), "{}", Error::SignalStack);
    });
}

#[test]
fn from_a_signal_stack_nothing_is_armed_even_where_the_walk_to_the_thread_is_remembered() {
    use std::sync::Mutex;
    static FOUND: Mutex<Option<Result<(), Error>>> = Mutex::new(None);
    extern "C" fn on_signal(_: libc::c_int) {
        *FOUND.lock().unwrap() = Some(exeunt::at_exit(|| ()));
    }
    let raise = |flags| {
        // SAFETY: the handler is for this thread's own signal.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = on_signal as *const () as usize;
            action.sa_flags = flags;
            assert_eq!(libc::sigaction(libc::SIGURG, &raw const action, std::ptr::null_mut()), 0);
            libc::raise(libc::SIGURG);
        }
        FOUND.lock().unwrap().take().unwrap()
    };
    common::on_a_thread(move || {
        let mut memory = vec![0_u8; 256 * 1024];
        let stack = libc::stack_t { ss_sp: memory.as_mut_ptr().cast(), ss_flags: 0, ss_size: memory.len() };
        // SAFETY: the memory outlives its use as a signal stack.
        assert_eq!(unsafe { libc::sigaltstack(&raw const stack, std::ptr::null_mut()) }, 0);
        // First on the thread's own stack. From then on exeunt remembers the walk, frame by frame,
        // because both begin in one place.
        for (flags, expected) in [(0, Ok(())), (libc::SA_ONSTACK, Err(Error::SignalStack))] {
            assert_eq!(raise(flags), expected);
            exeunt::unload().unwrap();
        }
        let stack = libc::stack_t { ss_sp: std::ptr::null_mut(), ss_flags: libc::SS_DISABLE, ss_size: 0 };
        // SAFETY: nothing runs on it any more.
        assert_eq!(unsafe { libc::sigaltstack(&raw const stack, std::ptr::null_mut()) }, 0);
    });
}

#[cfg(target_env = "gnu")]
#[test]
fn reading_on_a_small_signal_stack_finds_nothing_and_does_not_overflow_it() {
    static FOUND: std::sync::atomic::AtomicI32 = std::sync::atomic::AtomicI32::new(-1);
    extern "C" fn handler(_: libc::c_int) {
        let found = exeunt::get::<i32>(&"key").unwrap_or(0);
        FOUND.store(found, std::sync::atomic::Ordering::Relaxed);
    }
    process::alone("reading_on_a_small_signal_stack_finds_nothing_and_does_not_overflow_it", || {
        common::on_a_thread(|| {
            exeunt::set("key", 5).unwrap();
            // SAFETY: only asks for a number.
            let kernels = unsafe { libc::getauxval(libc::AT_MINSIGSTKSZ) } as usize;
            // There is less room than reading unwind tables takes: 25 KiB without optimisation.
            let room = (kernels.max(4096) + 8192).next_multiple_of(4096);
            let pages = common::fiber::Pages::new(4096 + room);
            let range = pages.range();
            let stack = libc::stack_t {
                ss_sp: (range.start + 4096) as *mut libc::c_void,
                ss_flags: 0,
                ss_size: range.end - range.start - 4096,
            };
            let mut before = stack;
            // SAFETY: the lowest page is a guard; the stack is this thread's until it has its own
            // again.
            unsafe {
                assert_eq!(libc::mprotect(range.start as *mut libc::c_void, 4096, libc::PROT_NONE), 0);
                assert_eq!(libc::sigaltstack(&raw const stack, &raw mut before), 0);
            }
            for (flags, expected) in [(libc::SA_ONSTACK, 0), (0, 5)] {
                // SAFETY: the handler only reads.
                unsafe {
                    let mut action: libc::sigaction = std::mem::zeroed();
                    action.sa_sigaction = handler as extern "C" fn(libc::c_int) as usize;
                    action.sa_flags = flags;
                    assert_eq!(libc::sigaction(libc::SIGUSR1, &raw const action, std::ptr::null_mut()), 0);
                    assert_eq!(libc::raise(libc::SIGUSR1), 0);
                }
                assert_eq!(FOUND.load(std::sync::atomic::Ordering::Relaxed), expected);
            }
            // SAFETY: restores the previous one.
            unsafe { assert_eq!(libc::sigaltstack(&raw const before, std::ptr::null_mut()), 0) };
        });
    });
}

#[test]
fn wrappers_beyond_the_pool_are_refused_and_registered_ones_still_work() {
    process::alone("wrappers_beyond_the_pool_are_refused_and_registered_ones_still_work", || {
        let code = here as fn() -> usize as usize;
        let mut registered = 0;
        let error = loop {
            // SAFETY: no function ever returns there.
            match unsafe { exeunt::register_trampoline("wrapper", code + registered..code + registered + 1) } {
                Ok(()) => registered += 1,
                Err(error) => break error,
            }
            assert!(registered <= 1000, "a pool has an end");
        };
        assert_eq!(error, Error::TooManyWrappers);
        assert!(registered >= 16, "{registered}");
        // It is registered already, so it takes no place in the pool.
        // SAFETY: no function ever returns there.
        assert_eq!(unsafe { exeunt::register_trampoline("wrapper", code..code + 1) }, Ok(()));
        common::on_a_thread(|| exeunt::at_exit(|| ()).unwrap());
    });
}

/// Forbids a system call to this thread and those that it starts. From now on it fails with
/// `EPERM`.
fn forbid(call: libc::c_long) -> std::io::Result<()> {
    const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
    const REFUSE: u32 = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;
    let statement = |code: u32, k: u32, jt: u8, jf: u8| libc::sock_filter { code: code as u16, jt, jf, k };
    let mut filter = [
        // The call's number is the first word of a filter's input (linux/seccomp.h, struct
        // seccomp_data).
        statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        statement(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, call as u32, 0, 1),
        statement(libc::BPF_RET | libc::BPF_K, REFUSE, 0, 0),
        statement(libc::BPF_RET | libc::BPF_K, ALLOW, 0, 0),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: the filter outlives the calls, which copy it.
    unsafe {
        if libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0
            || libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) != 0
        {
            return Err(std::io::Error::last_os_error());
        }
    }
    Ok(())
}

#[test]
fn a_page_protection_that_is_refused_is_an_error_and_stacks_recognised_before_still_work() {
    let name = "a_page_protection_that_is_refused_is_an_error_and_stacks_recognised_before_still_work";
    if process::is_emulated() {
        return println!("not under QEMU: it has no seccomp");
    }
    process::alone(name, || {
        // Recognises threads. That recognises fibers as well, but not wrappers.
        common::on_a_thread(|| exeunt::at_exit(|| ()).unwrap());
        // A thread needs `mprotect` for its guard page, so this one is started before `mprotect` is
        // forbidden.
        common::on_a_thread(|| {
            forbid(libc::SYS_mprotect).expect("this system has seccomp");
            exeunt::set("key", "value").unwrap();
            assert_eq!(exeunt::get(&"key"), Some("value"));
        });
    });
}

#[test]
fn where_no_page_may_be_written_nothing_is_armed_and_the_error_says_so() {
    let name = "where_no_page_may_be_written_nothing_is_armed_and_the_error_says_so";
    if process::is_emulated() {
        return println!("not under QEMU: it has no seccomp");
    }
    process::alone(name, || {
        // A thread needs `mprotect` for its guard page, so this one is started before `mprotect` is
        // forbidden.
        common::on_a_thread(|| {
            forbid(libc::SYS_mprotect).expect("this system has seccomp");
            let frame = here();
            let error = everything_refuses(frame, frame + 64);
            assert!(matches!(error, Error::Protection { .. }), "{error:?}");
            assert!(error.to_string().contains("mprotect"), "{error}");
        });
    });
}

#[cfg(target_env = "gnu")]
#[test]
fn without_memory_nothing_is_armed_and_with_memory_it_is() {
    process::alone("without_memory_nothing_is_armed_and_with_memory_it_is", || {
        if process::is_emulated() {
            return println!("not under QEMU: its own memory counts as well");
        }
        // Threads are recognised, but this one's part of the address space has no page of the stack
        // map yet.
        common::on_a_thread(|| exeunt::at_exit(|| ()).unwrap());
        // Fibers are recognised too: under code redirect patching their exit trampoline takes
        // memory.
        let fiber = common::fiber::Pages::new(1 << 20);
        // SAFETY: the pages are this fiber's, and it runs to its end.
        unsafe { common::fiber::Fiber::new(fiber.range(), |_| exeunt::at_exit(|| ()).unwrap()).finish() };
        // SAFETY: reads and sets limits.
        let (mut limit, own) = unsafe {
            let mut limit: libc::rlimit = std::mem::zeroed();
            assert_eq!(libc::getrlimit(libc::RLIMIT_AS, &raw mut limit), 0);
            (limit, limit)
        };
        // A part of the address space, far from all others, whose leaf of the stack map is not
        // mapped.
        // SAFETY: a new mapping at an address that nothing uses, or none.
        let far = unsafe {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE;
            libc::mmap(0x1234_0000_0000 as *mut _, 1 << 20, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0)
        };
        assert_eq!(far.addr(), 0x1234_0000_0000);
        limit.rlim_cur = 1 << 20;
        let range = far.addr()..far.addr() + (1 << 20);
        // SAFETY: the pages are this fiber's, and it runs to its end.
        let run = |code: fn()| unsafe { common::fiber::Fiber::new(range.clone(), move |_| code()).finish() };
        // SAFETY: sets a limit that is lifted again.
        assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_AS, &raw const limit) }, 0);
        run(|| {
            assert_eq!(exeunt::at_exit(|| ()), Err(Error::OutOfMemory));
            assert_eq!(exeunt::get::<u8>(&"key"), None);
        });
        // SAFETY: as above.
        assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_AS, &raw const own) }, 0);
        run(|| {
            exeunt::set("key", 1_u8).unwrap();
            assert_eq!(exeunt::get::<u8>(&"key"), Some(1));
        });
        drop(fiber);
    });
}

#[test]
fn every_error_says_what_to_do_even_where_it_is_unwrapped() {
    let id = std::thread::spawn(|| exeunt::id().unwrap()).join().unwrap();
    let reason = "Operation not permitted (os error 1)".to_owned();
    let errors = [
        Error::StackHasEnded,
        Error::TooEarly,
        Error::SignalStack,
        Error::ShadowStack,
        Error::NoCodeSite("a function of two instructions".into()),
        Error::UnknownRedirect("both".into()),
        Error::RedirectChosen { chosen: exeunt::Redirect::Slot, wanted: exeunt::Redirect::Code },
        Error::TooManyTrampolines,
        Error::TooManyWrappers,
        Error::Protection { address: 0x1000, reason },
        Error::ForeignFoot { address: 0x1000, found: 0x2000, expected: 0x3000 },
        Error::AlreadyArmed(id),
        Error::NotOnThatStack { stack_pointer: 0x1000, range: 0x2000..0x3000 },
        Error::SlotsExhausted,
        Error::NoSuchSlot(7),
        Error::OutOfMemory,
        Error::Busy,
        Error::RecursiveInit,
        Error::CallFailed { call: "pthread_create", errno: libc::EAGAIN },
        Error::CallFailed { call: "membarrier", errno: libc::EPERM },
        Error::Reentered,
    ];
    for error in errors {
        let text = error.to_string();
        assert!(text.len() > 40 && !text.ends_with('.') && !text.contains("  "), "{text}");
        assert_eq!(format!("{error:?}"), text);
        // As a source of other errors, and for other threads.
        let boxed: Box<dyn std::error::Error + Send + Sync> = error.into();
        assert_eq!(boxed.to_string(), text);
    }
}
