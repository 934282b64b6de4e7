//! The safety net: drains the main thread's stack when `exit` ends it, and a thread's that ends by `pthread_exit` or by
//! cancellation where its landing could not be redirected (`os/landing.rs`).
//!
//! It does not see the end of `main` by `pthread_exit`, where glibc runs no destructors of thread-locals: there main's landing is
//! redirected, or a hook is in the way, or a key stands in (`main_key.rs`).
//!
//! Under code redirect it catches `exit` on the main thread as well, and on macOS those of threads: `pthread_exit` and cancellation call
//! there what a return calls, but not from where a return does.
//!
//! It is a destructor of thread-locals, which all these ends run on the thread itself. Destructors
//! of thread-locals that were
//! made later have run before it. On the main thread there is one more net below, an `atexit` function, for what arms the
//! stack after that.
//!
//! A handler on the main thread may call `exit` once more, which runs the destructors that are
//! left, and not the one again that runs the handler. So there are some of them (`nested_exit`), each for
//! one more `exit`; behind them comes the `atexit` function. All are registered before the stack is
//! armed: glibc ends the process where it has no memory to register one, and a process that runs
//! out of memory must still be able to end.

use crate::base::cancellation::this_thread;
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
    /// Its destructor has run, or runs.
    Done,
}

thread_local! {
    // std registers no destructor for it: nothing in it needs one.
    static NET: Net = const { Net { state: Cell::new(State::Absent), armed: Cell::new(None) } };
}

/// How many calls of `exit` in handlers find a destructor that goes on before other thread-locals
/// are destroyed. Those after them are caught by the `atexit` function.
const NESTED_EXITS: usize = 8;

/// Whether [`attach`] would have an effect. The net of a thread that ends right now is behind it.
pub(crate) fn can_attach() -> bool {
    NET.with(|net| net.state.get() != State::Done)
}

/// Whether `exit` will run [`main_exits`].
static ATEXIT_REGISTERED: AtomicBool = AtomicBool::new(false);

/// The stack that [`main_exits`] drains: its record and identity, and the thread that it is of.
/// It is kept, for `exit` may call that function from code without unwind tables
/// (`__do_global_dtors_aux` of gcc's `crtbegin.o`), where no walk leads on.
static MAIN: (AtomicPtr<Record>, AtomicU64, AtomicUsize) =
    (AtomicPtr::new(ptr::null_mut()), AtomicU64::new(0), AtomicUsize::new(0));

/// Registers the last net, for a main thread that is armed so late in `exit` that its thread-local
/// destructors have run: `exit` also runs functions that are registered while it runs others.
/// Whether it is registered; not without memory.
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
    if is_armed && thread.load(Ordering::Relaxed) == this_thread() {
        // For a handler that calls `exit`. It takes the place of the one that runs now, and so
        // needs no memory (glibc's `__new_exitfn`).
        register_atexit();
        drain::with_live_frames(record);
    }
}

/// Makes sure that the net can be spread under the running thread's stack, which is about to be
/// armed. That of a thread which ends right now is behind it; then only a return drains.
pub(crate) fn register(kind: Kind) -> Result<(), Error> {
    let is_main = kind == Kind::Main;
    if is_main && !register_atexit() {
        return Err(Error::OutOfMemory);
    }
    if NET.with(|net| net.state.get()) != State::Absent {
        return Ok(());
    }
    // libc ends the process where it has no memory to register a function: 40 bytes for each of
    // them. A block of this size is too large for a cache of the thread's own, in which `calloc`
    // does not look before glibc 2.41.
    if !os::has_memory(4096) {
        return Err(Error::OutOfMemory);
    }
    if is_main {
        // Last registered, first run.
        (0..NESTED_EXITS).for_each(|_| clib::at_thread_end(nested_exit));
    }
    clib::at_thread_end(thread_ends);
    NET.with(|net| net.state.set(State::Registered));
    Ok(())
}

/// Spreads the net under the running thread's stack, whose record this is.
pub(crate) fn attach(record: &'static Record) {
    if record.kind() == Kind::Main {
        MAIN.0.store(ptr::from_ref(record).cast_mut(), Ordering::Relaxed);
        MAIN.1.store(record.id().map_or(0, StackId::get), Ordering::Relaxed);
        MAIN.2.store(this_thread(), Ordering::Relaxed);
    }
    NET.with(|net| net.armed.set(record.id().map(|id| (record, id))));
}

/// The record has another identity now: `before` is the one that the net knows, if it is under that stack.
pub(crate) fn update_id(record: &'static Record, before: Option<StackId>) {
    let is_attached =
        |net: &Net| net.armed.get().is_some_and(|(attached, id)| ptr::eq(attached, record) && Some(id) == before);
    if NET.with(is_attached) {
        attach(record);
    }
}

/// Drains the record that is in the net.
unsafe extern "C" fn thread_ends(_: *mut c_void) {
    let armed = NET.with(|net| {
        net.state.set(State::Done);
        net.armed.take()
    });
    // Or its entry function has returned, or it was unloaded.
    if let Some((record, id)) = armed
        && record.id() == Some(id)
    {
        drain::with_live_frames(record);
    }
}

/// Goes on where a handler called `exit`; else all is done by now.
unsafe extern "C" fn nested_exit(_: *mut c_void) {
    if let Some(record) = lookup::lookup().filter(|record| record.kind() == Kind::Main && record.is_draining()) {
        drain::with_live_frames(record);
    }
}
