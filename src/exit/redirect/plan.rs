//! The plan of arming a stack: what to write, and where. `plan` makes it, `Plan::redirect` carries
//! it out, `restore` undoes it.

use super::code::{self, CodePlan};
use super::slot::{self, SlotPlan};
use super::{choice, mark, sites};
use crate::base::cold::cold_path;
use crate::base::error::Error;
use crate::base::foot::Foot;
use crate::base::kind::Kind;
use crate::base::redirect::Method;
use crate::exit::trampoline;
use crate::machine::clib;
use crate::record::header::{NewStack, Record};
#[cfg(any(test, feature = "capi"))]
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// What arming a stack writes, and the stack that the record will describe. Nothing is written yet.
#[derive(Clone, Copy)]
pub(crate) struct Plan {
    pub foot: usize,
    pub base: usize,
    /// The number of the trampoline for the exit trampoline.
    pub trampoline: usize,
    pub kind: Kind,
    method_plan: MethodPlan,
}

#[derive(Clone, Copy)]
enum MethodPlan {
    Slot(SlotPlan),
    Code(CodePlan),
    /// A C scope: the foot is no return address, but a word of the scope object.
    #[cfg(any(test, feature = "capi"))]
    Scope,
}

impl Plan {
    /// The plan for a C scope.
    #[cfg(any(test, feature = "capi"))]
    pub(crate) fn scope(foot: usize, base: usize, trampoline: usize) -> Self {
        HAS_SCOPES.store(true, Ordering::Relaxed);
        Self { foot, base, trampoline, kind: trampoline::kind(trampoline), method_plan: MethodPlan::Scope }
    }

    /// The stack, as its record will describe it.
    #[inline]
    pub(crate) fn stack(&self) -> NewStack {
        let (method, unmarked_word) = match self.method_plan {
            MethodPlan::Slot(_) => (Method::Slot, 0),
            MethodPlan::Code(CodePlan::Mark(mark)) => (Method::Code, mark.map_or(0, |mark| mark.before)),
            MethodPlan::Code(CodePlan::Landing(_)) => (Method::Code, 0),
            #[cfg(any(test, feature = "capi"))]
            MethodPlan::Scope => (Method::Slot, 0),
        };
        let Self { foot, base, trampoline, kind, .. } = *self;
        NewStack { foot, base, kind, trampoline, method, unmarked_word }
    }

    /// The place of the canary of `record`, and its word.
    pub(crate) fn canary(&self, record: &'static Record) -> (usize, usize) {
        match self.method_plan {
            MethodPlan::Slot(writes) => (self.foot, writes.word),
            MethodPlan::Code(CodePlan::Mark(Some(mark))) => (mark.address, mark::word(record)),
            MethodPlan::Code(_) => record.own_canary(),
            #[cfg(any(test, feature = "capi"))]
            MethodPlan::Scope => (self.foot, std::ptr::from_ref(record).addr()),
        }
    }

    /// Whether no walk meets the stack's foot, so that only the stack map leads to its record.
    #[inline]
    pub(crate) fn is_known_by_map_alone(&self) -> bool {
        match self.method_plan {
            MethodPlan::Slot(_) | MethodPlan::Code(_) => false,
            #[cfg(any(test, feature = "capi"))]
            MethodPlan::Scope => true,
        }
    }

    /// Whether the stack has ends that only the safety net catches. `exit` on the main thread
    /// unwinds nothing, so main's stack needs the net in any case.
    pub(crate) fn needs_net(&self) -> bool {
        match self.method_plan {
            MethodPlan::Slot(writes) => {
                self.kind == Kind::Main || self.kind == Kind::Thread && !writes.redirects_landing()
            }
            MethodPlan::Code(_) => self.kind == Kind::Main || self.kind == Kind::Thread && !clib::ALL_ENDS_AT_HOOK,
            #[cfg(any(test, feature = "capi"))]
            MethodPlan::Scope => false,
        }
    }

    /// Whether the exit trampoline is as it was again, although the stack needs it patched: another
    /// thread has just restored it. The stack's record must be armed.
    #[inline]
    pub(crate) fn has_lost_hook(&self) -> bool {
        match self.method_plan {
            MethodPlan::Code(_) => !sites::is_patched(self.trampoline),
            _ => false,
        }
    }

    /// Patches the exit trampoline again, if [`Self::has_lost_hook`].
    #[cold]
    pub(crate) fn patch_again(&self, before_patching: fn() -> Result<(), Error>) -> Result<(), Error> {
        sites::ensure(self.trampoline, before_patching)
    }

    /// Whether it is main's stack, and `pthread_exit` would bypass both the redirect and the safety
    /// net.
    #[cfg(target_env = "gnu")]
    pub(crate) fn needs_key(&self) -> bool {
        matches!(self.method_plan, MethodPlan::Slot(writes) if self.kind == Kind::Main && !writes.redirects_landing())
    }

    /// Whether the stack's other ends would be missed without the safety net, and leave a record
    /// that the next stack on its memory takes for its own.
    pub(crate) fn is_lost_without_net(&self) -> bool {
        matches!(self.method_plan, MethodPlan::Code(CodePlan::Mark(_))) && self.kind == Kind::Thread && self.needs_net()
    }

    /// Redirects the exit of the running stack.
    ///
    /// # Safety
    /// It must come from [`plan`] for the running stack, or be that of a scope whose foot is good
    /// to write to. `record` must be ready to be drained: from here on the stack's end drains it.
    pub(crate) unsafe fn redirect(self, record: &'static Record) {
        match self.method_plan {
            // SAFETY: the caller's promise.
            MethodPlan::Slot(writes) => unsafe { slot::redirect(self.foot, writes) },
            // SAFETY: the caller's promise.
            MethodPlan::Code(writes) => unsafe { writes.write(record) },
            #[cfg(any(test, feature = "capi"))]
            MethodPlan::Scope => {
                let (foot, word) = self.canary(record);
                // SAFETY: the caller's promise.
                unsafe { AtomicUsize::from_ptr(foot as *mut usize) }.store(word, Ordering::Release);
            }
        }
    }
}

/// Whether this process has begun a C scope.
#[cfg(any(test, feature = "capi"))]
static HAS_SCOPES: AtomicBool = AtomicBool::new(false);

/// Whether a stack may end before its walk reaches a foot: in a C scope, which only the stack map
/// leads to. Then no remembered walk is good for this.
#[inline(always)]
pub(crate) fn has_scopes() -> bool {
    #[cfg(any(test, feature = "capi"))]
    return HAS_SCOPES.load(Ordering::Relaxed);
    #[cfg(not(any(test, feature = "capi")))]
    false
}

/// Plans the arming of the stack with this foot, by this process's redirect. Under code redirect
/// this patches the exit trampoline, if that was not done yet. `before_patching` runs first.
#[inline]
pub(crate) fn plan(foot: Foot, before_patching: fn() -> Result<(), Error>) -> Result<Plan, Error> {
    let method_plan = match choice::made()? {
        Method::Slot => MethodPlan::Slot(slot::plan(foot)?),
        Method::Code => {
            cold_path();
            MethodPlan::Code(code::plan(foot, before_patching)?)
        }
    };
    Ok(planned(foot, method_plan))
}

/// Learns all that [`plan_elsewhere`] needs for the stack with this foot, a thread's or main's. It
/// may take locks, allocate and patch code. `learn_secret` arms some other thread's stack.
///
/// # Safety
/// The foot and the bytes above it that `slot::learn` names must be memory of a stack.
#[cfg(target_env = "gnu")]
pub(crate) unsafe fn prepare_elsewhere(
    foot: Foot,
    before_patching: fn() -> Result<(), Error>,
    learn_secret: impl FnOnce() -> Result<(), Error>,
) -> Result<(), Error> {
    match choice::made()? {
        Method::Code => sites::ensure(foot.trampoline, before_patching)?,
        Method::Slot => {
            if !slot::knows_secret() {
                learn_secret()?;
            }
            // SAFETY: the caller's promise.
            unsafe { slot::learn(foot) }?;
        }
    }
    plan_elsewhere(foot).map(drop)
}

/// Plans the arming of the stack with this foot, a thread's or main's, which need not be the running
/// one. Takes no lock, allocates nothing, and learns nothing.
#[cfg(target_env = "gnu")]
pub(crate) fn plan_elsewhere(foot: Foot) -> Result<Plan, Error> {
    let no_foot = |reason| Error::NoFoot { address: foot.address, found: foot.word, reason };
    let method_plan = match choice::made()? {
        Method::Slot if crate::exit::shadow_stack::is_active() => return Err(Error::ShadowStack),
        Method::Slot => {
            let writes = slot::plan_elsewhere(foot);
            MethodPlan::Slot(
                writes.ok_or_else(|| no_foot("its exit trampoline's frame is not as that of other stacks"))?,
            )
        }
        Method::Code if !sites::is_patched(foot.trampoline) => {
            return Err(no_foot("its exit trampoline is not patched any more"));
        }
        Method::Code if sites::landing_bypasses_hook(foot.trampoline) => {
            return Err(no_foot("pthread_exit's end comes by no hook"));
        }
        Method::Code => MethodPlan::Code(CodePlan::Mark(None)),
    };
    Ok(planned(foot, method_plan))
}

/// Why this stack cannot be armed, if it cannot. Changes nothing.
pub(crate) fn problem(foot: Foot) -> Option<Error> {
    match choice::likely() {
        Ok(Method::Slot) => slot::plan(foot).err(),
        Ok(Method::Code) => code::problem(foot),
        Err(error) => Some(error),
    }
}

#[inline(always)]
fn planned(foot: Foot, method_plan: MethodPlan) -> Plan {
    let kind = trampoline::kind(foot.trampoline);
    Plan { foot: foot.address, base: foot.base, trampoline: foot.trampoline, kind, method_plan }
}

/// The plan for a stack whose exit trampoline has a known layout, with slot redirect. `None` for
/// any other: then [`plan`] makes one, or says why there is none. No such stack is lost without the
/// safety net ([`Plan::is_lost_without_net`]).
#[inline(always)]
pub(crate) fn plan_quickly(foot: Foot) -> Option<Plan> {
    if !choice::is_slot() {
        return None;
    }
    Some(planned(foot, MethodPlan::Slot(slot::plan_quickly(foot)?)))
}

/// Puts the exit of the running stack back. Returns whether that was possible. If not, nothing has
/// changed.
///
/// # Safety
/// `record` must be the live record of the running stack, must not be draining, and must have the
/// foot's present place (`lookup::locate_foot`).
#[must_use]
pub(crate) unsafe fn restore(record: &Record) -> bool {
    match record.method() {
        // SAFETY: the caller's promise.
        Method::Slot => unsafe { slot::restore(record) },
        Method::Code => {
            mark::remove(record);
            // SAFETY: the caller's promise.
            unsafe { slot::restore_landing(record) };
            true
        }
    }
}
