//! The ways to make a stack's exit ours.
//!
//! | way | what is written | what an entry function returns to |
//! |---|---|---|
//! | [`slot`] | the stack's foot | a trampoline of ours, which goes on to the exit trampoline |
//! | [`code`] | once per process, a call in the exit trampoline | the exit trampoline, which calls a hook of ours |
//!
//! [`choice`] says which of them this process uses.

pub(crate) mod choice;
pub(crate) mod code;
mod mark;
#[cfg(code_redirect)]
mod sites;
#[cfg(not(code_redirect))]
#[path = "no_sites.rs"]
mod sites;
pub(crate) mod slot;

use crate::base::error::Error;
use crate::base::foot::Foot;
use crate::base::kind::Kind;
use crate::base::redirect::Way;
use crate::life::safety_net;
use crate::record::header::Record;
pub(crate) use sites::survey;
use std::hint::cold_path;
#[cfg(any(test, feature = "capi"))]
use std::sync::atomic::{AtomicUsize, Ordering};

/// What is to be done to arm a stack, and what that makes of it. Nothing of it has been done yet.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    pub foot: usize,
    pub top: usize,
    /// The number of the trampoline that stands for the exit trampoline.
    pub trampoline: usize,
    pub kind: Kind,
    how: How,
}

#[derive(Clone, Copy)]
enum How {
    Slot(slot::Writes),
    Code(Option<mark::Mark>),
    /// Code redirect of `main`, where its other end does not come by a hook.
    CodeAndLanding(slot::Lands),
    /// The foot is no return address, but a word that somebody else keeps: a C scope.
    #[cfg(any(test, feature = "capi"))]
    Scope,
}

impl Place {
    /// The place of a C scope.
    #[cfg(any(test, feature = "capi"))]
    pub(crate) fn scope(foot: usize, top: usize, trampoline: usize) -> Self {
        Self { foot, top, trampoline, kind: crate::exit::trampoline::kind(trampoline), how: How::Scope }
    }

    /// Which way this is, and the word that will be under the mark.
    pub(crate) fn way(&self) -> (Way, usize) {
        match self.how {
            How::Slot(_) => (Way::Slot, 0),
            How::Code(mark) => (Way::Code, mark.map_or(0, |mark| mark.before)),
            How::CodeAndLanding(_) => (Way::Code, 0),
            #[cfg(any(test, feature = "capi"))]
            How::Scope => (Way::Slot, 0),
        }
    }

    /// The word that will tell whether `record` is live, and what it will be.
    pub(crate) fn canary(&self, record: &'static Record) -> (usize, usize) {
        match self.how {
            How::Slot(writes) => (self.foot, writes.word),
            How::Code(Some(mark)) => (mark.address, mark::word(record)),
            How::Code(None) | How::CodeAndLanding(_) => record.life(),
            #[cfg(any(test, feature = "capi"))]
            How::Scope => (self.foot, std::ptr::from_ref(record).addr()),
        }
    }

    /// Whether a walk comes by no foot of it, so that only the page map knows it.
    #[inline]
    pub(crate) fn is_found_by_pages_alone(&self) -> bool {
        match self.how {
            How::Slot(_) | How::Code(_) | How::CodeAndLanding(_) => false,
            #[cfg(any(test, feature = "capi"))]
            How::Scope => true,
        }
    }

    /// Whether it has ends that only the safety net sees. `exit` on the main thread unwinds nothing, so it needs the net
    /// in any case.
    pub(crate) fn needs_net(&self) -> bool {
        match self.how {
            How::Slot(writes) => self.kind == Kind::Main || self.kind == Kind::Thread && !writes.lands(),
            How::Code(_) | How::CodeAndLanding(_) => {
                self.kind == Kind::Main || self.kind == Kind::Thread && !crate::machine::clib::ALL_ENDS_AT_HOOK
            }
            #[cfg(any(test, feature = "capi"))]
            How::Scope => false,
        }
    }

    /// Whether it is `main`, and `pthread_exit` there would go by the redirect, and the safety net too.
    #[cfg(target_os = "linux")]
    pub(crate) fn needs_key(&self) -> bool {
        matches!(self.how, How::Slot(writes) if self.kind == Kind::Main && !writes.lands())
    }

    /// Whether a thread's other ends would go by unseen, and leave a record that the next stack on its memory takes for its own.
    fn is_lost(&self) -> bool {
        matches!(self.how, How::Code(_))
            && self.kind == Kind::Thread
            && self.needs_net()
            && !safety_net::can_be_spread()
    }

    /// Makes the exit of the running stack ours.
    ///
    /// # Safety
    /// It must come from [`plan`] for the running stack, or be of a scope whose foot is good to write to; and `record` must
    /// be ready to be drained: from here on the stack's end drains it.
    pub(crate) unsafe fn redirect(self, record: &'static Record) {
        match self.how {
            // SAFETY: the caller's promise.
            How::Slot(writes) => unsafe { slot::redirect(self.foot, writes) },
            How::Code(Some(mark)) => {
                cold_path();
                mark.set(record);
            }
            How::Code(None) => {}
            // SAFETY: the caller's promise.
            How::CodeAndLanding(lands) => unsafe { lands.redirect() },
            #[cfg(any(test, feature = "capi"))]
            How::Scope => {
                let (foot, word) = self.canary(record);
                // SAFETY: the caller's promise.
                unsafe { AtomicUsize::from_ptr(foot as *mut usize) }.store(word, Ordering::Release);
            }
        }
    }
}

/// What arming this stack takes, in the way of this process. Under code redirect the exit trampoline is patched here, if
/// that was not done yet.
#[inline]
pub(crate) fn plan(foot: Foot) -> Result<Place, Error> {
    let how = match choice::made()? {
        Way::Slot => How::Slot(slot::plan(foot)?),
        Way::Code => {
            cold_path();
            code::plan(foot)?
        }
    };
    let place = place(foot, how);
    if place.is_lost() {
        return Err(Error::StackHasEnded);
    }
    Ok(place)
}

/// Why this stack cannot be armed, if it cannot; nothing is changed.
pub(crate) fn problem(foot: Foot) -> Option<Error> {
    match choice::likely() {
        Ok(Way::Slot) => slot::plan(foot).err(),
        Ok(Way::Code) => code::problem(foot),
        Err(error) => Some(error),
    }
}

#[inline]
fn place(foot: Foot, how: How) -> Place {
    let kind = crate::exit::trampoline::kind(foot.trampoline);
    Place { foot: foot.address, top: foot.top, trampoline: foot.trampoline, kind, how }
}

/// Puts the exit of the running stack back. Whether it could: if not, nothing has changed.
///
/// # Safety
/// `record` must be the live record of the running stack, not be draining, and know where the foot is (`arm::has_found_foot`).
#[must_use]
pub(crate) unsafe fn restore(record: &Record) -> bool {
    match record.way() {
        // SAFETY: the caller's promise.
        Way::Slot => unsafe { slot::restore(record) },
        Way::Code => {
            mark::remove(record);
            // SAFETY: the caller's promise.
            unsafe { slot::restore_landing(record) };
            true
        }
    }
}

/// Whether returns on this thread are checked against a shadow stack.
pub(crate) fn shadow_stack_active() -> bool {
    // No machine of ours has one: this library's own tests, and they alone, can pretend.
    #[cfg(test)]
    if std::env::var_os("EXEUNT_TEST_SHADOW_STACK").is_some() {
        return true;
    }
    crate::machine::arch::shadow_stack_active()
}

#[cfg(all(test, target_os = "linux", feature = "code"))]
mod tests {
    use crate::Builder;
    use crate::Error;
    use crate::Redirect;
    use crate::Stack;
    use crate::base::testing::alone;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// Runs `code` in a process of its own, with a shadow stack that is only pretended: no machine of ours has one.
    fn with_shadow_stack(test: &str, code: impl FnOnce()) {
        alone(&format!("exit::redirect::tests::{test}"), "EXEUNT_TEST_SHADOW_STACK", code);
    }

    fn on_a_thread(code: impl FnOnce() + Send + 'static) {
        std::thread::spawn(code).join().expect("no panic in the thread");
    }

    #[test]
    fn slot_redirect_refuses_a_shadow_stack_and_says_what_to_do() {
        with_shadow_stack("slot_redirect_refuses_a_shadow_stack_and_says_what_to_do", || {
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
    fn auto_is_code_with_a_shadow_stack() {
        with_shadow_stack("auto_is_code_with_a_shadow_stack", || {
            assert_eq!(Builder::new().redirect(Redirect::Auto).install(), Ok(()));
            assert_eq!(
                crate::survey().map(|survey| (survey.redirect, survey.shadow_stack)),
                Ok((Redirect::Code, true))
            );
            on_a_thread(|| _ = crate::id().expect("it is armed"));
        });
    }

    extern "C-unwind" fn exits_armed(times: *mut std::ffi::c_void) -> *mut std::ffi::c_void {
        let times = times.expose_provenance();
        // SAFETY: the counter is leaked.
        let count = move || _ = unsafe { &*(times as *const AtomicUsize) }.fetch_add(1, Ordering::Relaxed);
        crate::at_exit(count).expect("it is armed");
        // SAFETY: nothing here has to be dropped, and the caller's frame is the system's.
        unsafe { pthread_exit(times as *mut _) }
    }

    extern "C-unwind" fn exits_unloaded(times: *mut std::ffi::c_void) -> *mut std::ffi::c_void {
        crate::at_exit(|| unreachable!("it is forgotten")).expect("it is armed");
        crate::unload();
        // SAFETY: as above.
        unsafe { pthread_exit(times) }
    }

    type Start = extern "C-unwind" fn(*mut std::ffi::c_void) -> *mut std::ffi::c_void;

    // As in libc, but that unwinding may pass.
    unsafe extern "C-unwind" {
        fn pthread_create(
            thread: *mut libc::pthread_t,
            attributes: *const libc::pthread_attr_t,
            start: Start,
            argument: *mut std::ffi::c_void,
        ) -> i32;
        fn pthread_exit(result: *mut std::ffi::c_void) -> !;
    }

    /// What `main` needs before glibc 2.34, tried on threads: no place of the code is patched, and the landing alone is redirected.
    #[test]
    fn code_redirect_sees_an_end_that_comes_by_no_hook_where_it_lands() {
        alone(
            "exit::redirect::tests::code_redirect_sees_an_end_that_comes_by_no_hook_where_it_lands",
            "EXEUNT_TEST_LANDS",
            || {
                assert_eq!(Builder::new().redirect(Redirect::Code).install(), Ok(()));
                let times: &'static AtomicUsize = Box::leak(Box::new(AtomicUsize::new(0)));
                for (start, expected) in [(exits_armed as Start, 1), (exits_unloaded, 1), (exits_armed, 2)] {
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
}
