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

/// The kernel's flags of the mapping at `address`.
fn flags(address: usize) -> Vec<String> {
    let text = std::fs::read_to_string("/proc/self/smaps").expect("/proc/self/smaps");
    let mut lines = text.lines().skip_while(|line| !line.starts_with(&format!("{address:x}-")));
    let line = lines.find(|line| line.starts_with("VmFlags:")).expect("the mapping has flags");
    line.split_whitespace().skip(1).map(str::to_owned).collect()
}

#[test]
fn code_that_is_locked_in_memory_stays_locked_and_one_mapping_and_one_page_is_copied() {
    locked("code_that_is_locked_in_memory_stays_locked_and_one_mapping_and_one_page_is_copied", 0);
}

#[test]
fn code_whose_pages_are_locked_when_they_are_used_stays_so() {
    locked("code_whose_pages_are_locked_when_they_are_used_stays_so", libc::MLOCK_ONFAULT);
}

fn locked(name: &str, how: libc::c_uint) {
    const CHILD: &str = "EXEUNT_MAPPING_CHILD";
    if cfg!(target_arch = "aarch64") {
        println!("user-mode QEMU's smaps shows no copies: nothing is tested");
        return;
    }
    if std::env::var_os(CHILD).is_none() {
        // In a child process, because the mapping would stay locked.
        let mut child = std::process::Command::new(std::env::current_exe().unwrap());
        let output = child.args(["--exact", name, "--nocapture"]).env(CHILD, "1").output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
        assert!(text.contains("1 passed"), "the child ran no test: {text}");
        return;
    }
    let code = raw::mapping::executable(at(exeunt_site_jump)).unwrap();
    let (before, mapping) = (own_copies(code.start), pieces(code.start));
    // SAFETY: only affects where pages are kept.
    let locked = unsafe { libc::mlock2(std::ptr::without_provenance(code.start), code.end - code.start, how) };
    assert_eq!(locked, 0, "{}", std::io::Error::last_os_error());
    let has = |flag: &str| flags(code.start).iter().any(|other| other == flag);
    assert!(has("lo") && has("lf") == (how != 0), "{:?}", flags(code.start));
    let mut patch = plan(exeunt_site_jump);
    // SAFETY: as above.
    unsafe { patch.apply() }.unwrap();
    // SAFETY: a function of the fixture.
    assert_eq!(unsafe { exeunt_fn_jump() }, 2);
    let page = 4;
    assert_eq!(own_copies(code.start) - before, page, "of {} KiB", (code.end - code.start) >> 10);
    assert_eq!(pieces(code.start), mapping);
    assert!(has("lo") && has("lf") == (how != 0), "{:?}", flags(code.start));
    assert_eq!(writable_code(), []);
}

#[test]
fn a_word_that_was_written_like_a_breakpoint_leaves_one_mapping_when_it_is_patched() {
    use std::os::unix::fs::FileExt;
    let _alone = alone();
    let site = at(exeunt_site_jump_b);
    let before = pieces(site);
    // A debugger writes so, and the page is then a copy of its own. The byte stays the same.
    let memory = std::fs::File::options().write(true).open("/proc/self/mem").unwrap();
    memory.write_all_at(&bytes(site)[..1], site as u64).unwrap();
    assert_eq!(pieces(site), before);
    for site in [exeunt_site_jump_b, exeunt_site_jump] {
        let mut patch = plan(site);
        // SAFETY: as above.
        unsafe { patch.apply() }.unwrap();
        assert_eq!(pieces(at(site)), before);
        patch.undo().unwrap();
        assert_eq!(pieces(at(site)), before);
    }
}

#[test]
fn a_mapping_that_another_program_has_split_is_not_split_further() {
    let _alone = alone();
    // A mapping of this program's file, of five pages, with a branch in each.
    let program = std::fs::File::open(std::env::current_exe().unwrap()).unwrap();
    use std::os::fd::AsRawFd;
    const PAGE: usize = 0x1_0000;
    let (read, write, execute) = (libc::PROT_READ, libc::PROT_WRITE, libc::PROT_EXEC);
    // SAFETY: a new mapping.
    let map =
        unsafe { libc::mmap(std::ptr::null_mut(), 5 * PAGE, read | write, libc::MAP_PRIVATE, program.as_raw_fd(), 0) };
    assert_ne!(map, libc::MAP_FAILED);
    let page = |number: usize| map.addr() + number * PAGE;
    for number in 0..5 {
        // SAFETY: the mapping from above, which is writable.
        unsafe { std::ptr::copy_nonoverlapping(branch().as_ptr(), page(number) as *mut u8, branch().len()) };
    }
    // SAFETY: as above; nothing runs there.
    let protect = |number: usize, count: usize, rights| unsafe {
        assert_eq!(libc::mprotect(page(number) as *mut libc::c_void, count * PAGE, rights), 0);
    };
    protect(0, 5, read | execute);
    // SAFETY: no memory is changed. Locked for good, the page is a mapping of its own.
    assert_eq!(unsafe { libc::mlock(page(2) as *const libc::c_void, PAGE) }, 0);
    let here = || {
        let all = std::fs::read_to_string("/proc/self/maps").unwrap();
        let start = |line: &str| usize::from_str_radix(line.split('-').next().unwrap(), 16).unwrap();
        all.lines().filter(|line| (page(0)..page(5)).contains(&start(line))).map(str::to_owned).collect::<Vec<_>>()
    };
    let before = here();
    assert_eq!(before.len(), 3, "{before:#?}");
    for number in [0, 2, 4, 2] {
        let site = page(number);
        // SAFETY: the code from above, which nothing runs.
        unsafe { raw::retarget(site, site + 0x40, site + 0x80, 0, Fallback::Refuse) }.unwrap();
        assert_eq!(here(), before, "after the piece of page {number}");
        // SAFETY: as above.
        unsafe { raw::retarget(site, site + 0x80, site + 0x40, 0, Fallback::Refuse) }.unwrap();
        assert_eq!(here(), before, "after the piece of page {number}");
    }
    // SAFETY: the mapping from above.
    unsafe { libc::munmap(map, 5 * PAGE) };
}

/// A branch 0x40 bytes forward.
fn branch() -> Vec<u8> {
    if cfg!(target_arch = "x86_64") { vec![0xe9, 0x3b, 0, 0, 0] } else { 0x1400_0010_u32.to_le_bytes().to_vec() }
}
