//! The ends of the process that code can see: `exit`, after all handlers, and `_exit`.

use crate::life::process_ends;
use crate::shared::keeping_errno;
use std::ffi::c_int;

/// `exit` runs this after the program's own handlers and destructors.
#[used]
#[unsafe(link_section = ".fini_array")]
static FINISH: extern "C" fn() = finish;

extern "C" fn finish() {
    // Later destructors of the process see it.
    keeping_errno(|| process_ends(true));
}

/// Stands in for libc's.
#[unsafe(no_mangle)]
extern "C" fn _exit(status: c_int) -> ! {
    process_ends(false);
    leave(status)
}

/// Stands in for libc's.
#[unsafe(no_mangle)]
extern "C" fn _Exit(status: c_int) -> ! {
    process_ends(false);
    leave(status)
}

fn leave(status: c_int) -> ! {
    loop {
        // SAFETY: has no conditions.
        unsafe { libc::syscall(libc::SYS_exit_group, status) };
    }
}
