//! How the running stack ends: `ending`, `returned_value`. A drain notes nothing but what has begun
//! it (`Cause`). The rest follows from what its frames and the thread hold, when code asks.

use super::lookup;
use crate::base::ending::{Cause, Ending, StackEnd};
use crate::base::kind::Kind;
use crate::exit::{thread_end, trampoline};
use crate::machine::{arch, clib};
use crate::record::drain::{may_drain_abandoned, of_handler as of_handler_s_record};
use crate::record::header::Record;
use crate::record::stacks::STACKS;
use crate::unwind::around::frame_around;

/// The innermost drain that the running code belongs to.
fn current() -> Option<(&'static Record, Cause)> {
    let own = lookup::lookup_verified().and_then(|record| Some((record, record.cause()?)));
    if !may_drain_abandoned() {
        return own;
    }
    // An abandoned stack drains on another one, and its own code does not run. So the frames of the
    // running stack show whether the code here belongs to that drain.
    let end = own.map_or(usize::MAX, |(record, _)| arch::untagged(record.canary_at()));
    let mut innermost = (end, own);
    for record in STACKS.all() {
        let Some((cause, place)) = record.drained_elsewhere() else { continue };
        let place = arch::untagged(place);
        if place < innermost.0 && is_in_running_frames(place) {
            innermost = (place, Some((record, cause)));
        }
    }
    innermost.1
}

/// Whether a frame of the running stack holds the word at `place`.
#[inline(never)]
fn is_in_running_frames(place: usize) -> bool {
    // SAFETY: registers of this function.
    unsafe { frame_around(arch::Registers::here(), (place, place + size_of::<usize>())) }.is_some()
}

/// How the stack ends whose drain the running code belongs to; `None` outside of a drain.
pub(crate) fn ending() -> Option<Ending> {
    let (record, cause) = current()?;
    Some(resolve(record, cause))
}

/// The end that this handler belongs to, for the code with which it begins. It needs no walk.
pub(crate) fn of_handler() -> StackEnd {
    let found = of_handler_s_record().and_then(|record| Some((record, record.cause()?)));
    // Always found: the handler runs in a drain, and `ask_for_record` came before it was registered.
    let Some((record, cause)) = found else {
        return StackEnd { kind: Kind::Unknown, ending: Ending::Unknown, value: None, is_armed: true };
    };
    let ending = resolve(record, cause);
    StackEnd { kind: record.kind(), ending, value: value_of(record, cause, ending), is_armed: true }
}

fn resolve(record: &Record, cause: Cause) -> Ending {
    match cause {
        Cause::Trampoline if has_returned(record) => Ending::Returned,
        Cause::Trampoline | Cause::ThreadExit => thread_exit(),
        Cause::Hook if clib::ALL_ENDS_AT_HOOK && is_of_thread(record) => match thread_end::is_exiting() {
            Some(true) => thread_exit(),
            Some(false) => Ending::Returned,
            None => Ending::Unknown,
        },
        Cause::Hook => Ending::Returned,
        Cause::Net => by_net(record),
        Cause::Unwound => Ending::Unwound,
        Cause::ProcessExit => Ending::ProcessExit,
        Cause::Abandoned => Ending::Abandoned,
        Cause::Discarded => Ending::Discarded,
        Cause::Scope => Ending::Scope,
    }
}

fn is_of_thread(record: &Record) -> bool {
    matches!(record.kind(), Kind::Thread | Kind::Main)
}

/// The base of the running stack, whose record this is.
fn base(record: &Record) -> usize {
    arch::tagged_as(record.base(), arch::stack_pointer())
}

/// Whether the trampoline that drains the record will go on to where the entry function was to
/// return. Otherwise the thread has landed.
fn has_returned(record: &Record) -> bool {
    // SAFETY: the trampoline's frame ends at the base, and is there until the drain is over.
    let goes_on_to = unsafe { arch::word_of_stack(arch::trampoline_goes_on_to(base(record))) };
    arch::strip(goes_on_to) == trampoline::original(record.trampoline())
}

/// The thread ends by `pthread_exit` or by cancellation.
fn thread_exit() -> Ending {
    match thread_end::is_cancelled() {
        Some(true) => Ending::Cancelled,
        Some(false) => Ending::Exited,
        None => Ending::Unknown,
    }
}

/// The end of a thread whose safety net has drained its stack.
fn by_net(record: &Record) -> Ending {
    // `exit` does not run this net.
    if !clib::EXIT_ENDS_THREAD {
        return thread_exit();
    }
    // `pthread_exit` on the main thread runs no destructors of thread-locals with glibc.
    if cfg!(target_env = "gnu") && record.kind() == Kind::Main {
        return Ending::ProcessExit;
    }
    match thread_end::is_exiting() {
        Some(true) => thread_exit(),
        Some(false) => Ending::ProcessExit,
        None => Ending::Unknown,
    }
}

/// The value that the stack ends with: that of its entry function, or of `pthread_exit`.
pub(crate) fn returned_value() -> Option<usize> {
    let (record, cause) = current()?;
    value_of(record, cause, resolve(record, cause))
}

fn value_of(record: &Record, cause: Cause, ending: Ending) -> Option<usize> {
    match ending {
        Ending::Returned => returned(record, cause),
        Ending::Exited => thread_end::value(),
        _ => None,
    }
}

/// How the running thread ends, which a hook has met, and whether it is the main thread. Only if
/// [`knows_ends`] was true.
#[cfg(code_redirect)]
pub(super) fn at_hook(kind: Kind, base: usize) -> (Ending, Option<usize>) {
    match thread_end::is_exiting() {
        Some(true) => match thread_exit() {
            Ending::Exited => (Ending::Exited, thread_end::value()),
            ending => (ending, None),
        },
        Some(false) if kind == Kind::Main => {
            // SAFETY: the frame of the hook, which calls this, ends at the base.
            let argument = unsafe { arch::word_of_stack(arch::hook_argument(base)) };
            (Ending::Returned, Some(argument as i32 as isize as usize))
        }
        Some(false) => (Ending::Returned, thread_end::value()),
        None => (Ending::Unknown, None),
    }
}

/// Whether [`at_hook`] can tell one end from the other. The first call in a process starts a thread.
#[cfg(code_redirect)]
pub(super) fn knows_ends() -> bool {
    thread_end::is_exiting().is_some()
}

/// What the entry function of the stack with this record has returned.
fn returned(record: &Record, cause: Cause) -> Option<usize> {
    let at = base(record);
    // SAFETY: the frame of `asm/` with the words that these functions name ends at the base, and is
    // there until the drain is over.
    let word = |place: usize| unsafe { arch::word_of_stack(place) };
    let value = match (cause, record.kind()) {
        (Cause::Trampoline, Kind::Thread | Kind::Main | Kind::Registered) => word(arch::trampoline_result(at)),
        // The exit trampoline's patched call passes it on: to `exit`, or to musl's
        // `__pthread_exit`.
        (Cause::Hook, Kind::Main) => word(arch::hook_argument(at)),
        (Cause::Hook, Kind::Thread) if cfg!(target_env = "musl") => word(arch::hook_argument(at)),
        (Cause::Hook, Kind::Thread) => thread_end::value()?,
        // The functions of `makecontext` and `enter` return nothing.
        _ => return None,
    };
    let is_int = record.kind() == Kind::Main || trampoline::name(record.trampoline()).to_bytes().ends_with(b"(C11)");
    Some(if is_int { value as i32 as isize as usize } else { value })
}
