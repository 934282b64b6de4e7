//! The self-tests: each kind of stack, each end, and what backtraces show. Each runs in a child, on its main thread.

use super::bottom::{Before, compare_armed, on_a_fiber, on_a_thread};
use super::child::say;
use crate::fiber::{Fiber, Memory};
use crate::machine::thread;
use exeunt::Error;
use std::ffi::{c_int, c_void};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

/// One self-test.
pub struct Check {
    /// Its name, for machines.
    pub name: &'static str,
    /// What it tests.
    pub about: &'static str,
    /// What its child has to say.
    pub expected: &'static [&'static str],
    /// The child's exit status.
    pub status: u8,
    pub body: fn() -> ExitCode,
}

const CHECKS: [Check; 11] = [
    Check {
        name: "thread-return",
        about: "a thread ends by return",
        expected: &[THREE, TWO, ONE, DROPPED, "joined: 42"],
        status: 0,
        body: || threads_end(returns),
    },
    Check {
        name: "thread-pthread-exit",
        about: "a thread ends by pthread_exit",
        expected: &[THREE, TWO, ONE, DROPPED, "joined: 42"],
        status: 0,
        body: || threads_end(exits),
    },
    Check {
        name: "thread-pthread-cancel",
        about: "a thread ends by pthread_cancel",
        expected: &["it waits", THREE, TWO, ONE, DROPPED, "joined: cancelled"],
        status: 0,
        body: || threads_end(waits),
    },
    Check {
        name: "main-return",
        about: "main returns",
        expected: &["main returns", THREE, TWO, ONE, DROPPED],
        status: 7,
        body: main_returns,
    },
    Check {
        name: "main-exit",
        about: "main calls exit",
        expected: &["main calls exit", THREE, TWO, ONE, DROPPED],
        status: 7,
        body: main_exits,
    },
    Check {
        name: "main-pthread-exit",
        about: "main ends by pthread_exit, while another thread goes on",
        expected: &["main calls pthread_exit", THREE, TWO, ONE, DROPPED, "another thread: main has ended"],
        status: 7,
        body: main_exits_its_thread,
    },
    Check {
        name: "fiber-return",
        about: "a makecontext fiber returns",
        expected: &["it returns", THREE, TWO, ONE, DROPPED, "resumer: it is through"],
        status: 0,
        body: fiber_returns,
    },
    Check {
        name: "fiber-moved",
        about: "a fiber is armed on one thread and returns on another",
        expected: &[
            "first thread: it is suspended",
            "its stack is the same",
            "its handlers are on the second thread",
            THREE,
            TWO,
            ONE,
            DROPPED,
            "second thread: it is through",
        ],
        status: 0,
        body: fiber_moves,
    },
    Check {
        name: "fiber-abandoned",
        about: "a fiber is abandoned, and the next one on its memory starts empty",
        expected: &[
            "the first one is suspended",
            "the next one finds nothing",
            "its stack is another one",
            THREE,
            TWO,
            ONE,
            DROPPED,
            "the next one is through",
        ],
        status: 0,
        body: fiber_is_abandoned,
    },
    Check {
        name: "backtrace-armed",
        about: "a backtrace of an armed stack is complete",
        expected: EACH_KIND,
        status: 0,
        body: backtraces_of_armed_stacks,
    },
    Check {
        name: "backtrace-in-handler",
        about: "a backtrace in a handler is complete",
        expected: EACH_KIND,
        status: 0,
        body: backtraces_in_handlers,
    },
];

/// The self-tests of what this system has.
pub fn of_this_system() -> impl Iterator<Item = &'static Check> {
    CHECKS.iter().filter(|check| HAS_FIBERS || !check.name.starts_with("fiber"))
}

/// Whether there are fibers of the system's own that exeunt knows.
const HAS_FIBERS: bool = cfg!(target_os = "linux");

const EACH_KIND: &[&str] = if HAS_FIBERS {
    &["thread: complete", "fiber: complete", "main: complete"]
} else {
    &["thread: complete", "main: complete"]
};

const THREE: &str = "handler 3, the value is there";
const TWO: &str = "handler 2, the value is there";
const ONE: &str = "handler 1, the value is there";
const DROPPED: &str = "the value is dropped";

/// A value whose drop is seen.
struct Value;

impl Drop for Value {
    fn drop(&mut self) {
        say(DROPPED);
    }
}

/// Arms the running stack with a value and three handlers. Says what is in the way, if anything is.
fn load() {
    let load = || {
        exeunt::set("value", Value)?;
        for number in 1..=3 {
            exeunt::at_exit(move || {
                let there = exeunt::with::<Value, _>(&"value", |value| value.is_some());
                say(&format!("handler {number}, the value is {}", if there { "there" } else { "gone" }));
            })?;
        }
        Ok::<(), Error>(())
    };
    complain(load());
}

fn complain(result: Result<(), impl std::fmt::Display>) {
    if let Err(error) = result {
        say(&error.to_string());
    }
}

type Start = extern "C-unwind" fn(*mut c_void) -> *mut c_void;

// As in libc, but that unwinding may pass: `pthread_exit` and cancellation unwind the thread by force.
unsafe extern "C-unwind" {
    fn pthread_create(
        thread: *mut libc::pthread_t,
        attributes: *const libc::pthread_attr_t,
        start: Start,
        argument: *mut c_void,
    ) -> c_int;
    fn pthread_exit(result: *mut c_void) -> !;
    safe fn pause() -> c_int;
}
unsafe extern "C" {
    fn pthread_cancel(thread: libc::pthread_t) -> c_int;
}

const RESULT: *mut c_void = 42 as *mut c_void;
const CANCELLED: *mut c_void = usize::MAX as *mut c_void;
/// The thread of this process has got to where it is to be cancelled.
static WAITS: AtomicBool = AtomicBool::new(false);

extern "C-unwind" fn returns(_: *mut c_void) -> *mut c_void {
    load();
    RESULT
}

extern "C-unwind" fn exits(_: *mut c_void) -> *mut c_void {
    load();
    // SAFETY: this frame holds nothing that has to be dropped, and its caller is the system's.
    unsafe { pthread_exit(RESULT) }
}

extern "C-unwind" fn waits(_: *mut c_void) -> *mut c_void {
    load();
    say("it waits");
    WAITS.store(true, Ordering::Release);
    loop {
        pause();
    }
}

/// Starts a thread as a C program does, and joins it.
fn threads_end(start: Start) -> ExitCode {
    let (mut thread, mut result) = (0, std::ptr::null_mut());
    // SAFETY: the start routines ignore their argument.
    let error = unsafe { pthread_create(&raw mut thread, std::ptr::null(), start, std::ptr::null_mut()) };
    if error != 0 {
        say(&format!("no thread: {}", std::io::Error::from_raw_os_error(error)));
        return ExitCode::FAILURE;
    }
    if std::ptr::fn_addr_eq(start, waits as Start) {
        // A thread that never gets there is ended with this process, whose time is limited.
        while !WAITS.load(Ordering::Acquire) {
            std::thread::yield_now();
        }
        // SAFETY: the thread exists until it is joined.
        unsafe { pthread_cancel(thread) };
    }
    // SAFETY: joined once.
    unsafe { libc::pthread_join(thread, &raw mut result) };
    match result {
        CANCELLED => say("joined: cancelled"),
        result => say(&format!("joined: {}", result as usize)),
    }
    ExitCode::SUCCESS
}

fn main_returns() -> ExitCode {
    load();
    say("main returns");
    ExitCode::from(7)
}

fn main_exits() -> ExitCode {
    load();
    say("main calls exit");
    std::process::exit(7)
}

/// Calls `pthread_exit`, which unwinds the stack up to here and then ends the thread where that was begun: to unwinders, this is
/// the outermost frame. Further out is the frame in which Rust's runtime catches panics, and it lets no other unwinding pass.
#[cfg(target_os = "linux")]
#[unsafe(naked)]
unsafe extern "C" fn exit_thread(_result: *mut c_void) -> ! {
    #[cfg(target_arch = "x86_64")]
    std::arch::naked_asm!(
        ".cfi_startproc",
        ".cfi_undefined rip",
        "push rax", // the call is made on a multiple of 16
        ".cfi_adjust_cfa_offset 8",
        "call {exit}@PLT",
        "ud2",
        ".cfi_endproc",
        exit = sym pthread_exit,
    );
    #[cfg(target_arch = "aarch64")]
    std::arch::naked_asm!(
        ".cfi_startproc",
        ".cfi_undefined x30",
        "bl {exit}",
        "brk #1",
        ".cfi_endproc",
        exit = sym pthread_exit,
    );
}

#[cfg(target_os = "macos")]
use pthread_exit as exit_thread;

extern "C-unwind" fn outlives(main: *mut c_void) -> *mut c_void {
    // SAFETY: nobody else joins the main thread.
    unsafe { libc::pthread_join(main as libc::pthread_t, std::ptr::null_mut()) };
    say("another thread: main has ended");
    // SAFETY: ends the process, and runs nothing.
    unsafe { libc::_exit(7) }
}

fn main_exits_its_thread() -> ExitCode {
    load();
    let mut thread = 0;
    // SAFETY: the start routine takes the main thread's handle.
    let error =
        unsafe { pthread_create(&raw mut thread, std::ptr::null(), outlives, libc::pthread_self() as *mut c_void) };
    if error != 0 {
        say(&format!("no thread: {}", std::io::Error::from_raw_os_error(error)));
        return ExitCode::FAILURE;
    }
    say("main calls pthread_exit");
    // SAFETY: the frames further out are left for ever and stay what they are; the other thread uses nothing of them, and ends
    // the process.
    unsafe { exit_thread(RESULT) }
}

/// Memory for a fiber, or the reason why there is none.
fn with_memory(code: impl FnOnce(Memory)) -> ExitCode {
    match Memory::map() {
        Ok(memory) => code(memory),
        Err(error) => say(&format!("no memory for a fiber: {error}")),
    }
    ExitCode::SUCCESS
}

fn through(done: bool) -> &'static str {
    if done { "through" } else { "suspended" }
}

fn fiber_returns() -> ExitCode {
    with_memory(|memory| {
        let mut fiber = Fiber::on(&memory, |_| {
            load();
            say("it returns");
        });
        say(&format!("resumer: it is {}", through(fiber.resume())));
    })
}

/// The thread that resumed the fiber last.
static SECOND: AtomicI32 = AtomicI32::new(0);

fn fiber_moves() -> ExitCode {
    with_memory(|memory| {
        let mut fiber = Fiber::on(&memory, |suspender| {
            load();
            let before = exeunt::id();
            suspender.suspend();
            say(if exeunt::id() == before { "its stack is the same" } else { "its stack is another one" });
            complain(exeunt::at_exit(|| {
                let second = thread() == SECOND.load(Ordering::Relaxed);
                say(if second { "its handlers are on the second thread" } else { "its handlers are elsewhere" });
            }));
        });
        for name in ["first", "second"] {
            let resumed = std::thread::Builder::new().spawn(move || {
                SECOND.store(thread(), Ordering::Relaxed);
                say(&format!("{name} thread: it is {}", through(fiber.resume())));
                fiber
            });
            match resumed.map(std::thread::JoinHandle::join) {
                Ok(Ok(back)) => fiber = back,
                Ok(Err(_)) => return say("a thread panicked"),
                Err(error) => return say(&format!("no thread: {error}")),
            }
        }
    })
}

fn fiber_is_abandoned() -> ExitCode {
    with_memory(|memory| {
        let (sender, receiver) = std::sync::mpsc::channel();
        let mut first = Fiber::on(&memory, move |suspender| {
            complain(exeunt::set("legacy", 1));
            let _ = sender.send(exeunt::id());
            suspender.suspend();
            say("the first one goes on");
        });
        say(&format!("the first one is {}", through(first.resume())));
        let first_id = receiver.recv();
        let mut next = Fiber::on(&memory, move |_| {
            let found = exeunt::get::<i32>(&"legacy");
            say(&found.map_or("the next one finds nothing".to_owned(), |found| format!("the next one finds {found}")));
            let same = first_id == Ok(exeunt::id());
            say(if same { "its stack is the same" } else { "its stack is another one" });
            load();
        });
        say(&format!("the next one is {}", through(next.resume())));
    })
}

/// Has `look` say what it finds on a thread, on a fiber, and here on the main thread.
fn on_each_kind(look: fn(&'static str)) -> ExitCode {
    complain(on_a_thread(move || look("thread")));
    if HAS_FIBERS {
        complain(on_a_fiber(move || look("fiber")));
    }
    look("main");
    ExitCode::SUCCESS
}

fn backtraces_of_armed_stacks() -> ExitCode {
    on_each_kind(|kind| {
        let found = compare_armed().unwrap_or_else(|error| error.to_string());
        say(&format!("{kind}: {found}"));
    })
}

fn backtraces_in_handlers() -> ExitCode {
    on_each_kind(|kind| {
        let arm = |before: Before| exeunt::at_exit(move || say(&format!("{kind}: {}", before.in_handler())));
        if let Err(error) = Before::arming().and_then(arm) {
            say(&format!("{kind}: {error}"));
        }
    })
}
