//! Arming by the address of a foot, without a walk and without code on that stack: `Reserved::new`
//! does all that allocates or takes a lock, `Reserved::arm` the rest.

use super::arm::before_patching;
use super::safety_net;
use crate::base::alloc::refused;
use crate::base::cancellation::Uncancelled;
use crate::base::error::Error;
use crate::base::foot::Foot;
use crate::base::kind::Kind;
use crate::base::stack_id::StackId;
use crate::exit::landing::REACH;
use crate::exit::redirect::plan::{plan_elsewhere, prepare_elsewhere};
use crate::exit::{known_kinds, trampoline};
use crate::machine::{arch, os};
use crate::record::header::Record;
use crate::record::stacks::STACKS;
use crate::storage::handlers::Handler;
use crate::unwind::memory;
use std::mem::ManuallyDrop;

/// A record with one handler, and room in the stack map, for a stack that is armed later.
pub(crate) struct Reserved {
    record: &'static Record,
    foot: usize,
    base: usize,
}

impl Reserved {
    /// Reserves for the stack with this foot and this base. After an error the handler is returned.
    ///
    /// # Safety
    /// The memory from the foot to [`REACH`] bytes above the base must be readable, or no memory at
    /// all, until this returns.
    pub(crate) unsafe fn new(foot: usize, base: usize, handler: Handler) -> Result<Self, (Error, Handler)> {
        // SAFETY: the caller's promise.
        let record = match unsafe { prepare(foot, base) }.and_then(|()| STACKS.take().ok_or_else(refused)) {
            Ok(record) => record,
            Err(error) => return Err((error, handler)),
        };
        if !STACKS.reserve(base, record) {
            STACKS.give(record);
            return Err((refused(), handler));
        }
        match record.push(handler) {
            Ok(_) => Ok(Self { record, foot, base }),
            Err((error, handler)) => {
                STACKS.unreserve(record);
                STACKS.give(record);
                Err((error, handler))
            }
        }
    }

    /// Arms the stack. Allocates nothing, takes no lock, and runs no code of users. After an error
    /// nothing has changed.
    ///
    /// # Safety
    /// The stack must be the running one, or stopped until this returns. Its entry function must not
    /// have returned, must return by the word in the foot, and must not be in a call into exeunt.
    /// (A word that leads to an exit trampoline may be left from an earlier call: on aarch64 always,
    /// on x86_64 where the stack pointer is above it.)
    pub(crate) unsafe fn arm(self) -> Result<StackId, (Error, Self)> {
        // SAFETY: the caller's promise.
        match unsafe { self.try_arm() } {
            Ok(id) => {
                // The record is the stack's from now on.
                let _ = ManuallyDrop::new(self);
                Ok(id)
            }
            Err(error) => Err((error, self)),
        }
    }

    /// # Safety
    /// As [`Self::arm`].
    unsafe fn try_arm(&self) -> Result<StackId, Error> {
        let Self { record, foot, base } = *self;
        // SAFETY: the caller's promise: a word of a stack.
        let foot = unsafe { foot_at(foot, base) }?;
        let plan = plan_elsewhere(foot)?;
        if plan.kind == Kind::Main && !safety_net::can_attach_to_main() {
            return Err(no_foot(foot, "exit has begun, and no function of exeunt's follows"));
        }
        if let Some(found) = STACKS.by_base(base) {
            return Err(occupied(found, foot));
        }
        record.prepare(&plan.stack(), 0);
        if !STACKS.insert_reserved(record) {
            record.withdraw();
            return Err(Error::OutOfMemory);
        }
        let (canary, word) = plan.canary(record);
        record.set_canary(canary, word);
        // SAFETY: the stack does not run meanwhile, or is the running one; its record is ready.
        unsafe { plan.redirect(record) };
        record.set_armed();
        if plan.has_lost_hook() {
            // Under code redirect nothing was written on the stack.
            record.withdraw();
            return Err(no_foot(foot, "its exit trampoline is not patched any more"));
        }
        if plan.kind == Kind::Main {
            safety_net::attach_to_main(record);
        }
        record.id().ok_or(Error::Busy)
    }
}

impl Drop for Reserved {
    /// Drops the handler without running it.
    fn drop(&mut self) {
        self.record.forget_handlers();
        STACKS.unreserve(self.record);
        STACKS.give(self.record);
    }
}

fn no_foot(foot: Foot, reason: &'static str) -> Error {
    Error::NoFoot { address: foot.address, found: foot.word, reason }
}

/// The error for a stack at whose base there is this record already.
fn occupied(found: &'static Record, foot: Foot) -> Error {
    match found.id() {
        // Its stack may be running, and end meanwhile: then its memory is gone.
        Some(id) if found.is_armed() && !found.is_stale() => Error::AlreadyArmed(id),
        _ => no_foot(foot, "a stack with this base is being armed or drained, or was abandoned"),
    }
}

/// The foot at this address.
///
/// # Safety
/// It must be a word of a stack.
unsafe fn foot_at(address: usize, base: usize) -> Result<Foot, Error> {
    // SAFETY: the caller's promise.
    let word = unsafe { (address as *const usize).read_volatile() };
    let mut foot = Foot { address, word, base, trampoline: 0, frame_pointer_at: None };
    let target = arch::strip(word);
    if trampoline::is_label(target) {
        return Err(match STACKS.by_base(base) {
            Some(found) => occupied(found, foot),
            None => no_foot(foot, "it holds a trampoline of exeunt's, and no record belongs to it"),
        });
    }
    let Some(number) = trampoline::number_of_original(target) else {
        return Err(no_foot(foot, "it leads to no exit trampoline that exeunt knows"));
    };
    if !matches!(trampoline::kind(number), Kind::Thread | Kind::Main) || trampoline::is_landing(number) {
        return Err(no_foot(foot, "it is neither a thread's nor main's"));
    }
    foot.trampoline = number;
    Ok(foot)
}

/// Learns all that arming this stack needs.
///
/// # Safety
/// As [`Reserved::new`].
unsafe fn prepare(address: usize, base: usize) -> Result<(), Error> {
    // Recognising and patching, and the thread that is joined, reach cancellation points.
    let _uncancelled = Uncancelled::new();
    let is_aligned = address % size_of::<usize>() == 0 && base % 16 == 0;
    let fits = if cfg!(target_arch = "x86_64") { base == address.wrapping_add(8) } else { address < base };
    let unread = |reason| Error::NoFoot { address, found: 0, reason };
    if !is_aligned || !fits {
        return Err(unread("the foot and the base do not belong together"));
    }
    if !os::is_readable(address) || !os::is_readable(base) || !os::is_readable(base.saturating_add(REACH - 8)) {
        return Err(unread("the memory there cannot be read"));
    }
    // SAFETY: the caller's promise, and it was readable just now.
    let foot = match unsafe { foot_at(address, base) } {
        Err(Error::NoFoot { .. }) => {
            known_kinds::recognise()?;
            // SAFETY: as above.
            unsafe { foot_at(address, base) }?
        }
        other => other?,
    };
    // Under code redirect the foot does not show it.
    if let Some(found) = STACKS.by_base(base).filter(|found| found.is_armed() && !found.is_stale()) {
        return Err(occupied(found, foot));
    }
    // SAFETY: as above.
    unsafe { prepare_elsewhere(foot, before_patching, arm_another_thread) }?;
    if trampoline::kind(foot.trampoline) == Kind::Main {
        safety_net::register_for_main()?;
    }
    // As when any stack is armed.
    memory::set_known_readable(|address| STACKS.is_of_live_stack(address));
    Ok(())
}

/// Arms the stack of a thread that ends at once.
fn arm_another_thread() -> Result<(), Error> {
    fn arm() -> Result<(), Error> {
        super::arm::record_from(arch::stack_pointer()).map(drop)
    }
    let thread = std::thread::Builder::new().spawn(arm);
    let failed = |error: std::io::Error| Error::CallFailed {
        call: "pthread_create",
        errno: error.raw_os_error().unwrap_or(libc::EAGAIN),
    };
    // It cannot panic.
    thread.map_err(failed)?.join().unwrap_or(Err(Error::Busy))
}
