//! Whether the running thread has a shadow stack. Slot redirect refuses such threads.

/// Whether the processor checks this thread's returns against a shadow stack.
pub(crate) fn is_active() -> bool {
    // The machines that run the tests have none. So the library's own unit tests, and they alone,
    // can pretend.
    #[cfg(test)]
    if std::env::var_os("EXEUNT_TEST_SHADOW_STACK").is_some() {
        return true;
    }
    crate::machine::arch::shadow_stack_active()
}
