//! Why the kernel does not let this command trace a process, and what helps.

use std::fs::read_to_string;

/// The reason and the remedy, by the process's `status`.
pub fn forbidden(status: &str) -> String {
    let tracer = field(status, "TracerPid").filter(|&tracer| tracer != "0");
    if let Some(tracer) = tracer {
        let name = read_to_string(format!("/proc/{tracer}/comm")).unwrap_or_default();
        return format!(
            "process {tracer} ({}) traces it, and a process has one tracer. Detach that one first.",
            name.trim_end()
        );
    }
    // SAFETY: a query.
    let own = unsafe { libc::geteuid() };
    let owner = field(status, "Uid").and_then(|ids| ids.split_whitespace().next()?.parse::<u32>().ok());
    if let Some(owner) = owner.filter(|&owner| own != 0 && owner != own) {
        return format!(
            "it belongs to another user (its user id is {owner}, yours is {own}). \
             Run exeunt as that user, or as root."
        );
    }
    let scope = read_to_string("/proc/sys/kernel/yama/ptrace_scope").unwrap_or_default();
    match scope.trim() {
        "1" if own != 0 => "kernel.yama.ptrace_scope is 1, so a process may trace its own children only. Run exeunt \
                            as root, or `sysctl kernel.yama.ptrace_scope=0` until the next start of the machine."
            .to_owned(),
        "2" if own != 0 => "kernel.yama.ptrace_scope is 2, so only root may trace. Run exeunt as root.".to_owned(),
        "3" => "kernel.yama.ptrace_scope is 3: no process may trace another until the machine starts anew with \
                another value."
            .to_owned(),
        _ if own != 0 => "it has changed its user or group, or does not let itself be traced (prctl, \
                          PR_SET_DUMPABLE). Run exeunt as root."
            .to_owned(),
        _ => "root has no right to trace here, as in many containers. Start the container with the capability \
              SYS_PTRACE (`docker run --cap-add=SYS_PTRACE`), or run exeunt outside of it."
            .to_owned(),
    }
}

/// A field of a process's `status`.
pub fn field<'s>(status: &'s str, name: &str) -> Option<&'s str> {
    status.lines().find_map(|line| Some(line.strip_prefix(name)?.strip_prefix(':')?.trim()))
}
