//! Both redirects, each test in a process of its own.

use crate::Builder;
use crate::Error;
use crate::Redirect;
use crate::Stack;
use crate::base::testing::alone;
use crate::exit::trampoline;
use crate::life::lookup;
use crate::machine::arch::strip;
#[cfg(target_env = "gnu")]
use std::sync::atomic::{AtomicUsize, Ordering};

/// Runs `code` in a process of its own, which behaves as if it had a shadow stack: no machine of
/// the project has one.
fn with_shadow_stack(test: &str, code: impl FnOnce()) {
    alone(&format!("life::redirect_tests::{test}"), "EXEUNT_TEST_SHADOW_STACK", code);
}

fn on_a_thread(code: impl FnOnce() + Send + 'static) {
    std::thread::spawn(code).join().expect("no panic in the thread");
}

#[test]
fn slot_redirect_refuses_a_shadow_stack_and_names_code_redirect() {
    with_shadow_stack("slot_redirect_refuses_a_shadow_stack_and_names_code_redirect", || {
        assert_eq!(Builder::new().redirect(Redirect::Slot).install(), Ok(()));
        on_a_thread(|| {
            assert_eq!(crate::at_exit(|| unreachable!()), Err(Error::ShadowStack));
            assert_eq!(Stack::current().problem(), Some(&Error::ShadowStack));
            assert!(!Stack::current().is_armed());
            assert!(Error::ShadowStack.to_string().contains("EXEUNT_REDIRECT=code"));
        });
    });
}

#[test]
fn code_redirect_works_with_a_shadow_stack() {
    with_shadow_stack("code_redirect_works_with_a_shadow_stack", || {
        assert_eq!(Builder::new().redirect(Redirect::Code).install(), Ok(()));
        let (sender, receiver) = std::sync::mpsc::channel();
        on_a_thread(move || crate::at_exit(move || sender.send(1).expect("somebody waits")).expect("it is armed"));
        assert_eq!(receiver.recv(), Ok(1));
    });
}

#[test]
fn auto_chooses_code_redirect_with_a_shadow_stack() {
    with_shadow_stack("auto_chooses_code_redirect_with_a_shadow_stack", || {
        assert_eq!(Builder::new().redirect(Redirect::Auto).install(), Ok(()));
        assert_eq!(crate::survey().map(|survey| (survey.redirect, survey.shadow_stack)), Ok((Redirect::Code, true)));
        on_a_thread(|| _ = crate::id().expect("it is armed"));
    });
}

#[test]
fn a_stack_whose_exit_trampoline_is_restored_while_it_is_armed_patches_it_again() {
    const NAME: &str = "a_stack_whose_exit_trampoline_is_restored_while_it_is_armed_patches_it_again";
    use crate::exit::walk::{Found, walk_to_foot};
    use crate::life::{arm, every_end};
    use crate::machine::arch::Registers;
    let is_patched = || crate::code_sites().expect("they are found").iter().any(|site| site.applied);
    alone(&format!("life::redirect_tests::{NAME}"), "EXEUNT_TEST_ALONE", || {
        assert_eq!(Builder::new().redirect(Redirect::Code).install(), Ok(()));
        let (sender, receiver) = std::sync::mpsc::channel();
        on_a_thread(move || {
            // SAFETY: registers of this function.
            let Ok(Found::Unarmed(foot, _)) = (unsafe { walk_to_foot(Registers::here()) }) else {
                panic!("a thread's stack has a foot");
            };
            let plan = arm::plan(foot).expect("it can be armed");
            assert!(is_patched());
            assert_eq!(every_end::restore_code(), Ok(()));
            assert!(!is_patched());
            // SAFETY: the plan is for this stack.
            let arming = unsafe { arm::arm_at(plan, 0) }.expect("there is memory");
            assert!(is_patched() && arming.is_new);
            assert_eq!(every_end::restore_code(), Err(Error::CodeSitesInUse { armed: 1, every_end: false }));
            crate::at_exit(move || sender.send(1).expect("somebody waits")).expect("it is armed");
        });
        assert_eq!(receiver.recv(), Ok(1));
    });
}

#[test]
fn a_stack_that_was_armed_in_vain_leaves_nothing_to_the_next_one() {
    on_a_thread(|| {
        // What an allocator may store while the stack is being armed.
        crate::at_exit(|| ()).expect("it is armed");
        crate::set("key", 1).expect("there is memory");
        let record = lookup::lookup().expect("it is armed");
        assert!(!record.is_empty());
        crate::life::arm::disarm(record, None);
        assert!(!Stack::current().is_armed());
        assert!(record.is_empty());
    });
}

#[cfg(target_env = "gnu")]
extern "C-unwind" fn arms_and_exits(times: *mut std::ffi::c_void) -> *mut std::ffi::c_void {
    let times = times.expose_provenance();
    // SAFETY: the counter is leaked.
    let count = move || _ = unsafe { &*(times as *const AtomicUsize) }.fetch_add(1, Ordering::Relaxed);
    crate::at_exit(count).expect("it is armed");
    // SAFETY: nothing here has to be dropped, and the caller's frame is the system's.
    unsafe { pthread_exit(times as *mut _) }
}

#[cfg(target_env = "gnu")]
extern "C-unwind" fn unloads_and_exits(times: *mut std::ffi::c_void) -> *mut std::ffi::c_void {
    crate::at_exit(|| unreachable!("it is forgotten")).expect("it is armed");
    crate::unload().unwrap();
    // SAFETY: as above.
    unsafe { pthread_exit(times) }
}

#[cfg(target_env = "gnu")]
type Start = extern "C-unwind" fn(*mut std::ffi::c_void) -> *mut std::ffi::c_void;

#[cfg(target_env = "gnu")]
// As in libc, but unwinding may pass.
unsafe extern "C-unwind" {
    fn pthread_create(
        thread: *mut libc::pthread_t,
        attributes: *const libc::pthread_attr_t,
        start: Start,
        argument: *mut std::ffi::c_void,
    ) -> i32;
    fn pthread_exit(result: *mut std::ffi::c_void) -> !;
}

/// The path that `main` needs before glibc 2.34, tried on threads: no code is patched, and only the
/// landing is redirected.
#[cfg(target_env = "gnu")]
#[test]
fn code_redirect_drains_a_pthread_exit_that_passes_no_hook_at_its_landing() {
    alone(
        "life::redirect_tests::code_redirect_drains_a_pthread_exit_that_passes_no_hook_at_its_landing",
        "EXEUNT_TEST_LANDS",
        || {
            assert_eq!(Builder::new().redirect(Redirect::Code).install(), Ok(()));
            let times: &'static AtomicUsize = Box::leak(Box::new(AtomicUsize::new(0)));
            for (start, expected) in [(arms_and_exits as Start, 1), (unloads_and_exits, 1), (arms_and_exits, 2)] {
                let argument = std::ptr::from_ref(times).cast_mut().cast();
                let (mut thread, mut result) = (0, std::ptr::null_mut());
                // SAFETY: the start routines take the counter, and the thread is joined once.
                unsafe {
                    assert_eq!(pthread_create(&raw mut thread, std::ptr::null(), start, argument), 0);
                    assert_eq!(libc::pthread_join(thread, &raw mut result), 0);
                }
                assert_eq!((times.load(Ordering::Relaxed), result), (expected, argument));
                assert_eq!(crate::survey().map(|survey| survey.armed), Ok(0));
            }
        },
    );
}

#[test]
fn a_stack_under_enter_keeps_the_original_address_where_its_trampoline_says() {
    crate::base::testing::alone(
        "life::redirect_tests::a_stack_under_enter_keeps_the_original_address_where_its_trampoline_says",
        "EXEUNT_TEST_KEEPS",
        || {
            assert_eq!(Builder::new().redirect(Redirect::Slot).install(), Ok(()));
            std::thread::spawn(|| {
                crate::enter(|| {
                    crate::at_exit(|| ()).expect("it can be armed");
                    let foot = Stack::current().foot().cloned().expect("it is armed");
                    let base = lookup::lookup().expect("it is armed").base();
                    let number =
                        (0..8).position(|word| trampoline::label_for_spare_word(8 * word) == Some(strip(foot.word)));
                    let number = number.expect("its label is of those whose stacks keep the address");
                    // SAFETY: a word of the frame above the foot.
                    let kept = unsafe { ((base + 8 * number) as *const usize).read() };
                    assert_eq!((kept, kept), (foot.original, trampoline::enter_return()));
                })
                .expect("a fresh thread");
            })
            .join()
            .expect("no panic in the thread");
        },
    );
}
