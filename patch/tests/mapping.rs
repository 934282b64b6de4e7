//! A patch leaves the code's mapping in one piece, by which unwinders in other processes and
//! profilers find an object's code.
#![cfg(target_os = "linux")]

mod common;

use common::*;
use exeunt_patch::raw::{self, Fallback, Reason, Refusal};
use exeunt_patch::{Patch, Site};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// One test at a time: each counts the pieces of the one mapping that all tests patch.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The lines of `/proc/self/maps` that are code of the file to which the address belongs.
/// ([`mappings`] would merge them.)
fn pieces(address: usize) -> Vec<String> {
    let text = std::fs::read_to_string("/proc/self/maps").expect("/proc/self/maps");
    let line_of = |line: &str| {
        let (start, end) = line.split(' ').next().unwrap().split_once('-').unwrap();
        let (start, end) = (usize::from_str_radix(start, 16).unwrap(), usize::from_str_radix(end, 16).unwrap());
        (start..end).contains(&address)
    };
    let name = |line: &str| line.split_whitespace().nth(5).unwrap_or_default().to_owned();
    let file = name(text.lines().find(|line| line_of(line)).expect("the address is mapped"));
    assert!(!file.is_empty(), "{address:#x} is not in a file");
    let is_code = |line: &&str| line.split_whitespace().nth(1).is_some_and(|permissions| permissions.contains('x'));
    text.lines().filter(is_code).filter(|line| name(line) == file).map(str::to_owned).collect()
}

/// Each is in its own page, so that each becomes a separate mapping if the page alone changes its
/// protection.
const SITES: [Function; 3] = [exeunt_site_jump, exeunt_site_jump_b, exeunt_site_jump_c];

fn plan(site: Function) -> Patch {
    // SAFETY: a label of the fixture's own instructions, which stay mapped.
    unsafe { Site::new(site as *const u8) }.retarget(exeunt_one as *const u8, exeunt_two as *const u8).unwrap()
}

#[test]
fn applying_and_undoing_patches_leaves_one_mapping_of_the_code() {
    let _alone = alone();
    let before = pieces(at(exeunt_site_jump));
    assert_eq!(before.len(), 1, "{before:#?}");
    let mut patches = SITES.map(plan);
    for patch in &mut patches {
        // SAFETY: the fixture's targets fit its sites; no other code changes this mapping's
        // protection.
        unsafe { patch.apply() }.unwrap();
        assert_eq!(pieces(at(exeunt_site_jump)), before, "after {patch}");
    }
    // SAFETY: a function of the fixture.
    assert_eq!(unsafe { exeunt_fn_jump() }, 2);
    for patch in &mut patches {
        patch.undo().unwrap();
        assert_eq!(pieces(at(exeunt_site_jump)), before, "after undoing {patch}");
    }
    assert_eq!(writable_code(), []);
}

#[test]
fn the_raw_functions_leave_one_mapping_too() {
    let _alone = alone();
    let (one, two) = (at(exeunt_one), at(exeunt_two));
    let before = pieces(at(exeunt_site_jump));
    for site in SITES.map(at) {
        for (from, to) in [(one, two), (two, one)] {
            // SAFETY: the fixture's code, and no other test patches it now.
            unsafe { raw::retarget(site, from, to, 0, Fallback::Refuse) }.unwrap();
            assert_eq!(pieces(site), before);
        }
    }
    assert_eq!(writable_code(), []);
}

#[test]
fn a_mapping_is_found_with_its_bounds_and_whether_it_is_of_a_file() {
    let _alone = alone();
    let code = raw::mapping::executable(at(exeunt_site_jump)).unwrap();
    let line = pieces(at(exeunt_site_jump)).remove(0);
    assert!(line.starts_with(&format!("{:x}-{:x} r-xp ", code.start, code.end)), "{code:x?} is not {line}");
    assert!(code.of_file, "{code:x?}");

    // Memory like a JIT compiler's: other code may change the protection of parts of it at any
    // time, so a patch changes no more than a page. SAFETY: a new mapping.
    let jit = unsafe {
        let rights = libc::PROT_READ | libc::PROT_EXEC;
        libc::mmap(std::ptr::null_mut(), 3 << 12, rights, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0)
    };
    assert_ne!(jit, libc::MAP_FAILED);
    let found = raw::mapping::executable(jit.addr() + 4096).unwrap();
    assert!(!found.of_file && (found.start..found.end).contains(&(jit.addr() + 4096)), "{found:x?}");
    // SAFETY: the mapping from above.
    unsafe { libc::munmap(jit, 3 << 12) };
    assert_eq!(raw::mapping::executable(1 << 12), Err(Refusal::new(Reason::NotExecutable)));
}

/// The pages of the mapping at `address` that are the process's own copies, in KiB.
fn own_copies(address: usize) -> usize {
    let text = std::fs::read_to_string("/proc/self/smaps").expect("/proc/self/smaps");
    let (mut sum, mut here) = (0, false);
    let file = pieces(address).remove(0).split_whitespace().nth(5).unwrap().to_owned();
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            [_, permissions, _, _, _, path] => here = path == file && permissions.contains('x'),
            ["Anonymous:", kilobytes, "kB"] if here => sum += kilobytes.parse::<usize>().unwrap(),
            _ => {}
        }
    }
    sum
}

#[test]
fn code_that_is_locked_in_memory_is_not_copied_as_a_whole() {
    const CHILD: &str = "EXEUNT_MAPPING_CHILD";
    const NAME: &str = "code_that_is_locked_in_memory_is_not_copied_as_a_whole";
    if cfg!(target_arch = "aarch64") {
        println!("user-mode QEMU's smaps shows no copies: nothing is tested");
        return;
    }
    if std::env::var_os(CHILD).is_none() {
        // In a child process, because the mapping stays split.
        let mut child = std::process::Command::new(std::env::current_exe().unwrap());
        let output = child.args(["--exact", NAME, "--nocapture"]).env(CHILD, "1").output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
        assert!(text.contains("1 passed"), "the child ran no test: {text}");
        return;
    }
    let code = raw::mapping::executable(at(exeunt_site_jump)).unwrap();
    let before = own_copies(code.start);
    // SAFETY: only affects where pages are kept.
    let locked = unsafe { libc::mlock(std::ptr::without_provenance(code.start), code.end - code.start) };
    assert_eq!(locked, 0, "{}", std::io::Error::last_os_error());
    let mut patch = plan(exeunt_site_jump);
    // SAFETY: as above.
    unsafe { patch.apply() }.unwrap();
    // SAFETY: a function of the fixture.
    assert_eq!(unsafe { exeunt_fn_jump() }, 2);
    let page = 4;
    assert_eq!(own_copies(code.start) - before, page, "of {} KiB", (code.end - code.start) >> 10);
    assert_eq!(writable_code(), []);
}
