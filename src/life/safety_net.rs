//! The safety net drains stacks whose entry function does not return: the main thread's when `exit`
//! ends it, and a thread's that ends by `pthread_exit` or by cancellation where its landing could
//! not be redirected (`exit/landing/`).
//!
//! `register` registers it before a stack is armed, `attach` and `update_id` set the record.
//! `thread_ends`, `nested_exit` and `main_exits` drain.
//!
//! It does not see the end of `main` by `pthread_exit`, where glibc runs no destructors of
//! thread-locals. There main's landing is redirected, or a hook catches the end, or a key stands in
//! (`main_key.rs`).
//!
//! Under code redirect it catches `exit` on the main thread as well, and on macOS the ends of
//! threads: `pthread_exit` and cancellation call there what a return calls, but from another place.
//!
//! It is a destructor of thread-locals, which all these ends run on the thread itself. Destructors
//! of thread-locals that were created later have run before it. With musl it is the thread's last
//! cleanup handler, which `exit` does not run. On the main thread there is one more net, an `atexit`
//! function that runs later still, for stacks that are armed after that.
//!
//! A handler on the main thread may call `exit` once more. That runs the remaining destructors, but
//! not again the one that runs the handler. So there are several of them (`nested_exit`), each for
//! one more `exit`; after them comes the `atexit` function. All are registered before the stack is
//! armed: glibc ends the process where it has no memory to register one, and a process that runs
//! out of memory must still be able to end.

use crate::base::cancellation::this_thread;
use crate::base::ending::Cause;
use crate::base::error::Error;
use crate::base::kind::Kind;
use crate::base::stack_id::StackId;
use crate::life::drain;
use crate::life::lookup;
use crate::machine::clib;
use crate::machine::os;
use crate::record::header::Record;
use std::cell::Cell;
use std::ffi::c_void;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering};

/// A thread's net.
struct Net {
    state: Cell<State>,
    armed: Cell<Option<(&'static Record, StackId)>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// Its destructor has not been registered.
    Absent,
    /// Its destructor will run.
    Registered,
    /// Its destructor has run, or is running.
    Done,
}

thread_local! {
    // std registers no destructor for it: nothing in it needs one.
    static NET: Net = const { Net { state: Cell::new(State::Absent), armed: Cell::new(None) } };
}

/// The number of nested calls of `exit`, in handlers, for which a destructor goes on before other
/// thread-locals are destroyed. The `atexit` function catches those after them.
const NESTED_EXITS: usize = 8;

/// Whether [`attach`] would have an effect. It has none where the net of the running thread has run
/// already.
pub(crate) fn can_attach() -> bool {
    NET.with(|net| net.state.get() != State::Done)
}

/// Whether `exit` will run [`main_exits`].
static ATEXIT_REGISTERED: AtomicBool = AtomicBool::new(false);

/// The stack that [`main_exits`] drains: its record and identity, and its thread (zero where another
/// thread has armed it). It is kept here
/// because `exit` may call that function from code without unwind tables (`__do_global_dtors_aux`
/// of gcc's `crtbegin.o`), where no walk leads on.
static MAIN: (AtomicPtr<Record>, AtomicU64, AtomicUsize) =
    (AtomicPtr::new(ptr::null_mut()), AtomicU64::new(0), AtomicUsize::new(0));

/// Registers the last net, for a main thread that is armed so late in `exit` that its thread-local
/// destructors have run: `exit` also runs functions that are registered while it runs others.
/// Returns whether it is registered; not without memory.
fn register_atexit() -> bool {
    if ATEXIT_REGISTERED.swap(true, Ordering::Relaxed) {
        return true;
    }
    // SAFETY: a function of this library, which is pinned by now.
    let registered = unsafe { libc::atexit(main_exits) } == 0;
    ATEXIT_REGISTERED.store(registered, Ordering::Relaxed);
    registered
}

extern "C" fn main_exits() {
    ATEXIT_REGISTERED.store(false, Ordering::Relaxed);
    let (record, id, thread) = &MAIN;
    // SAFETY: null, or a record, which are never freed.
    let Some(record) = (unsafe { record.load(Ordering::Relaxed).as_ref() }) else { return };
    let is_armed = record.id().is_some_and(|now| now.get() == id.load(Ordering::Relaxed));
    // Another thread that calls `exit` does not end main's stack.
    let is_its_thread = match thread.load(Ordering::Relaxed) {
        0 => runs_on(record),
        thread => thread == this_thread(),
    };
    if is_armed && is_its_thread {
        // For a handler that calls `exit`. It takes the place of the one that is running, and so
        // needs no memory (glibc's `__new_exitfn`).
        register_atexit();
        drain::with_live_frames(record, Cause::ProcessExit);
    }
}

/// Whether the running thread's own stack is the one with this record.
fn runs_on(record: &Record) -> bool {
    clib::thread_bounds().is_some_and(|bounds| bounds.contains(&record.base().wrapping_sub(1)))
}

/// Makes sure that [`attach_to_main`] has an effect.
#[cfg(target_env = "gnu")]
pub(super) fn register_for_main() -> Result<(), Error> {
    if register_atexit() { Ok(()) } else { Err(Error::OutOfMemory) }
}

/// Whether [`attach_to_main`] has an effect: not once `exit` has run the last net.
#[cfg(target_env = "gnu")]
pub(super) fn can_attach_to_main() -> bool {
    ATEXIT_REGISTERED.load(Ordering::Relaxed)
}

/// Attaches the last net, the `atexit` function, to main's stack, whose record this is. The running
/// thread need not be main's: thread-locals of main are out of reach.
#[cfg(target_env = "gnu")]
pub(super) fn attach_to_main(record: &'static Record) {
    MAIN.0.store(ptr::from_ref(record).cast_mut(), Ordering::Relaxed);
    MAIN.1.store(record.id().map_or(0, StackId::get), Ordering::Relaxed);
    MAIN.2.store(0, Ordering::Release);
}

/// Makes sure that the net can be attached to the running thread's stack, which is about to be
/// armed. Where the net of this thread has run already, only a return drains.
pub(crate) fn register(kind: Kind) -> Result<(), Error> {
    let is_main = kind == Kind::Main;
    if is_main && !register_atexit() {
        return Err(Error::OutOfMemory);
    }
    if NET.with(|net| net.state.get()) != State::Absent {
        return Ok(());
    }
    // libc ends the process where it has no memory to register a function: 40 bytes for each. A
    // block of 4096 bytes is too large for a cache of the thread's own, which `calloc` does not use
    // before glibc 2.41.
    if !os::has_memory(4096) {
        return Err(Error::OutOfMemory);
    }
    // The allocator may be the program's, and may have armed this stack just now.
    if NET.with(|net| net.state.get()) != State::Absent {
        return Ok(());
    }
    if is_main && clib::EXIT_ENDS_THREAD {
        // The last one registered runs first.
        for _ in 0..NESTED_EXITS {
            clib::at_thread_end(nested_exit)?;
        }
    }
    clib::at_thread_end(thread_ends)?;
    NET.with(|net| net.state.set(State::Registered));
    Ok(())
}

/// Attaches the net to the running thread's stack, whose record this is.
pub(crate) fn attach(record: &'static Record) {
    if record.kind() == Kind::Main {
        MAIN.0.store(ptr::from_ref(record).cast_mut(), Ordering::Relaxed);
        MAIN.1.store(record.id().map_or(0, StackId::get), Ordering::Relaxed);
        MAIN.2.store(this_thread(), Ordering::Relaxed);
    }
    NET.with(|net| net.armed.set(record.id().map(|id| (record, id))));
}

/// Takes over the record's new identity, if the net is attached to this record with the identity
/// `before`.
pub(crate) fn update_id(record: &'static Record, before: Option<StackId>) {
    let is_attached =
        |net: &Net| net.armed.get().is_some_and(|(attached, id)| ptr::eq(attached, record) && Some(id) == before);
    if NET.with(is_attached) {
        attach(record);
    } else if ptr::eq(MAIN.0.load(Ordering::Relaxed), record)
        && MAIN.2.load(Ordering::Relaxed) == 0
        && before.is_some_and(|before| before.get() == MAIN.1.load(Ordering::Relaxed))
    {
        // `attach_to_main` has attached it.
        MAIN.1.store(record.id().map_or(0, StackId::get), Ordering::Relaxed);
    }
}

/// Drains the record to which the net is attached.
unsafe extern "C" fn thread_ends(_: *mut c_void) {
    let armed = NET.with(|net| {
        net.state.set(State::Done);
        net.armed.take()
    });
    // Otherwise its entry function has returned, or it was unloaded.
    if let Some((record, _)) = armed.filter(|(record, id)| record.id() == Some(*id)) {
        drain::with_live_frames(record, Cause::Net);
    }
}

/// Goes on where a handler has called `exit`. Otherwise the drain is over by now.
unsafe extern "C" fn nested_exit(_: *mut c_void) {
    if let Some(record) = lookup::lookup().filter(|record| record.kind() == Kind::Main && record.is_draining()) {
        drain::with_live_frames(record, Cause::ProcessExit);
    }
}
