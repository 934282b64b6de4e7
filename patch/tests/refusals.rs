//! A seccomp filter in a child process refuses each system call in turn: bytes and protections stay
//! as before.
//!
//! User-mode QEMU has no seccomp filters; there a child reports that and the test ends.
#![cfg(target_os = "linux")]

mod common;

use common::*;
use exeunt_patch::raw::{self, Reason};
use exeunt_patch::{Error, Fallback, Site};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};

const CHILD: &str = "EXEUNT_REFUSALS_CHILD";

/// Runs `body` in a child process, because a filter cannot be removed.
fn in_child(name: &str, body: impl FnOnce()) {
    if std::env::var(CHILD).as_deref() == Ok(name) {
        body();
        return;
    }
    // Cargo runs these programs by the emulator that this variable names; the test inherits it.
    let runner = format!("CARGO_TARGET_{}_UNKNOWN_LINUX_GNU_RUNNER", std::env::consts::ARCH.to_uppercase());
    let mut command = match std::env::var(runner) {
        Ok(runner) => {
            let mut words = runner.split(' ');
            let mut command = Command::new(words.next().unwrap());
            command.args(words).arg(std::env::current_exe().unwrap());
            command
        }
        Err(_) => Command::new(std::env::current_exe().unwrap()),
    };
    let output = command.args(["--exact", name, "--nocapture", "--test-threads=1"]).env(CHILD, name).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("1 passed"), "the child ran no test: {text}");
}

/// One argument of a system call, and the value at which it is refused.
type Argument = Option<(usize, u32)>;

/// Makes the kernel answer a system call by `action` in this thread from now on. Returns false
/// where there are no filters.
fn filter(number: i64, argument: Argument, action: u32) -> bool {
    let instruction = |code: u32, k: u32, yes: u8, no: u8| libc::sock_filter { code: code as u16, jt: yes, jf: no, k };
    let load = |offset: usize| instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset as u32, 0, 0);
    let unless = |value: u32, skip: u8| instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, value, 0, skip);
    let answer = |value: u32| instruction(libc::BPF_RET | libc::BPF_K, value, 0, 0);
    let mut program = vec![load(0), unless(number as u32, if argument.is_some() { 3 } else { 1 })];
    if let Some((index, value)) = argument {
        program.push(load(16 + 8 * index));
        program.push(unless(value, 1));
    }
    program.push(answer(action));
    program.push(answer(libc::SECCOMP_RET_ALLOW));
    let program = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: a well-formed program; both calls only restrict this process.
    unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
            && libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) == 0
    }
}

/// Refuses a system call with `EPERM`.
fn refuse(number: i64, argument: Argument) -> bool {
    let done = filter(number, argument, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32);
    if !done {
        println!("no seccomp filters here (user-mode QEMU): nothing is tested");
    }
    done
}

const EPERM: i32 = libc::EPERM;
const READ_EXECUTE: u32 = (libc::PROT_READ | libc::PROT_EXEC) as u32;

fn site() -> Site {
    // SAFETY: the fixture's label.
    unsafe { Site::new(exeunt_site_call as *const u8) }
}

/// Expects the error `expected`, unchanged bytes and protections, and no new page.
fn refused(patch: Result<exeunt_patch::Patch, Error>, fallback: Fallback, expected: Error) {
    let mut patch = patch.unwrap().fallback(fallback);
    let (before, pages) = (bytes(at(exeunt_site_call)), executable_mappings());
    // SAFETY: refused before anything is written.
    assert_eq!(unsafe { patch.apply() }, Err(expected));
    assert!(!patch.is_applied());
    assert_eq!(bytes(at(exeunt_site_call)), before);
    same_code_pages(&pages).unwrap();
    assert_eq!(executable_mappings(), pages);
    assert_eq!(writable_code(), []);
    if let Some(stub) = patch.stub() {
        assert_eq!(permissions(stub.addr()), "");
    }
    // SAFETY: the fixture's function.
    assert_eq!(unsafe { exeunt_fn_call() }, 1);
}

fn near() -> Result<exeunt_patch::Patch, Error> {
    site().retarget(exeunt_one as *const u8, exeunt_far_two as *const u8)
}

fn far() -> Result<exeunt_patch::Patch, Error> {
    site().retarget(exeunt_one as *const u8, std::ptr::without_provenance(0x7777_0000_0000))
}

#[test]
fn without_mprotect_nothing_is_written_unless_the_fallback_is_allowed() {
    in_child("without_mprotect_nothing_is_written_unless_the_fallback_is_allowed", || {
        if !refuse(libc::SYS_mprotect, None) {
            return;
        }
        let here = at(exeunt_site_call);
        refused(near(), Fallback::Refuse, Error::Protect { at: here, errno: EPERM });
        // A stub needs `mprotect`, which has no fallback.
        refused(far(), Fallback::ProcMem, Error::Stub { step: "mprotect", errno: EPERM });

        let (before, pages) = (bytes(here), executable_mappings());
        let mut patch = near().unwrap();
        // SAFETY: the fixture's target.
        unsafe { patch.apply() }.unwrap();
        // SAFETY: the fixture's function.
        assert_eq!(unsafe { exeunt_fn_call() }, 2);
        assert_eq!(permissions(here), "r-xp");
        patch.undo().unwrap();
        // SAFETY: the fixture's function.
        assert_eq!(unsafe { exeunt_fn_call() }, 1);
        assert_eq!(bytes(here), before);
        same_code_pages(&pages).unwrap();
    });
}

#[test]
fn the_fallback_never_showed_a_torn_store_to_two_running_threads() {
    in_child("the_fallback_never_showed_a_torn_store_to_two_running_threads", || {
        let (stop, started) = (AtomicBool::new(false), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            let _stops = StopAtEnd(&stop);
            for _ in 0..2 {
                scope.spawn(|| {
                    for run in 0_u64.. {
                        // SAFETY: the fixture's function.
                        assert!((1..=2).contains(&unsafe { exeunt_fn_call() }));
                        if run == 0 {
                            started.fetch_add(1, Ordering::Relaxed);
                        }
                        if stop.load(Ordering::Relaxed) {
                            break;
                        }
                    }
                });
            }
            while started.load(Ordering::Relaxed) < 2 {
                std::thread::yield_now();
            }
            if refuse(libc::SYS_mprotect, None) {
                let mut patch = near().unwrap();
                for _ in 0..20_000 {
                    // SAFETY: the fixture's target.
                    unsafe { patch.apply() }.unwrap();
                    patch.undo().unwrap();
                }
            }
        });
    });
}

#[test]
fn without_mprotect_and_proc_mem_nothing_is_written() {
    in_child("without_mprotect_and_proc_mem_nothing_is_written", || {
        let to_write = (libc::O_WRONLY | libc::O_CLOEXEC) as u32;
        if refuse(libc::SYS_mprotect, None) && refuse(libc::SYS_openat, Some((2, to_write))) {
            refused(near(), Fallback::ProcMem, Error::Protect { at: at(exeunt_site_call), errno: EPERM });
        }
    });
}

#[test]
fn where_no_code_may_become_writable_it_is_written_by_the_fallback_and_stays_one_mapping() {
    in_child("where_no_code_may_become_writable_it_is_written_by_the_fallback_and_stays_one_mapping", || {
        const PR_SET_MDWE: libc::c_int = 65;
        const PR_MDWE_REFUSE_EXEC_GAIN: libc::c_ulong = 1;
        // SAFETY: it only restricts this process.
        if unsafe { libc::prctl(PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN, 0, 0, 0) } != 0 {
            return println!("PR_SET_MDWE needs Linux 6.3: nothing is tested");
        }
        let here = at(exeunt_site_call);
        refused(near(), Fallback::Refuse, Error::Protect { at: here, errno: libc::EACCES });
        let pieces = lines_of_code();
        let mut patch = near().unwrap();
        // SAFETY: the fixture's target.
        unsafe { patch.apply() }.unwrap();
        // SAFETY: the fixture's function.
        assert_eq!(unsafe { exeunt_fn_call() }, 2);
        assert_eq!(lines_of_code(), pieces);
    });
}

/// The executable mappings, as the kernel lists them.
fn lines_of_code() -> Vec<String> {
    let text = std::fs::read_to_string("/proc/self/maps").unwrap();
    text.lines().filter(|line| line.contains("-xp ")).map(str::to_owned).collect()
}

/// `vm.overcommit_memory=2` refuses by the same error number, in the same call.
#[test]
fn where_the_whole_mapping_may_not_become_writable_the_page_alone_does() {
    if cfg!(target_arch = "aarch64") {
        return println!("user-mode QEMU does not pass on this limit: nothing is tested");
    }
    in_child("where_the_whole_mapping_may_not_become_writable_the_page_alone_does", || {
        let here = at(exeunt_site_jump);
        let code = raw::mapping::executable(here).unwrap();
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let data = status.lines().find_map(|line| line.strip_prefix("VmData:")).unwrap();
        let kilobytes: u64 = data.trim().trim_end_matches(" kB").parse().unwrap();
        let room = 64 << 10;
        assert!(code.end - code.start > 2 * room, "{code:x?}");
        let pieces = lines_of_code().len();
        let limit = libc::rlimit { rlim_cur: (kilobytes << 10) + room as u64, rlim_max: libc::RLIM_INFINITY };
        // SAFETY: the child is alone, and its limits are its own.
        assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_DATA, &limit) }, 0);
        // SAFETY: the fixture's code, and one thread.
        let done = unsafe { raw::retarget(here, at(exeunt_one), at(exeunt_two), 0, Fallback::Refuse) };
        let no_limit = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
        // SAFETY: as above.
        assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_DATA, &no_limit) }, 0);
        done.unwrap();
        // SAFETY: the fixture's function.
        assert_eq!(unsafe { exeunt_fn_jump() }, 2);
        assert_eq!(lines_of_code().len(), pieces + 2);
        assert_eq!(writable_code(), []);
    });
}

#[test]
fn without_a_lock_against_other_copies_code_is_patched_all_the_same() {
    in_child("without_a_lock_against_other_copies_code_is_patched_all_the_same", || {
        if refuse(libc::SYS_flock, None) {
            // SAFETY: the fixture's target.
            unsafe { near().unwrap().apply() }.unwrap();
            // SAFETY: the fixture's function.
            assert_eq!(unsafe { exeunt_fn_call() }, 2);
        }
    });
}

#[test]
fn without_mmap_there_is_no_stub_and_nothing_is_written() {
    in_child("without_mmap_there_is_no_stub_and_nothing_is_written", || {
        let plan = far();
        if refuse(libc::SYS_mmap, None) {
            refused(plan, Fallback::ProcMem, Error::Stub { step: "mmap", errno: EPERM });
        }
    });
}

#[test]
fn without_membarrier_nothing_is_written() {
    in_child("without_membarrier_nothing_is_written", || {
        if refuse(libc::SYS_membarrier, None) {
            refused(near(), Fallback::ProcMem, Error::Membarrier { errno: EPERM });
        }
    });
}

#[test]
fn without_a_list_of_mappings_nothing_is_written() {
    in_child("without_a_list_of_mappings_nothing_is_written", || {
        let mut plan = near().unwrap();
        let before = bytes(at(exeunt_site_call));
        if refuse(libc::SYS_openat, None) {
            // SAFETY: refused before anything is written.
            assert_eq!(unsafe { plan.apply() }, Err(Error::NoMaps { errno: EPERM }));
            assert_eq!(bytes(at(exeunt_site_call)), before);
        }
    });
}

/// The number of calls of `membarrier` that still succeed.
static LEFT: AtomicI64 = AtomicI64::new(0);

/// Sets the result of the trapped call in its caller's return register.
extern "C" fn answer(_: i32, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let result = if LEFT.fetch_sub(1, Ordering::SeqCst) > 0 { 0 } else { -i64::from(EPERM) };
    // SAFETY: the kernel passes a context of this type to handlers installed with `SA_SIGINFO`.
    unsafe {
        let context = &mut *context.cast::<libc::ucontext_t>();
        #[cfg(target_arch = "x86_64")]
        {
            context.uc_mcontext.gregs[libc::REG_RAX as usize] = result;
        }
        #[cfg(target_arch = "aarch64")]
        {
            context.uc_mcontext.regs[0] = result as u64;
        }
    }
}

#[test]
fn a_membarrier_that_fails_at_any_step_leaves_bytes_and_protection_as_before() {
    in_child("a_membarrier_that_fails_at_any_step_leaves_bytes_and_protection_as_before", || {
        // SAFETY: a handler that only touches its context and an atomic.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = answer as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO;
            assert_eq!(libc::sigaction(libc::SIGSYS, &action, std::ptr::null_mut()), 0);
        }
        if !filter(libc::SYS_membarrier, None, libc::SECCOMP_RET_TRAP) {
            return println!("no seccomp filters here (user-mode QEMU): nothing is tested");
        }
        // The registration, the trial, and the call after the store.
        for succeeding in 0..3 {
            LEFT.store(succeeding, Ordering::SeqCst);
            refused(near(), Fallback::Refuse, Error::Membarrier { errno: EPERM });
            let used = if succeeding == 2 { 4 } else { succeeding + 1 };
            // After the store there is one more call: the restored bytes are synchronised too.
            assert_eq!(succeeding - LEFT.load(Ordering::SeqCst), used);
        }
        LEFT.store(3, Ordering::SeqCst);
        // SAFETY: the fixture's target.
        unsafe { near().unwrap().apply() }.unwrap();
        // SAFETY: the fixture's function.
        assert_eq!(unsafe { exeunt_fn_call() }, 2);
    });
}

#[test]
fn a_protection_that_cannot_be_restored_is_reported_and_the_bytes_are_as_before() {
    in_child("a_protection_that_cannot_be_restored_is_reported_and_the_bytes_are_as_before", || {
        // The filter allows making the page writable, and refuses to restore it.
        if !refuse(libc::SYS_mprotect, Some((2, READ_EXECUTE))) {
            return;
        }
        let here = at(exeunt_site_call);
        let before = bytes(here);
        let mut patch = near().unwrap();
        // SAFETY: refused before anything is written.
        assert_eq!(unsafe { patch.apply() }, Err(Error::NotRestored { at: here, errno: EPERM }));
        assert_eq!(bytes(here), before);
        assert_eq!(permissions(here), "rwxp");
        // A page that its owner keeps writable can be patched without `mprotect`.
        // SAFETY: the fixture's target.
        unsafe { patch.apply() }.unwrap();
        // SAFETY: the fixture's function.
        assert_eq!(unsafe { exeunt_fn_call() }, 2);
    });
}

#[test]
fn raw_retarget_code_returns_the_same_reasons_as_numbers() {
    in_child("raw_retarget_code_returns_the_same_reasons_as_numbers", || {
        let retarget = |fallback| {
            // SAFETY: the fixture's code, and one thread.
            unsafe { raw::retarget_code(at(exeunt_site_jump), at(exeunt_one), at(exeunt_two), 0, fallback) }
        };
        if refuse(libc::SYS_mprotect, None) {
            assert_eq!(retarget(Fallback::Refuse), Reason::Protect as i32 | EPERM << 8);
        }
        if refuse(libc::SYS_membarrier, None) {
            assert_eq!(retarget(Fallback::ProcMem), Reason::Membarrier as i32 | EPERM << 8);
        }
    });
}
