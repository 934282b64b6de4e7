//! `exit` on the main thread, in the difficult cases: another thread uses a value that a `with` has
//! lent, there is no memory, or the allocator calls `exit`.
//!
//! The harness runs tests on other threads than that of `main`, so this file does not use it
//! (`harness = false`). `main` either runs the cases, or is one of them.

#[cfg(target_env = "gnu")]
mod linux;

/// The cases use fibers of `makecontext` and limits of glibc.
fn main() {
    #[cfg(target_env = "gnu")]
    linux::main();
}
