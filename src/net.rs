//! The safety net: drains the main thread's stack when `exit` ends it, and a thread's that ends by `pthread_exit` or by
//! cancellation where its landing could not be redirected (`os/landing.rs`).
//!
//! Under code redirect it catches the same ends of `main`, and on macOS those of threads: `pthread_exit` and cancellation call
//! there what a return calls, but not from where a return does.
//!
//! It is a thread-local destructor, which all these ends run on the thread itself. Destructors of thread-locals that were
//! made later have run before it. On the main thread there is one more net below, an `atexit` function, for what arms the
//! stack after that.

use crate::record::Record;
use crate::stack::{Kind, StackId};
use crate::{arm, drain, os};
use std::cell::Cell;
use std::ffi::c_void;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering};

struct Net {
    armed: Cell<Option<(&'static Record, StackId)>>,
}

thread_local! {
    static NET: Net = const { Net { armed: Cell::new(None) } };
}

/// Whether [`spread`] would have an effect. The net of a thread that ends right now is behind it.
pub(crate) fn can_be_spread() -> bool {
    NET.try_with(|_| ()).is_ok()
}

/// Whether `exit` will run [`main_is_over`].
static MAIN_WATCHED: AtomicBool = AtomicBool::new(false);

/// The stack that [`main_is_over`] drains: its record and identity, and the thread that it is of. It is kept, for `exit` may
/// call that function from code without unwind tables (`__do_global_dtors_aux` of gcc's `crtbegin.o`), where no walk leads on.
static MAIN: (AtomicPtr<Record>, AtomicU64, AtomicUsize) =
    (AtomicPtr::new(ptr::null_mut()), AtomicU64::new(0), AtomicUsize::new(0));

fn this_thread() -> usize {
    // SAFETY: only asks.
    unsafe { libc::pthread_self() as usize }
}

/// The last net, for a main thread that is armed so late in `exit` that its thread-local destructors have run: `exit` also
/// runs functions that are registered while it runs others.
extern "C" fn main_is_over() {
    MAIN_WATCHED.store(false, Ordering::Relaxed);
    let (record, id, thread) = &MAIN;
    // SAFETY: null, or a record, which are never freed.
    let Some(record) = (unsafe { record.load(Ordering::Relaxed).as_ref() }) else { return };
    let is_armed = record.id().is_some_and(|now| now.get() == id.load(Ordering::Relaxed));
    // Another thread that calls `exit` does not end main's stack.
    if is_armed && thread.load(Ordering::Relaxed) == this_thread() {
        catch(record);
    }
}

/// Spreads the net under the running thread's stack, whose record this is.
pub(crate) fn spread(record: &'static Record) {
    if record.kind() == Kind::Main {
        MAIN.0.store(ptr::from_ref(record).cast_mut(), Ordering::Relaxed);
        MAIN.1.store(record.id().map_or(0, StackId::get), Ordering::Relaxed);
        MAIN.2.store(this_thread(), Ordering::Relaxed);
        if !MAIN_WATCHED.swap(true, Ordering::Relaxed) {
            // SAFETY: a function of this library, which is pinned by now. Where there is no memory for it, the rest of the net is
            // there.
            unsafe { libc::atexit(main_is_over) };
        }
    }
    // A thread that ends right now has its net behind it; then only a return drains.
    let _ = NET.try_with(|net| net.armed.set(record.id().map(|id| (record, id))));
}

/// The record has another identity now: `before` is the one that the net knows, if it is under that stack.
pub(crate) fn renew(record: &'static Record, before: Option<StackId>) {
    let knows = |net: &Net| net.armed.get().is_some_and(|(known, id)| ptr::eq(known, record) && Some(id) == before);
    if NET.try_with(knows).unwrap_or(false) {
        spread(record);
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        let Some((record, id)) = self.armed.take() else { return };
        if record.id() != Some(id) {
            return; // its entry function returned, or it was unloaded
        }
        catch(record);
    }
}

/// Drains a record that is in the net. A handler on the main thread may call `exit` once more, which does not run this
/// destructor again; so there is another one for it to run.
fn catch(record: &'static Record) {
    if record.kind() == Kind::Main {
        os::at_thread_end(go_on);
    }
    drain::without_return(record);
}

/// Goes on where a handler called `exit`; else all is done by now.
unsafe extern "C" fn go_on(_: *mut c_void) {
    if let Some(record) = arm::lookup().filter(|record| record.kind() == Kind::Main && record.is_draining()) {
        catch(record);
    }
}
