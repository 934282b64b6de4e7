//! Why another process cannot be read, and what helps.

use crate::trace_rights::{field, forbidden};
use libc::pid_t;
use std::fs::read_to_string;
use std::io::Error;

/// The reason and the remedy, for an error of a system call about a process.
pub fn of(number: pid_t, error: &Error) -> String {
    let Ok(status) = read_to_string(format!("/proc/{number}/status")) else {
        return format!("There is no process {number}. `ps -e` lists the processes.");
    };
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => format!("Process {number} may not be read: {}", forbidden(&status)),
        Some(libc::ENOSYS) => format!(
            "Process {number} cannot be read: this system has no ptrace (an emulator's user mode has none). \
             `exeunt anatomy --self` works without."
        ),
        _ if field(&status, "State").is_some_and(|state| state.starts_with('Z')) => {
            format!("Process {number} has ended, and has no stack left: its parent has not waited for it.")
        }
        _ => format!("Process {number} cannot be read: {error}."),
    }
}
