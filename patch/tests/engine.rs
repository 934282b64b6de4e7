//! Planning, applying and undoing patches.
#![cfg(target_os = "linux")]

mod common;

use common::*;
use exeunt_patch::{Error, Patch, Site};
use std::sync::atomic::Ordering;
use std::sync::{Mutex, MutexGuard};

/// Tests share sites and compare all mappings, so one runs at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn site(function: Function) -> Site {
    // SAFETY: labels of the fixture's own instructions, which stay mapped.
    unsafe { Site::new(function as *const u8) }
}

fn code(function: Function) -> *const u8 {
    function as *const u8
}

fn apply(patch: &mut Patch) -> Result<(), Error> {
    // SAFETY: targets and hooks of the fixture fit its sites; no other code changes the protection
    // of these pages.
    unsafe { patch.apply() }
}

fn run(function: Function) -> usize {
    // SAFETY: a function of the fixture.
    unsafe { function() }
}

#[test]
fn a_plan_is_inert_and_says_what_it_will_write() {
    let _alone = alone();
    let before = bytes(at(exeunt_site_call));
    let plan = site(exeunt_site_call).retarget(code(exeunt_one), code(exeunt_two)).unwrap();
    let text = plan.to_string();
    let name = if cfg!(target_arch = "x86_64") { "call" } else { "bl" };
    for word in
        ["before", "after", name, &format!("{:#x}", at(exeunt_one)), &format!("{:#x}", at(exeunt_two)), "one store"]
    {
        assert!(text.contains(word), "{word} is not in: {text}");
    }
    assert_eq!(bytes(at(exeunt_site_call)), before);
    let far = site(exeunt_site_call).retarget(code(exeunt_one), std::ptr::without_provenance(0x4242_0000)).unwrap();
    assert!(far.to_string().contains("to be mapped"), "{far}");
    assert_eq!(permissions(far.stub().unwrap().addr()), "");
    assert!(!plan.is_applied());
}

#[test]
fn undo_restores_every_byte_and_the_protection() {
    let _alone = alone();
    let (bytes_before, pages) = (bytes(at(exeunt_site_jump)), executable_mappings());
    let mut patch = site(exeunt_site_jump).retarget(code(exeunt_one), code(exeunt_two)).unwrap();
    for _ in 0..3 {
        assert_eq!(run(exeunt_fn_jump), 1);
        apply(&mut patch).unwrap();
        assert_eq!(run(exeunt_fn_jump), 2);
        assert_eq!(patch.after().bytes, bytes(at(exeunt_site_jump))[..patch.after().bytes.len()]);
        patch.undo().unwrap();
        assert_eq!(bytes(at(exeunt_site_jump)), bytes_before);
    }
    same_code_pages(&pages).unwrap();
    assert_eq!(writable_code(), []);
}

#[test]
fn applying_twice_and_undoing_twice_are_errors() {
    let _alone = alone();
    let here = at(exeunt_site_jump_b);
    let mut patch = site(exeunt_site_jump_b).retarget(code(exeunt_one), code(exeunt_two)).unwrap();
    assert_eq!(patch.undo(), Err(Error::NotApplied { at: here }));
    apply(&mut patch).unwrap();
    assert_eq!(apply(&mut patch), Err(Error::AlreadyApplied { at: here }));
    let mut other = site(exeunt_site_jump_b).retarget(code(exeunt_two), code(exeunt_one)).unwrap();
    assert_eq!(apply(&mut other), Err(Error::Overlaps { at: here, other: here }));
    assert_eq!(run(exeunt_fn_jump_b), 2);
    patch.undo().unwrap();
    assert_eq!(patch.undo(), Err(Error::NotApplied { at: here }));
    assert_eq!(run(exeunt_fn_jump_b), 1);
}

#[test]
fn bytes_that_other_code_changed_are_an_error_for_apply_and_for_undo() {
    let _alone = alone();
    let mut first = site(exeunt_site_jump_c).retarget(code(exeunt_one), code(exeunt_two)).unwrap();
    let mut second = site(exeunt_site_jump_c).retarget(code(exeunt_one), code(exeunt_far_two)).unwrap();
    // Other code that does not use the registry: `raw` alone.
    let elsewhere = |from: Function, to: Function| {
        use exeunt_patch::raw::{Fallback, retarget};
        // SAFETY: no other test patches this page.
        unsafe { retarget(at(exeunt_site_jump_c), at(from), at(to), 0, Fallback::Refuse) }.unwrap();
    };
    elsewhere(exeunt_one, exeunt_two);
    let found = bytes(at(exeunt_site_jump_c));
    for patch in [&mut first, &mut second] {
        assert!(matches!(apply(patch), Err(Error::Changed { .. })));
    }
    assert_eq!(bytes(at(exeunt_site_jump_c)), found);
    elsewhere(exeunt_two, exeunt_one);
    apply(&mut first).unwrap();
    elsewhere(exeunt_two, exeunt_far_two);
    let error = first.undo().unwrap_err();
    assert!(matches!(error, Error::Changed { .. }), "{error}");
    assert!(error.to_string().contains(&format!("{:#x}", at(exeunt_far_two))), "{error}");
    assert_eq!(format!("{error:?}"), error.to_string());
    assert!(first.is_applied());
    elsewhere(exeunt_far_two, exeunt_two);
    first.undo().unwrap();
    assert_eq!(run(exeunt_fn_jump_c), 1);
}

#[test]
fn a_hook_runs_each_time_and_the_displaced_instruction_still_has_its_effect() {
    let _alone = alone();
    #[cfg(target_arch = "x86_64")]
    let cases: [(Function, Function); 3] = [
        (exeunt_fn_none, exeunt_site_none),
        (exeunt_fn_nine, exeunt_site_nine),
        (exeunt_fn_relative, exeunt_site_relative),
    ];
    #[cfg(target_arch = "aarch64")]
    let cases: [(Function, Function); 2] =
        [(exeunt_fn_none, exeunt_site_none), (exeunt_fn_relative, exeunt_site_relative)];
    for (function, label) in cases {
        let (expected, before) = (run(function), bytes(at(label)));
        // SAFETY: only this thread runs it, and the site is a function's entry.
        let site = unsafe { site(label).quiet().x16_is_free() };
        let mut patch = site.divert(code(exeunt_hook)).unwrap();
        HOOK_RESUME.store(patch.resume().unwrap().addr(), Ordering::SeqCst);
        let ran = HOOK_RAN.load(Ordering::SeqCst);
        apply(&mut patch).unwrap();
        assert_eq!(permissions(patch.stub().unwrap().addr()), "r-xp");
        assert_eq!((run(function), run(function)), (expected, expected), "{patch}");
        assert_eq!(HOOK_RAN.load(Ordering::SeqCst), ran + 2);
        patch.undo().unwrap();
        assert_eq!(run(function), expected);
        assert_eq!(HOOK_RAN.load(Ordering::SeqCst), ran + 2);
        assert_eq!(bytes(at(label)), before);
        // The stub stays, because a thread may still be in it, and the next patch with the same
        // code uses it.
        assert_eq!(permissions(patch.stub().unwrap().addr()), "r-xp");
        let again = site.divert(code(exeunt_hook)).unwrap();
        assert_eq!(again.stub(), patch.stub());
    }
    assert_eq!(writable_code(), []);
}

#[test]
fn an_instruction_that_cannot_be_displaced_is_refused_with_its_disassembly_and_advice() {
    let _alone = alone();
    // SAFETY: no thread runs it.
    let error = unsafe { site(exeunt_site_indirect).quiet() }.divert(code(exeunt_hook)).unwrap_err();
    assert!(matches!(error, Error::NotDisplaceable { .. }), "{error}");
    assert!(error.to_string().contains("return address"), "{error}");
    let mnemonic = if cfg!(target_arch = "x86_64") { "call" } else { "blr x0" };
    assert!(error.to_string().contains(mnemonic), "{error}");

    let error = site(exeunt_site_none).retarget(code(exeunt_one), code(exeunt_two)).unwrap_err();
    assert!(matches!(error, Error::NotABranch { .. }), "{error}");
    let error = site(exeunt_site_call).retarget(code(exeunt_two), code(exeunt_one)).unwrap_err();
    assert!(matches!(error, Error::OtherTarget { target, .. } if target == at(exeunt_one)), "{error}");
}

#[test]
fn memory_that_is_not_code_is_refused_without_reading_it() {
    let _alone = alone();
    let data = 5u64;
    for address in [0x10, (&raw const data).addr()] {
        // SAFETY: any address is allowed.
        let site = unsafe { Site::new(std::ptr::without_provenance(address)) };
        assert!(matches!(site.target(), Err(Error::NotExecutable { .. })));
        assert!(matches!(site.displace(), Err(Error::NotExecutable { .. })));
    }
}

#[test]
fn a_target_out_of_reach_is_reached_through_a_relay() {
    let _alone = alone();
    // A copy of `exeunt_two`'s code, beyond a direct branch's reach.
    let code_bytes = bytes(at(exeunt_two));
    // SAFETY: a fresh mapping.
    let far = unsafe {
        let hint = std::ptr::without_provenance_mut(0x20_0000_0000);
        let map =
            libc::mmap(hint, 4096, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0);
        assert_ne!(map, libc::MAP_FAILED);
        std::ptr::copy_nonoverlapping(code_bytes.as_ptr(), map.cast(), 16);
        exeunt_patch::raw::arch::flush(map.addr());
        assert_eq!(libc::mprotect(map, 4096, libc::PROT_READ | libc::PROT_EXEC), 0);
        map
    };
    assert!(far.addr().abs_diff(at(exeunt_site_call)) > 1 << 32);
    let before = bytes(at(exeunt_site_call));
    let mut patch = site(exeunt_site_call).retarget(code(exeunt_one), far.cast()).unwrap();
    let stub = patch.stub().unwrap().addr();
    let reach = if cfg!(target_arch = "x86_64") { 1 << 31 } else { 128 << 20 };
    assert!(stub.abs_diff(at(exeunt_site_call)) < reach);
    assert_eq!(permissions(stub), "");
    apply(&mut patch).unwrap();
    assert_eq!(permissions(stub), "r-xp");
    assert_eq!(run(exeunt_fn_call), 2);
    assert_eq!(site(exeunt_site_call).target().unwrap().addr(), stub);
    patch.undo().unwrap();
    assert_eq!(run(exeunt_fn_call), 1);
    assert_eq!(bytes(at(exeunt_site_call)), before);
}

#[test]
fn a_page_that_was_mapped_after_the_plan_is_an_error_and_a_new_plan_finds_another() {
    let _alone = alone();
    let target = std::ptr::without_provenance(0x7777_0000_0000);
    let mut plan = site(exeunt_site_call).retarget(code(exeunt_one), target).unwrap();
    let stub = plan.stub().unwrap().addr();
    let before = bytes(at(exeunt_site_call));
    // SAFETY: a new mapping on a page that is free.
    let page = unsafe {
        libc::mmap(
            std::ptr::without_provenance_mut(stub & !4095),
            4096,
            libc::PROT_NONE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE,
            -1,
            0,
        )
    };
    assert_eq!(page.addr(), stub & !4095);
    assert_eq!(apply(&mut plan), Err(Error::StubTaken { at: stub }));
    assert_eq!(bytes(at(exeunt_site_call)), before);
    let other = site(exeunt_site_call).retarget(code(exeunt_one), target).unwrap();
    assert_ne!(other.stub(), plan.stub());
}

#[cfg(target_arch = "x86_64")]
#[test]
fn a_branch_is_retargeted_by_one_store_wherever_it_lies_in_its_quadword() {
    let _alone = alone();
    for (place, (function, label)) in BRANCHES.into_iter().enumerate() {
        assert_eq!(at(label) % 8, place);
        let before = bytes(at(label));
        let mut patch = site(label).retarget(code(exeunt_one), code(exeunt_far_two)).unwrap();
        assert_one_store(&patch);
        apply(&mut patch).unwrap();
        assert_eq!(run(function), 2, "{patch}");
        patch.undo().unwrap();
        assert_eq!(run(function), 1);
        assert_eq!(bytes(at(label)), before);
    }
}

#[cfg(target_arch = "x86_64")]
#[test]
fn an_instruction_is_displaced_by_one_store_or_refused_wherever_it_lies() {
    let _alone = alone();
    let mut refused = 0;
    for (place, (function, label)) in FIVES.into_iter().enumerate() {
        let before = bytes(at(label));
        match site(label).displace() {
            Ok(mut patch) => {
                assert_one_store(&patch);
                apply(&mut patch).unwrap();
                assert_ne!(bytes(at(label)), before);
                assert_eq!(run(function), 3, "{patch}");
                patch.undo().unwrap();
            }
            Err(error) => {
                assert!(place >= 4 && matches!(error, Error::NoRoom { .. }), "{place}: {error}");
                refused += 1;
            }
        }
        assert_eq!(bytes(at(label)), before);
        assert_eq!(run(function), 3);
    }
    // At 7 the whole displacement would have to equal the instruction's own operand.
    assert!(refused >= 1);
}

#[cfg(target_arch = "x86_64")]
fn assert_one_store(patch: &Patch) {
    let (before, after) = (patch.before(), patch.after());
    let words: Vec<usize> = (0..before.bytes.len())
        .filter(|&index| before.bytes[index] != after.bytes[index])
        .map(|index| (before.at + index) / 8)
        .collect();
    assert!(!words.is_empty() && words.iter().all(|word| *word == words[0]), "{patch}");
}

#[cfg(target_arch = "x86_64")]
#[test]
fn an_instruction_shorter_than_a_branch_is_refused() {
    let _alone = alone();
    let error = site(exeunt_site_short).divert(code(exeunt_hook)).unwrap_err();
    assert!(matches!(&error, Error::TooShort { found, needed: 5 } if found.bytes.len() == 2), "{error}");
    assert!(error.to_string().contains("xor eax"), "{error}");
}

#[cfg(target_arch = "x86_64")]
#[test]
fn patches_that_share_a_byte_are_refused() {
    let _alone = alone();
    let here = at(exeunt_site_nested);
    // SAFETY: bytes that are an instruction, which no thread executes.
    let inside = unsafe { Site::new(code(exeunt_site_nested).wrapping_add(2)) };
    let mut outer = site(exeunt_site_nested).displace().unwrap();
    let mut inner = inside.displace().unwrap();
    apply(&mut inner).unwrap();
    assert_eq!(apply(&mut outer), Err(Error::Overlaps { at: here, other: here + 2 }));
    inner.undo().unwrap();
    apply(&mut outer).unwrap();
    assert_eq!(apply(&mut inner), Err(Error::Overlaps { at: here + 2, other: here }));
    outer.undo().unwrap();
}

#[cfg(target_arch = "aarch64")]
#[test]
fn only_instructions_that_may_change_while_they_run_need_no_promise() {
    let _alone = alone();
    let error = site(exeunt_site_none).displace().unwrap_err();
    assert!(matches!(error, Error::NotWhileRunning { .. }), "{error}");
    assert!(error.to_string().contains("quiet"), "{error}");
    let mut patch = site(exeunt_site_nop).displace().unwrap();
    apply(&mut patch).unwrap();
    run(exeunt_fn_nop);
    patch.undo().unwrap();
}

#[cfg(target_arch = "aarch64")]
#[test]
fn a_hook_out_of_reach_is_refused_unless_x16_is_free() {
    let _alone = alone();
    let far = std::ptr::without_provenance(0x7777_0000_0000);
    let error = site(exeunt_site_nop).divert(far).unwrap_err();
    assert!(error.to_string().contains("x16"), "{error}");
    // SAFETY: a function's entry.
    unsafe { site(exeunt_site_nop).x16_is_free() }.divert(far).unwrap();
}

#[cfg(target_arch = "x86_64")]
#[test]
fn an_operand_that_may_be_the_instruction_itself_is_refused_and_others_are_relocated() {
    use exeunt_patch::engine::x86_64::displace;
    // cmp dword ptr [rip + displacement], 0: seven bytes.
    let compare = |displacement: i32| {
        let mut code = vec![0x83, 0x3d];
        code.extend(displacement.to_le_bytes());
        code.push(0);
        displace(&code, 0x10_0000, 0x20_0000)
    };
    for displacement in [-7, -1, -8, -4103] {
        assert!(compare(displacement).unwrap_err().contains("its own bytes"), "{displacement}");
    }
    for displacement in [0, 1, 0x1000, -4104] {
        let code = compare(displacement).unwrap();
        let moved = i32::from_le_bytes(code[2..6].try_into().unwrap());
        assert_eq!(0x10_0000 + displacement, 0x20_0000 + moved);
        assert_eq!(code[7], 0xe9);
    }
    // `lea` accesses no memory, so its operand may be its own address.
    assert!(displace(&[0x48, 0x8d, 0x05, 0xf9, 0xff, 0xff, 0xff], 0x10_0000, 0x20_0000).is_ok());
}
