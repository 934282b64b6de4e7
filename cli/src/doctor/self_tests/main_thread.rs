//! How the main thread ends: `main` returns, calls `exit`, or calls `pthread_exit`.

use super::load::{DROPPED, ONE, THREE, TWO, load};
use super::pthread::{RESULT, pthread_create, pthread_exit};
use crate::doctor::child::{SelfTest, say};
use std::ffi::c_void;
use std::process::ExitCode;

pub const SELF_TESTS: [SelfTest; 3] = [
    SelfTest {
        name: "main-return",
        about: "main returns",
        expected: &["main returns", THREE, TWO, ONE, DROPPED],
        status: 7,
        body: main_returns,
    },
    SelfTest {
        name: "main-exit",
        about: "main calls exit",
        expected: &["main calls exit", THREE, TWO, ONE, DROPPED],
        status: 7,
        body: main_exits,
    },
    SelfTest {
        name: "main-pthread-exit",
        about: "main ends by pthread_exit, while another thread goes on",
        expected: &["main calls pthread_exit", THREE, TWO, ONE, DROPPED, "another thread: main has ended"],
        status: 7,
        body: main_exits_its_thread,
    },
];

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

/// Calls `pthread_exit`, which unwinds the stack up to this frame, and then ends the thread. To
/// unwinders this is the outermost frame. An outer frame is the one in which Rust's runtime catches
/// panics, which does not let forced unwinding pass.
#[cfg(target_os = "linux")]
#[unsafe(naked)]
unsafe extern "C" fn exit_thread(_result: *mut c_void) -> ! {
    #[cfg(target_arch = "x86_64")]
    std::arch::naked_asm!(
        ".cfi_startproc",
        ".cfi_undefined rip",
        "push rax", // the stack pointer must be a multiple of 16 at the call
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
    // SAFETY: no other code joins the main thread.
    unsafe { libc::pthread_join(main as libc::pthread_t, std::ptr::null_mut()) };
    say("another thread: main has ended");
    // SAFETY: ends the process without running handlers.
    unsafe { libc::_exit(7) }
}

fn main_exits_its_thread() -> ExitCode {
    load();
    // SAFETY: a number or a pointer.
    let mut thread = unsafe { std::mem::zeroed() };
    // SAFETY: the start routine takes the main thread's handle.
    let error =
        unsafe { pthread_create(&raw mut thread, std::ptr::null(), outlives, libc::pthread_self() as *mut c_void) };
    if error != 0 {
        say(&format!("no thread: {}", std::io::Error::from_raw_os_error(error)));
        return ExitCode::FAILURE;
    }
    say("main calls pthread_exit");
    // SAFETY: no code returns to the outer frames, which stay unchanged. The other thread does not
    // use them, and ends the process.
    unsafe { exit_thread(RESULT) }
}
