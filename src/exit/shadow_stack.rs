//! Shadow stacks, as the redirects see them.

/// Whether returns on this thread are checked against a shadow stack.
pub(crate) fn is_active() -> bool {
    // No machine of ours has one: this library's own tests, and they alone, can pretend.
    #[cfg(test)]
    if std::env::var_os("EXEUNT_TEST_SHADOW_STACK").is_some() {
        return true;
    }
    crate::machine::arch::shadow_stack_active()
}
