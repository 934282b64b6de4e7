//! Threads run a site while it is patched and the patch is undone, many times.
//!
//! The test of `raw` makes 100,000 rounds. Each test of the engine makes a tenth of that, because
//! every step of it reads the list of mappings. On aarch64 the tests make a hundredth, because they
//! run under QEMU, which translates the page anew after every store. On a real aarch64 processor,
//! set `EXEUNT_HAMMER=100000`.
#![cfg(target_os = "linux")]

mod common;

use common::*;
use exeunt_patch::raw::{self, Fallback};
use exeunt_patch::{Patch, Site};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

/// One test at a time, because each keeps two processors busy.
static ALONE: Mutex<()> = Mutex::new(());

fn rounds() -> u64 {
    let usual = if cfg!(target_arch = "x86_64") { 100_000 } else { 1_000 };
    std::env::var("EXEUNT_HAMMER").map_or(usual, |text| text.parse().expect("a number of rounds"))
}

/// The number of times that one thread got each of the answers.
type Answers = [AtomicU64; 2];

/// Runs `function` on two threads while `patch_and_undo` is called `rounds` times. It must call its
/// argument while the patch is applied. Every run of `function` must return one of `allowed`.
fn hammer(name: &str, function: Function, allowed: [usize; 2], rounds: u64, mut patch_and_undo: impl FnMut(&dyn Fn())) {
    let stop = AtomicBool::new(false);
    let seen: [Answers; 2] = Default::default();
    let total = |index: usize| seen.iter().map(|answers| answers[index].load(Ordering::Relaxed)).sum::<u64>();
    let pages = executable_mappings();
    let started = Instant::now();
    std::thread::scope(|scope| {
        let runners = seen.each_ref().map(|answers| {
            let (stop, allowed) = (&stop, &allowed);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    // SAFETY: a function of the fixture, before or after the patch.
                    let answer = unsafe { function() };
                    match allowed.iter().position(|&value| value == answer) {
                        // Only this thread writes this counter.
                        Some(index) => {
                            answers[index].store(answers[index].load(Ordering::Relaxed) + 1, Ordering::Relaxed)
                        }
                        None => panic!("{answer} is neither of {allowed:?}"),
                    }
                }
            })
        });
        let _stops = StopAtEnd(&stop);
        // The scheduler decides when the threads run, so the test waits for the first of each
        // answer.
        let first_of = |index: usize| {
            while total(index) == 0 && !runners.iter().any(|runner| runner.is_finished()) {
                std::thread::yield_now();
            }
        };
        first_of(0);
        // A displaced instruction returns the same before and after.
        let patched = if allowed[0] == allowed[1] { 0 } else { 1 };
        for _ in 0..rounds {
            patch_and_undo(&|| first_of(patched));
        }
    });
    let [first, second] = [total(0), total(1)];
    let runs = format!("{first} runs returned {}, {second} returned {}", allowed[0], allowed[1]);
    println!("{name}: {rounds} rounds in {:.1?}; {runs}", started.elapsed());
    same_code_pages(&pages).unwrap();
    assert_eq!(writable_code(), []);
}

fn exchange(patch: &mut Patch, between: &dyn Fn()) {
    // SAFETY: the fixture's targets fit its sites.
    unsafe { patch.apply() }.unwrap();
    between();
    patch.undo().unwrap();
}

#[test]
fn raw_retarget_retargets_a_branch_that_two_threads_run() {
    let _alone = ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let (site, one, two) = (at(exeunt_site_jump), at(exeunt_one), at(exeunt_far_two));
    let before = bytes(site);
    hammer("raw", exeunt_fn_jump, [1, 2], rounds(), |between| {
        for (from, to) in [(one, two), (two, one)] {
            // SAFETY: the fixture's code; no other test patches it now.
            unsafe { raw::retarget(site, from, to, 0, Fallback::Refuse) }.unwrap();
            if to == two {
                between();
            }
        }
    });
    assert_eq!(bytes(site), before);
}

#[test]
fn the_engine_retargets_a_call_that_two_threads_run() {
    let _alone = ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    // SAFETY: the fixture's label.
    let site = unsafe { Site::new(exeunt_site_call as *const u8) };
    let mut patch = site.retarget(exeunt_one as *const u8, exeunt_far_two as *const u8).unwrap();
    let before = bytes(at(exeunt_site_call));
    hammer("engine, call", exeunt_fn_call, [1, 2], rounds() / 10, |between| exchange(&mut patch, between));
    assert_eq!(bytes(at(exeunt_site_call)), before);
}

#[cfg(target_arch = "x86_64")]
#[test]
fn a_branch_across_a_quadword_is_retargeted_through_a_relay_while_two_threads_run_it() {
    let _alone = ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    // Two bytes of the displacement in one quadword, two in the next.
    let (function, label) = BRANCHES[5];
    // SAFETY: the fixture's label.
    let site = unsafe { Site::new(label as *const u8) };
    let mut patch = site.retarget(exeunt_one as *const u8, exeunt_far_two as *const u8).unwrap();
    assert!(patch.stub().is_some());
    hammer("engine, relay", function, [1, 2], rounds() / 10, |between| exchange(&mut patch, between));
}

#[test]
fn an_instruction_is_displaced_while_two_threads_run_it() {
    let _alone = ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    // aarch64: `nop`, which may be replaced while it runs and does not change x0.
    #[cfg(target_arch = "aarch64")]
    let (function, label, value) = (exeunt_fn_nop_returns as Function, exeunt_site_nop_returns as Function, 5);
    #[cfg(target_arch = "x86_64")]
    let (function, label, value) = (exeunt_fn_none as Function, exeunt_site_none as Function, 3);
    // SAFETY: the fixture's label.
    let mut patch = unsafe { Site::new(label as *const u8) }.displace().unwrap();
    let before = bytes(at(label));
    hammer("engine, displaced", function, [value; 2], rounds() / 10, |between| exchange(&mut patch, between));
    assert_eq!(bytes(at(label)), before);
}
