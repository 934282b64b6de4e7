//! The two redirects: how one is chosen, and the properties of code redirect. Each test has a
//! process of its own, because the choice is the process's. The other suites, run with
//! `EXEUNT_REDIRECT=code`, show that everything else is the same with both.
#![cfg(target_env = "gnu")]

mod common;

use common::fiber::{Fiber, Pages};
use common::{Log, on_a_thread, process};
use exeunt::{Builder, Error, Kind, Redirect, Stack};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

fn choose(redirect: Redirect) {
    Builder::new().redirect(redirect).install().unwrap();
}

/// Sets the variable that chooses.
fn environment(value: &str) {
    // SAFETY: a process of this test's own, in which nothing else reads the environment meanwhile.
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
        assert!(
            text.contains("already uses slot redirect") && text.contains("before the first stack is armed"),
            "{text}"
        );
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
fn a_program_that_the_environment_makes_use_code_redirect_registers_for_new_code_while_it_has_one_thread() {
    const NAME: &str =
        "a_program_that_the_environment_makes_use_code_redirect_registers_for_new_code_while_it_has_one_thread";
    /// `<linux/membarrier.h>`: it fails in a process that is not registered.
    const PRIVATE_EXPEDITED_SYNC_CORE: i32 = 1 << 5;
    if process::role().as_deref() == Some(NAME) {
        // SAFETY: the command changes no memory.
        let result = unsafe { libc::syscall(libc::SYS_membarrier, PRIVATE_EXPEDITED_SYNC_CORE, 0, 0) };
        println!("[registered: {}]", result == 0);
        return;
    }
    // An emulator has threads of its own, so the program never has one alone.
    for (word, registered) in [("code", !process::is_emulated()), ("slot", false)] {
        let mut child = process::this_program();
        child.args(["--exact", NAME, "--nocapture"]).env(process::ROLE, NAME).env("EXEUNT_REDIRECT", word);
        let output = String::from_utf8(child.output().unwrap().stdout).unwrap();
        assert!(output.contains(&format!("[registered: {registered}]")), "{word}: {output}");
    }
}

#[test]
fn an_unknown_word_in_the_environment_is_an_error_and_changes_nothing() {
    process::alone("an_unknown_word_in_the_environment_is_an_error_and_changes_nothing", || {
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
        // A thread that stores nothing passes the hook.
        assert_eq!(on_a_thread(|| 7), 7);
        assert_eq!(exeunt::survey().unwrap().armed, 0);
    });
}

#[test]
fn code_sites_are_listed_before_and_after_they_are_patched_and_no_page_stays_writable() {
    process::alone("code_sites_are_listed_before_and_after_they_are_patched_and_no_page_stays_writable", || {
        choose(Redirect::Code);
        let planned = exeunt::code_sites().unwrap();
        assert!(planned.iter().all(|site| !site.applied && site.problem.is_none()), "{planned:#?}");
        on_a_thread(|| exeunt::id().unwrap());
        let sites = exeunt::code_sites().unwrap();
        for (before, after) in planned.iter().zip(&sites) {
            assert_eq!((&before.before, before.address), (&after.before, after.address));
            // Without the disassembly the bytes are left; those of aarch64 depend on the distance.
            let branch = match (cfg!(target_arch = "x86_64"), cfg!(feature = "symbols")) {
                (true, true) => "call",
                (true, false) => ": e8 ",
                (false, true) => "bl",
                (false, false) => ": ",
            };
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
fn a_fiber_on_the_memory_of_an_abandoned_one_starts_empty_and_drains_only_its_own() {
    process::alone("a_fiber_on_the_memory_of_an_abandoned_one_starts_empty_and_drains_only_its_own", || {
        choose(Redirect::Code);
        let memory = Pages::new(256 * 1024);
        let log = Log::new();
        for arguments in [1, 7, 12] {
            let theirs = log.clone();
            // SAFETY: nothing else uses that memory, from each abandoned fiber to the next one.
            unsafe {
                Fiber::with_arguments(memory.range(), arguments, move |inside| {
                    exeunt::set("k", 1).unwrap();
                    exeunt::at_exit(theirs.noting("handler of the abandoned one")).unwrap();
                    inside.suspend();
                    unreachable!("abandoned");
                })
            }
            .abandon();

            // A fiber that stores nothing ends without a drain.
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
                    // The first use detects the abandoned record, and runs its handlers here.
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
        // SAFETY: nothing else uses that memory.
        unsafe {
            Fiber::new(memory.range(), move |_| {
                let bare = Stack::current().foot().cloned();
                for _ in 0..3 {
                    exeunt::at_exit(|| unreachable!("unload has removed it")).unwrap();
                    exeunt::unload().unwrap();
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

// Two wrappers as coroutine libraries have them. One returns when the function has returned. The
// other makes a call first, which code redirect can take over. `after` has an argument of each
// kind, to show that the hook preserves them.
#[cfg(target_arch = "x86_64")]
std::arch::global_asm!(
    ".macro exeunt_wrapper_begins name",
    ".globl \\name, \\name\\()_end",
    "\\name: .cfi_startproc",
    "push rbp",
    ".cfi_adjust_cfa_offset 8",
    ".cfi_offset rbp, -16",
    "mov rbp, rsp",
    "call rdi",
    ".endm",
    ".macro exeunt_wrapper_ends name",
    "pop rbp",
    ".cfi_def_cfa rsp, 8",
    "ret",
    ".cfi_endproc",
    "\\name\\()_end:",
    ".endm",
    "exeunt_wrapper_begins returning_wrapper",
    "exeunt_wrapper_ends returning_wrapper",
    "exeunt_wrapper_begins calling_wrapper",
    "mov edi, 5",
    "mov eax, 0x40200000",
    "movd xmm0, eax",
    "call {after}",
    "exeunt_wrapper_ends calling_wrapper",
    after = sym after,
);
#[cfg(target_arch = "aarch64")]
std::arch::global_asm!(
    ".macro exeunt_wrapper_begins name",
    ".globl \\name, \\name\\()_end",
    "\\name: .cfi_startproc",
    "stp x29, x30, [sp, #-16]!",
    ".cfi_def_cfa_offset 16",
    ".cfi_offset x29, -16",
    ".cfi_offset x30, -8",
    "mov x29, sp",
    "blr x0",
    ".endm",
    ".macro exeunt_wrapper_ends name",
    "ldp x29, x30, [sp], #16",
    ".cfi_def_cfa_offset 0",
    "ret",
    ".cfi_endproc",
    "\\name\\()_end:",
    ".endm",
    "exeunt_wrapper_begins returning_wrapper",
    "exeunt_wrapper_ends returning_wrapper",
    "exeunt_wrapper_begins calling_wrapper",
    "mov w0, #5",
    "fmov s0, #2.5",
    "bl {after}",
    "exeunt_wrapper_ends calling_wrapper",
    after = sym after,
);

unsafe extern "C" {
    fn returning_wrapper(function: extern "C" fn());
    fn returning_wrapper_end();
    fn calling_wrapper(function: extern "C" fn());
    fn calling_wrapper_end();
}

static LINES: std::sync::Mutex<Vec<String>> = std::sync::Mutex::new(Vec::new());

fn line(text: String) {
    LINES.lock().unwrap().push(text);
}

extern "C" fn after(whole: i32, real: f32) {
    line(format!("after {whole} {real}"));
}

extern "C" fn arms() {
    match exeunt::at_exit(|| line("handler".to_owned())) {
        Ok(()) => line(format!("armed {:?}", Stack::current().kind())),
        Err(error) => line(error.to_string()),
    }
}

fn register(name: &str, start: unsafe extern "C" fn(extern "C" fn()), end: unsafe extern "C" fn()) {
    let code = start as *const () as usize..end as *const () as usize;
    // SAFETY: the wrappers call nothing but the entry function that they are passed.
    unsafe { exeunt::register_trampoline(name, code) }.unwrap();
}

#[test]
fn a_wrapper_s_call_is_taken_over_with_its_arguments_and_a_wrapper_without_one_is_refused_with_its_bytes() {
    process::alone(
        "a_wrapper_s_call_is_taken_over_with_its_arguments_and_a_wrapper_without_one_is_refused_with_its_bytes",
        || {
            choose(Redirect::Code);
            register("calling", calling_wrapper, calling_wrapper_end);
            register("returning", returning_wrapper, returning_wrapper_end);
            // SAFETY: the wrappers call a function without arguments, once.
            on_a_thread(|| unsafe { calling_wrapper(arms) });
            assert_eq!(std::mem::take(&mut *LINES.lock().unwrap()), ["armed Registered", "handler", "after 5 2.5"]);
            // SAFETY: as above.
            on_a_thread(|| unsafe { returning_wrapper(arms) });
            let refused = std::mem::take(&mut *LINES.lock().unwrap());
            // Its name follows where the patch engine has its feature `disassembly`.
            let instruction = if cfg!(target_arch = "x86_64") { ": 5d" } else { "fd 7b c1 a8" };
            assert_eq!(refused.len(), 1, "{refused:?}");
            for part in ["code redirect is not possible here: returning: ", instruction, "moves the stack pointer"] {
                assert!(refused[0].contains(part), "{part} is not in {}", refused[0]);
            }
        },
    );
}

#[test]
fn code_redirect_is_set_up_while_another_thread_maps_the_pages_around_libc() {
    const NAME: &str = "code_redirect_is_set_up_while_another_thread_maps_the_pages_around_libc";
    static IS_SET_UP: AtomicBool = AtomicBool::new(false);
    static TURNS: AtomicUsize = AtomicUsize::new(0);
    let map_and_unmap = || {
        while !IS_SET_UP.load(Ordering::Relaxed) {
            // The system hands out the pages nearest below the libraries.
            let some: Vec<_> = (1..8).map(|pages| Pages::new(pages * 4096)).collect();
            drop(some);
            TURNS.fetch_add(1, Ordering::Relaxed);
        }
    };
    process::alone(NAME, || {
        choose(Redirect::Code);
        let others: Vec<_> = (0..2).map(|_| std::thread::spawn(map_and_unmap)).collect();
        while TURNS.load(Ordering::Relaxed) < 10 && !others.iter().any(|other| other.is_finished()) {
            std::thread::yield_now();
        }
        assert_eq!(on_a_thread(|| exeunt::at_exit(|| ())), Ok(()));
        let pages = Pages::new(128 * 1024);
        // SAFETY: the pages are this fiber's, and it runs to its end.
        unsafe { Fiber::new(pages.range(), |_| assert_eq!(exeunt::at_exit(|| ()), Ok(()))) }.finish();
        IS_SET_UP.store(true, Ordering::Relaxed);
        others.into_iter().for_each(|other| other.join().unwrap());
    });
}
