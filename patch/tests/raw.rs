//! The functions of `raw`: check, retarget, replace, refuse.
#![cfg(target_os = "linux")]

mod common;

use common::*;
use exeunt_patch::raw::{self, Fallback, Reason, Refusal};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// `raw` has no lock, so its callers need one. A test holds it from start to end, because it
/// compares the mappings before and after, and they differ while another test patches.
fn turn() -> MutexGuard<'static, ()> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

fn retarget(site: usize, expected: usize, new: usize, protection: u32) -> Result<(), Refusal> {
    // SAFETY: the tests' own code, which stays mapped; this test holds the lock.
    unsafe { raw::retarget(site, expected, new, protection, Fallback::Refuse) }
}

fn refused(reason: Reason) -> Result<(), Refusal> {
    Err(Refusal::new(reason))
}

#[test]
fn a_call_and_a_branch_are_retargeted_and_restored() {
    let _turn = turn();
    for (function, site) in
        [(exeunt_fn_jump as Function, exeunt_site_jump as Function), (exeunt_fn_call, exeunt_site_call)]
    {
        let (site, before, pages) = (at(site), bytes(at(site)), executable_mappings());
        // SAFETY: a function of the fixture.
        let run = || unsafe { function() };
        assert_eq!(run(), 1);
        retarget(site, at(exeunt_one), at(exeunt_two), 0).unwrap();
        assert_eq!(run(), 2);
        assert_eq!(executable_mappings(), pages);
        retarget(site, at(exeunt_two), at(exeunt_one), 0).unwrap();
        assert_eq!(run(), 1);
        assert_eq!(bytes(site), before);
    }
}

#[test]
fn a_protection_that_the_caller_knows_is_restored_too() {
    let _turn = turn();
    let site = at(exeunt_site_jump_b);
    let read_execute = raw::syscall::PROT_READ | raw::syscall::PROT_EXEC;
    assert_eq!(permissions(site), "r-xp");
    retarget(site, at(exeunt_one), at(exeunt_two), read_execute).unwrap();
    assert_eq!(permissions(site), "r-xp");
    retarget(site, at(exeunt_two), at(exeunt_one), read_execute).unwrap();
    assert_eq!(permissions(site), "r-xp");
}

#[test]
fn refusals_say_what_was_found_and_change_nothing() {
    let _turn = turn();
    let (site, one, two) = (at(exeunt_site_jump_c), at(exeunt_one), at(exeunt_two));
    let before = bytes(site);
    assert_eq!(retarget(at(exeunt_site_none), one, two, 0), refused(Reason::NotABranch));
    assert_eq!(retarget(site, two, one, 0), refused(Reason::OtherTarget));
    assert_eq!(retarget(site, one, one.wrapping_add(1 << 40), 0), refused(Reason::OutOfReach));
    assert_eq!(retarget(site, one, one.wrapping_sub(1 << 40), 0), refused(Reason::OutOfReach));
    assert_eq!(bytes(site), before);
}

#[test]
fn memory_that_is_not_mapped_or_not_executable_is_never_touched() {
    let _turn = turn();
    let data = [0xe8u8; 64];
    let (one, two) = (at(exeunt_one), at(exeunt_two));
    assert_eq!(retarget(data.as_ptr() as usize & !7, one, two, 0), refused(Reason::NotExecutable));
    assert_eq!(retarget(0x1000, one, two, 0), refused(Reason::NotExecutable));
    assert_eq!(retarget(usize::MAX - 1, one, two, 0), refused(Reason::NotExecutable));
}

#[cfg(target_arch = "x86_64")]
#[test]
fn a_displacement_across_a_quadword_is_refused_unless_only_one_side_changes() {
    let _turn = turn();
    // `e9` at 6, displacement at 7..11: its lowest byte is in one word, the other three in the
    // next.
    let (site, one) = (at(exeunt_site_straddle), at(exeunt_one));
    assert_eq!(retarget(site, one, at(exeunt_far_two), 0), refused(Reason::Straddles));
    // `two` is 16 bytes after `one`: when the lowest byte does not overflow, it alone changes.
    let low = (one - (site + 5)) as u8;
    let answer = retarget(site, one, at(exeunt_two), 0);
    if low < 0xf0 {
        answer.unwrap();
        // SAFETY: a function of the fixture.
        assert_eq!(unsafe { exeunt_fn_straddle() }, 2);
        retarget(site, at(exeunt_two), one, 0).unwrap();
    } else {
        assert_eq!(answer, refused(Reason::Straddles));
    }
    // 256 bytes further the lowest byte is the same: one store to the second word.
    retarget(site, one, one + 0x100, 0).unwrap();
    retarget(site, one + 0x100, one, 0).unwrap();
    // SAFETY: a function of the fixture.
    assert_eq!(unsafe { exeunt_fn_straddle() }, 1);
}

fn replace(site: usize, len: usize, new: usize) -> Result<(), Refusal> {
    // SAFETY: as in `retarget`.
    unsafe { raw::replace(site, len, new, Fallback::Refuse) }
}

#[test]
fn a_branch_replaces_one_instruction() {
    let _turn = turn();
    #[cfg(target_arch = "x86_64")]
    let sites = [
        (exeunt_fn_nine as Function, exeunt_site_nine as Function, 9),
        (FIVES[0].0, FIVES[0].1, 5),
        (FIVES[3].0, FIVES[3].1, 5),
    ];
    #[cfg(target_arch = "aarch64")]
    let sites = [(exeunt_fn_nop as Function, exeunt_site_nop as Function, 4)];
    for (function, site, len) in sites {
        let (site, before, pages) = (at(site), bytes(at(site)), executable_mappings());
        replace(site, len, at(exeunt_two)).unwrap();
        // SAFETY: a function of the fixture.
        assert_eq!(unsafe { function() }, 2);
        assert_eq!(executable_mappings(), pages);
        // The rest of the instruction, and the bytes behind it, are unchanged.
        assert_eq!(bytes(site)[raw::arch::BRANCH_LEN..], before[raw::arch::BRANCH_LEN..]);
    }
}

#[test]
fn an_instruction_that_no_store_can_replace_is_left_alone() {
    let _turn = turn();
    let two = at(exeunt_two);
    #[cfg(target_arch = "x86_64")]
    let refusals = [
        (at(exeunt_site_short), 2, two, Reason::TooShort),
        (at(FIVES[4].1), 5, two, Reason::Straddles),
        (at(FIVES[7].1), 5, two, Reason::Straddles),
        (at(FIVES[1].1), 5, two.wrapping_add(1 << 40), Reason::OutOfReach),
    ];
    #[cfg(target_arch = "aarch64")]
    let refusals = [
        (at(exeunt_site_none), 4, two, Reason::NotWhileRunning),
        (at(exeunt_site_nop_returns), 8, two, Reason::NotABranch),
        (at(exeunt_site_nop_returns) + 2, 4, two, Reason::NotABranch),
        (at(exeunt_site_nop_returns), 4, two.wrapping_add(1 << 40), Reason::OutOfReach),
    ];
    for (site, len, new, reason) in refusals {
        let before = bytes(site);
        assert_eq!(replace(site, len, new), refused(reason));
        assert_eq!(bytes(site), before);
    }
    let data = [0x90u8; 64];
    assert_eq!(replace(data.as_ptr() as usize & !7, 5, two), refused(Reason::NotExecutable));
}

#[test]
fn a_code_for_c_has_the_reason_low_and_the_error_number_above() {
    let _turn = turn();
    let refusal = Refusal::with(Reason::Protect, 13);
    assert_eq!(refusal.code(), 7 | 13 << 8);
    // SAFETY: as in `retarget`; nothing is written.
    let code = unsafe { raw::retarget_code(at(exeunt_site_none), 0, 0, 0, Fallback::Refuse) };
    assert_eq!(code, Reason::NotABranch as i32);
}
