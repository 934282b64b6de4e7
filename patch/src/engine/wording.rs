//! How errors and plans name the parts of this system.

/// The names of one system's parts.
pub struct Wording {
    /// The name of its error numbers.
    pub number: &'static str,
    /// The operation that fails when no protection can be looked up.
    pub look_up: &'static str,
    /// Advice for that case.
    pub look_up_advice: &'static str,
    /// The policy that may forbid making code writable.
    pub protect_advice: &'static str,
    /// The operation that fails when other processors cannot be made to fetch new code.
    pub synchronise: &'static str,
    /// Advice for that case.
    pub synchronise_advice: &'static str,
    /// The step after the store, in a plan.
    pub then: &'static str,
}

#[cfg(target_os = "linux")]
pub const WORDING: Wording = Wording {
    number: "error",
    look_up: "/proc/self/maps cannot be read",
    look_up_advice: "mount /proc",
    protect_advice: "a seccomp filter, SELinux (execmem) or PR_SET_MDWE \
                     (systemd: MemoryDenyWriteExecute) may forbid it",
    synchronise: "membarrier(PRIVATE_EXPEDITED_SYNC_CORE) is refused",
    synchronise_advice: "it needs Linux 4.16",
    then: "membarrier",
};

#[cfg(target_os = "macos")]
pub const WORDING: Wording = Wording {
    number: "kern_return_t",
    look_up: "mach_vm_region_recurse is refused",
    look_up_advice: "a sandbox may forbid it",
    protect_advice: "the hardened runtime forbids it, unless the program has the entitlement \
                     com.apple.security.cs.disable-executable-page-protection",
    synchronise: "mach_vm_protect of a scratch page is refused",
    synchronise_advice: "the process may be out of address space",
    then: "a right is removed from a page, which interrupts all processors that run this process",
};
