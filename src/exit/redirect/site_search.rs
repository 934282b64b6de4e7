//! Finds the instructions of an exit trampoline that have to lead to the hook (`find`), and holds
//! the list of those that are patched.

use super::site_refusal::refused;
use crate::base::error::Error;
use crate::base::kind::Kind;
use crate::exit::trampoline;
use exeunt_patch::{Patch, Site};
use std::sync::{Mutex, PoisonError};

/// The sites of one exit trampoline.
pub(super) struct Sites {
    pub(super) found: Vec<Found>,
    /// Whether an end of its stacks meets none of the sites.
    pub(super) landing_bypasses_hook: bool,
}

/// One site.
#[derive(Clone, Copy)]
pub(super) struct Found {
    pub(super) site: Site,
    pub(super) entered: HookEntry,
}

/// How the hook is entered, and what it goes on to.
#[derive(Clone, Copy)]
pub(super) enum HookEntry {
    /// By a direct call, instead of the call's target.
    ByCall,
    /// By the call of `setcontext` in x86_64's `__start_context`.
    #[cfg(target_arch = "x86_64")]
    ByContextCall,
    /// By a branch in place of the `nop` that aarch64's `__start_context` begins with.
    #[cfg(target_arch = "aarch64")]
    ByContextBranch,
}

/// A patch that is applied, and stays.
pub(super) struct Applied {
    pub(super) patch: Patch,
    pub(super) address: usize,
    pub(super) target: usize,
}

/// Only used under the process lock.
pub(super) static APPLIED: Mutex<Vec<Applied>> = Mutex::new(Vec::new());

/// The sites at which the hook has to be, so that every end of a stack of the exit trampoline
/// `number` meets it.
pub(super) fn find(number: usize) -> Result<Sites, Error> {
    let original = trampoline::original(number);
    // SAFETY: a return address that unwinding gave is the first byte of an instruction, in code
    // that stays mapped.
    let start = unsafe { Site::new(std::ptr::with_exposed_provenance(original)) };
    // Only glibc before 2.34 needs it, and only for `main`. So the library's own unit tests, and
    // they alone, can pretend.
    #[cfg(test)]
    if std::env::var_os("EXEUNT_TEST_LANDS").is_some() {
        return Ok(Sites { found: Vec::new(), landing_bypasses_hook: true });
    }
    let mut landing_bypasses_hook = false;
    let found = match trampoline::kind(number) {
        // Exeunt's own code, which contains the hook.
        Kind::Entered => Vec::new(),
        Kind::Fiber => context(start).map_err(refused(number))?,
        kind => {
            let mut sites = start.first_calls().map_err(refused(number))?;
            if kind == Kind::Main && cfg!(target_env = "gnu") {
                let unwound = sites.last().copied().and_then(unwound_main);
                landing_bypasses_hook = unwound.is_none();
                sites.extend(unwound);
            }
            sites.into_iter().map(|site| Found { site, entered: HookEntry::ByCall }).collect()
        }
    };
    Ok(Sites { found, landing_bypasses_hook })
}

/// The other end of `main` in glibc. `pthread_exit` does not make `main` return: it lands behind
/// the call of `exit`. There is a call that `start_thread` makes as well, behind its first one
/// (`__nptl_deallocate_tsd`, behind `__call_tls_dtors`).
///
/// Before glibc 2.34 that call goes through a pointer, and in another build it may be elsewhere.
/// Then main's landing is redirected (`exit/landing/glibc.rs`). The safety net would not do: on
/// this way glibc runs no destructors of thread-locals.
fn unwound_main(exit: Site) -> Option<Site> {
    let thread = (0..trampoline::known()).find(|&number| trampoline::kind(number) == Kind::Thread)?;
    // SAFETY: as in `find`.
    let start = unsafe { Site::new(std::ptr::with_exposed_provenance(trampoline::original(thread))) };
    let calls = start.first_calls().ok()?;
    let second = if calls.len() > 1 { calls[1] } else { calls[0].next().ok()? };
    let site = exit.next().ok()?;
    (target(site)? == target(second)?).then_some(site)
}

/// The target of the call at a site: the original one, if it is patched.
fn target(site: Site) -> Option<usize> {
    let applied = APPLIED.lock().unwrap_or_else(PoisonError::into_inner);
    match applied.iter().find(|applied| applied.address == site.address().addr()) {
        Some(patched) => Some(patched.target),
        None => Some(site.target().ok()?.addr()),
    }
}

/// The call of `setcontext` in
///
/// ```text
///     mov %rbx,%rsp; mov (%rsp),%rdi; test %rdi,%rdi; je +8; call setcontext; mov %rax,%rdi; call exit
/// ```
#[cfg(target_arch = "x86_64")]
fn context(start: Site) -> Result<Vec<Found>, exeunt_patch::Error> {
    const SHAPE: [&[u8]; 5] =
        [&[0x48, 0x89, 0xdc], &[0x48, 0x8b, 0x3c, 0x24], &[0x48, 0x85, 0xff], &[0x74, 0x08], &[0xe8]];
    let mut site = start;
    let mut call = start;
    for expected in SHAPE {
        site.expect(expected)?;
        call = site;
        site = site.next()?;
    }
    site.expect(&[0x48, 0x89, 0xc7])?;
    site.next()?.expect(&[0xe8])?;
    Ok(vec![Found { site: call, entered: HookEntry::ByContextCall }])
}

/// The `nop` in
///
/// ```text
///     nop; mov x0, x19; cbnz x0, setcontext; b exit
/// ```
#[cfg(target_arch = "aarch64")]
fn context(start: Site) -> Result<Vec<Found>, exeunt_patch::Error> {
    // Once patched it is a branch. The list of patches says so.
    if !is_patched(start) {
        start.expect(&0xd503_201f_u32.to_le_bytes())?;
    }
    start.next()?.expect(&0xaa13_03e0_u32.to_le_bytes())?;
    Ok(vec![Found { site: start, entered: HookEntry::ByContextBranch }])
}

#[cfg(target_arch = "aarch64")]
fn is_patched(site: Site) -> bool {
    let applied = APPLIED.lock().unwrap_or_else(PoisonError::into_inner);
    applied.iter().any(|applied| applied.address == site.address().addr())
}
