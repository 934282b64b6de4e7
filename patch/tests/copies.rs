//! A process can contain this crate more than once: in two shared libraries, or also in a Go
//! program. The copies share no variable, and patch the same mapping.
#![cfg(target_os = "linux")]

mod common;
#[allow(dead_code, unused_imports)]
#[path = "../src/raw/mod.rs"]
mod second;

use common::*;
use exeunt_patch::raw;

/// User-mode QEMU leaves a mapping out of its list while another thread changes the mapping's
/// protection, so this tries again there. The kernel's list is never without it.
fn with_the_list<E: std::fmt::Debug + PartialEq>(refused: E, patch: impl Fn() -> Result<(), E>) {
    let mut done = patch();
    if cfg!(target_arch = "aarch64") {
        for _ in 0..1000 {
            if !done.as_ref().is_err_and(|error| *error == refused) {
                break;
            }
            done = patch();
        }
    }
    done.unwrap();
}

#[test]
fn two_copies_patch_the_same_mapping_at_the_same_time() {
    let rounds = if cfg!(target_arch = "x86_64") { 1_000 } else { 100 };
    let (one, two) = (at(exeunt_one), at(exeunt_two));
    let (here, there) = (at(exeunt_site_jump), at(exeunt_site_jump_b));
    let (before, pages) = ([bytes(here), bytes(there)], executable_mappings());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..rounds {
                for (from, to) in [(one, two), (two, one)] {
                    // SAFETY: the fixture's code; this thread alone uses this copy.
                    let patch = || unsafe { raw::retarget(here, from, to, 0, raw::Fallback::Refuse) };
                    with_the_list(raw::Refusal::new(raw::Reason::NotExecutable), patch);
                }
            }
        });
        scope.spawn(|| {
            for _ in 0..rounds {
                for (from, to) in [(one, two), (two, one)] {
                    // SAFETY: as above, at another site.
                    let patch = || unsafe { second::retarget(there, from, to, 0, second::Fallback::Refuse) };
                    with_the_list(second::Refusal::new(second::Reason::NotExecutable), patch);
                }
            }
        });
    });
    assert_eq!([bytes(here), bytes(there)], before);
    assert_eq!(executable_mappings(), pages);
    assert_eq!(writable_code(), []);
}
