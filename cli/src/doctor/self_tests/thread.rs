//! How a thread ends: it returns, calls `pthread_exit`, or is cancelled.

use super::load::{DROPPED, ONE, THREE, TWO, load};
use super::pthread::{CANCELLED, RESULT, Start, pause, pthread_cancel, pthread_create, pthread_exit};
use crate::doctor::child::{SelfTest, say};
use std::ffi::c_void;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

pub const SELF_TESTS: [SelfTest; 3] = [
    SelfTest {
        name: "thread-return",
        about: "a thread returns",
        expected: &[THREE, TWO, ONE, DROPPED, "joined: 42"],
        status: 0,
        body: || threads_end(returns),
    },
    SelfTest {
        name: "thread-pthread-exit",
        about: "a thread calls pthread_exit",
        expected: &[THREE, TWO, ONE, DROPPED, "joined: 42"],
        status: 0,
        body: || threads_end(exits),
    },
    SelfTest {
        name: "thread-pthread-cancel",
        about: "a thread is cancelled (pthread_cancel)",
        expected: &["it waits", THREE, TWO, ONE, DROPPED, "joined: cancelled"],
        status: 0,
        body: || threads_end(waits),
    },
];

/// Set when the thread waits to be cancelled.
static WAITS: AtomicBool = AtomicBool::new(false);

extern "C-unwind" fn returns(_: *mut c_void) -> *mut c_void {
    load();
    RESULT
}

extern "C-unwind" fn exits(_: *mut c_void) -> *mut c_void {
    load();
    // SAFETY: this frame holds nothing that has to be dropped, and the system called it.
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
    // SAFETY: a number or a pointer.
    let (mut thread, mut result) = (unsafe { std::mem::zeroed() }, std::ptr::null_mut());
    // SAFETY: the start routines ignore their argument.
    let error = unsafe { pthread_create(&raw mut thread, std::ptr::null(), start, std::ptr::null_mut()) };
    if error != 0 {
        say(&format!("no thread: {}", std::io::Error::from_raw_os_error(error)));
        return ExitCode::FAILURE;
    }
    if std::ptr::fn_addr_eq(start, waits as Start) {
        // If the thread never waits, the time limit of this process ends both.
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
