//! How errors and plans name the parts of this system.

/// What errors and plans call the parts of a system.
pub struct Wording {
    /// What its error numbers are called.
    pub number: &'static str,
    /// What could not be done when no protection can be looked up.
    pub look_up: &'static str,
    /// And what helps.
    pub look_up_advice: &'static str,
    /// Who may forbid that code is made writable.
    pub protect_advice: &'static str,
    /// What is refused when other processors cannot be made to see new code.
    pub synchronise: &'static str,
    /// And what helps.
    pub synchronise_advice: &'static str,
    /// What follows a store, in a plan.
    pub then: &'static str,
}

#[cfg(target_os = "linux")]
pub const WORDING: Wording = Wording {
    number: "error",
    look_up: "/proc/self/maps cannot be read",
    look_up_advice: "mount /proc",
    protect_advice: "a seccomp filter or SELinux (execmod) may forbid it",
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
    synchronise: "mach_vm_protect of a page of our own is refused",
    synchronise_advice: "the process may be out of address space",
    then: "a right is taken from a page, which interrupts all processors that run this process",
};
