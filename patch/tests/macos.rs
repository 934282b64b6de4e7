//! macOS on Intel processors: a page of this program, and a plan for a page of the shared cache.
//!
//! Compiled and linked, but never run by its authors. `EXEUNT_HAMMER` sets the rounds of the last
//! test.
#![cfg(all(target_os = "macos", target_arch = "x86_64"))]

use exeunt_patch::{Error, Patch, Site};
use std::arch::global_asm;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

// The site has a page of its own. `site` jumps to `one`.
global_asm!(
    ".section __TEXT,__exeunt_site,regular,pure_instructions",
    ".p2align 12",
    ".globl _exeunt_site, _exeunt_one, _exeunt_two",
    "_exeunt_site: jmp _exeunt_one",
    ".p2align 4",
    "_exeunt_one: mov eax, 1",
    "ret",
    "_exeunt_two: mov eax, 2",
    "ret",
    ".p2align 12",
    ".text",
);

unsafe extern "C" {
    safe fn exeunt_site() -> i32;
    safe fn exeunt_one() -> i32;
    safe fn exeunt_two() -> i32;
    fn mach_vm_region_recurse(
        task: u32,
        start: *mut u64,
        size: *mut u64,
        depth: *mut u32,
        info: *mut [i32; 12],
        count: *mut u32,
    ) -> i32;
    static mach_task_self_: u32;
}

static ALONE: Mutex<()> = Mutex::new(());

fn site(at: *const u8) -> Site {
    // SAFETY: instructions of this program, or of a system library; both stay mapped.
    unsafe { Site::new(at) }
}

fn bytes() -> [u8; 8] {
    // SAFETY: the site's page.
    unsafe { (exeunt_site as *const [u8; 8]).read_volatile() }
}

/// Protection of the page at an address: 1 to read, 2 to write, 4 to execute.
fn protection(at: *const u8) -> i32 {
    let (mut start, mut size, mut depth, mut count) = (at as u64, 0, 1024, 12);
    let mut info = [0; 12];
    // SAFETY: changes nothing; 12 words are `vm_region_submap_short_info_64`, whose first is the
    // protection.
    let result = unsafe {
        mach_vm_region_recurse(mach_task_self_, &mut start, &mut size, &mut depth, &raw mut info, &mut count)
    };
    assert_eq!(result, 0);
    assert!((start..start + size).contains(&(at as u64)));
    info[0]
}

fn apply(patch: &mut Patch) {
    // SAFETY: the functions have one type; no other code changes this page.
    unsafe { patch.apply() }.unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn a_branch_is_retargeted_and_every_byte_and_right_comes_back() {
    let _alone = ALONE.lock();
    let before = bytes();
    let mut patch = site(exeunt_site as *const u8).retarget(exeunt_one as *const u8, exeunt_two as *const u8).unwrap();
    for _ in 0..3 {
        assert_eq!((exeunt_site(), protection(exeunt_site as *const u8)), (1, 5));
        apply(&mut patch);
        assert_eq!((exeunt_site(), protection(exeunt_site as *const u8)), (2, 5), "{patch}");
        patch.undo().unwrap();
        assert_eq!(bytes(), before);
    }
    assert_eq!(exeunt_site(), 1);
}

#[test]
fn a_stub_is_executable_and_not_writable_and_stays() {
    let _alone = ALONE.lock();
    // Too far for a branch: a stub is needed. `getpid` takes no arguments.
    let far = libc::getpid as *const u8;
    let mut patch = site(exeunt_site as *const u8).retarget(exeunt_one as *const u8, far).unwrap();
    let stub = patch.stub().expect("libSystem is further away than a branch reaches");
    apply(&mut patch);
    assert_eq!((exeunt_site(), protection(stub)), (std::process::id() as i32, 5));
    patch.undo().unwrap();
    assert_eq!((exeunt_site(), protection(stub)), (1, 5));
}

#[test]
fn an_instruction_that_is_not_a_branch_is_refused_with_its_disassembly() {
    let error = site(exeunt_one as *const u8).target().unwrap_err();
    assert!(matches!(error, Error::NotABranch { .. }) && error.to_string().contains("mov eax"), "{error}");
}

#[test]
fn a_plan_for_the_shared_cache_finds_a_place_for_its_stub_and_changes_nothing() {
    // The first direct call or jump of `pthread_create`.
    let mut here = site(libc::pthread_create as *const u8);
    for _ in 0..64 {
        if let Ok(target) = here.target() {
            let patch = here.retarget(target, exeunt_two as *const u8).unwrap_or_else(|error| panic!("{error}"));
            println!("{patch}");
            assert!(patch.stub().is_some());
            assert_eq!(protection(here.address()), 5);
            return;
        }
        here = here.next().unwrap();
    }
    panic!("no call among the first instructions of pthread_create");
}

#[test]
fn threads_that_run_the_site_meanwhile_run_the_old_code_or_the_new() {
    let _alone = ALONE.lock();
    let rounds = std::env::var("EXEUNT_HAMMER").map_or(10_000, |text| text.parse().expect("a number of rounds"));
    let stop = AtomicBool::new(false);
    let seen = [AtomicU64::new(0), AtomicU64::new(0)];
    let mut patch = site(exeunt_site as *const u8).retarget(exeunt_one as *const u8, exeunt_two as *const u8).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let answer = exeunt_site();
                    assert!(answer == 1 || answer == 2, "{answer}");
                    seen[answer as usize - 1].fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        for _ in 0..rounds {
            apply(&mut patch);
            assert_eq!(exeunt_site(), 2);
            patch.undo().unwrap();
            assert_eq!(exeunt_site(), 1);
        }
        stop.store(true, Ordering::Relaxed);
    });
    println!("{seen:?}");
}
