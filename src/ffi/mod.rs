//! The C face: `exeunt.h` is generated from this file, doc comments and all (`cbindgen.toml`).
//!
//! It is compiled with the feature `capi`, which cargo-c sets. It is a module of this package and not one apart, because
//! cargo-c, called at the root, takes what has such a feature and gives the library that package's name and version. What
//! is public here is for C; Rust has better names for it.
//!
//! No panic of ours crosses into C. A function that returns a code catches it and returns `EXEUNT_EPANIC`; one that cannot
//! (`exeunt_get`, `exeunt_id`) is `extern "C"`, where the language ends the process with the panic's message. The two
//! that call a function of the user's as an entry function are `extern "C-unwind"`: exceptions and forced unwinding pass
//! through them, and a panic of ours before that call ends the process.
#![allow(non_camel_case_types)]

mod cache;
mod code;
mod patch;
mod scope;

use crate::base::alloc::{refused, try_box};
use crate::base::error::Error;
use crate::face::at_exit;
use crate::face::keyed::{self, Then};
use crate::face::slots;
use crate::record::header::Record;
use crate::storage::values::Handler;
use crate::storage::values::{Addition, hash_of};
use code::{EXEUNT_OK, Failure, report, shielded};
use std::cell::Cell;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::hash::{Hash, Hasher};
use std::mem::ManuallyDrop;

/// A handler or a destructor.
///
/// It must return: an exception that leaves it ends the process, and so does `pthread_exit` in it.
pub type exeunt_fn = Option<unsafe extern "C-unwind" fn(arg: *mut c_void)>;

/// A fiber's function, for `exeunt_enter`. It may be left by a C++ exception or by forced unwinding.
pub type exeunt_entry = Option<unsafe extern "C-unwind" fn(arg: *mut c_void) -> *mut c_void>;

/// Keys of C are apart from all keys of Rust, by their type.
#[derive(PartialEq, Eq)]
struct Key(*const c_void);

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.addr().hash(state);
    }
}

struct Value {
    key: *const c_void,
    value: *mut c_void,
    /// None until the value is stored: it is the caller's before.
    destructor: Cell<exeunt_fn>,
}

/// What it takes to store a value of C.
struct Storing(exeunt_fn);

impl Then<Value> for Storing {
    fn prepare(&self, record: &Record) -> Result<(), Error> {
        // First, so that nothing can fail any more when there is a cache.
        record.room_for(Addition::Key)?;
        cache::ensure()
    }

    fn commit(&self, value: &Value) {
        value.destructor.set(self.0);
    }
}

impl Drop for Value {
    fn drop(&mut self) {
        cache::forget(self.key);
        if let (false, Some(destructor)) = (self.value.is_null(), self.destructor.get()) {
            // SAFETY: the duty of who called `exeunt_set`: the destructor fits the value. It is called once, here.
            unsafe { destructor(self.value) }
        }
    }
}

/// Registers a handler, which is called with `arg` when the running stack ends. The stack is armed if it was not.
///
/// Handlers run last in, first out, on that very stack, before its thread's pthread keys and C++ `thread_local`
/// destructors, with all values still there. A handler may use storage and register more handlers.
///
/// Returns 0; `EXEUNT_EINVALID` for a null `handler`; or why the stack cannot be armed. Then nothing has changed.
/// Thread-safe: it concerns the running stack alone. Not for signal handlers.
///
/// # Safety
/// `handler` must be good to call with `arg` when the stack ends, on whichever thread runs it then: its code must stay
/// loaded until then (a plugin that may be unloaded is linked with `-Wl,-z,nodelete`).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn exeunt_at_exit(handler: exeunt_fn, arg: *mut c_void) -> c_int {
    shielded(|| {
        let handler = handler.ok_or(Failure::Invalid("exeunt_at_exit: the handler is null"))?;
        // SAFETY: the caller's promise.
        crate::at_exit(move || unsafe { handler(arg) })?;
        Ok(())
    })
}

/// A handler, and what is called instead if it is forgotten.
struct Owned {
    handler: Option<unsafe extern "C-unwind" fn(*mut c_void)>,
    forget: exeunt_fn,
    arg: *mut c_void,
}

impl Owned {
    fn run(mut self) {
        if let Some(handler) = self.handler.take() {
            // SAFETY: the duty of who called `exeunt_at_exit_owned`.
            unsafe { handler(self.arg) }
        }
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        if let (Some(_), Some(forget)) = (self.handler, self.forget) {
            // SAFETY: as above.
            unsafe { forget(self.arg) }
        }
    }
}

/// As `exeunt_at_exit`, for a handler that owns its `arg`: if it is forgotten by `exeunt_unload`, `forget` is called with
/// `arg` instead, to free it. After an error neither is called, and `arg` is still yours.
///
/// Returns and thread safety: as `exeunt_at_exit`.
///
/// # Safety
/// As `exeunt_at_exit`, for both functions.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn exeunt_at_exit_owned(handler: exeunt_fn, forget: exeunt_fn, arg: *mut c_void) -> c_int {
    shielded(|| {
        if handler.is_none() {
            return Err(Failure::Invalid("exeunt_at_exit_owned: the handler is null"));
        }
        let owned = Owned { handler, forget, arg };
        // After an error it is not dropped, which would call `forget`: `arg` is still the caller's.
        let handler = match try_box(move || owned.run()) {
            Ok(handler) => handler as Handler,
            Err(handler) => {
                std::mem::forget(handler);
                return Err(refused().into());
            }
        };
        at_exit::register(handler).map_err(|(error, handler)| {
            let handler = Box::into_raw(handler) as *mut ManuallyDrop<dyn FnOnce()>;
            // SAFETY: the same box, whose memory is freed here.
            drop(unsafe { Box::from_raw(handler) });
            error.into()
        })
    })
}

/// Stores `value` under `key` on the running stack, which is armed if it was not.
///
/// The key is the address alone: take that of a static variable that is not `const` (such ones may be merged). Keys are compared as
/// `==` compares pointers, so a tag in the upper byte (aarch64: MTE, HWASan) is a part of them. When the stack ends, after its handlers, or when the
/// value is replaced, deleted or reset, `destructor` is called with the value, unless one of them is null. At the end
/// values are destroyed last set first. A destructor may use storage, also under the same key.
///
/// Returns 0, or why the stack cannot be armed. Then nothing has changed: the old value is still there, and the new one
/// is still yours; its destructor is not called.
/// Thread-safe: it concerns the running stack alone. Not for signal handlers.
///
/// # Safety
/// `destructor` must be good to call with `value`, on whichever thread runs the stack then; its code must stay loaded.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn exeunt_set(key: *const c_void, value: *mut c_void, destructor: exeunt_fn) -> c_int {
    shielded(|| {
        let (key, value) = (Key(key), Value { key, value, destructor: Cell::new(None) });
        keyed::set_with_child(hash_of(&key), key, value, None, Storing(destructor))?;
        Ok(())
    })
}

/// The value under `key` on the running stack; null where there is none. It never arms the stack.
///
/// Thread-safe: it concerns the running stack alone. Async-signal-safe: where the signal came in the middle of a change
/// of this stack's values, and on an alternate signal stack, it gives null.
#[unsafe(no_mangle)]
pub extern "C" fn exeunt_get(key: *const c_void) -> *mut c_void {
    cache::get(key, || search(key))
}

#[cold]
#[inline(never)]
fn search(key: *const c_void) -> Option<*mut c_void> {
    crate::with(&Key(key), |value: Option<&Value>| value.map(|value| value.value))
}

/// Deletes the value under `key` on the running stack, and calls its destructor.
///
/// Returns 0, or `EXEUNT_EABSENT` where there is none.
/// Thread-safe: it concerns the running stack alone. Not for signal handlers.
#[unsafe(no_mangle)]
pub extern "C" fn exeunt_del(key: *const c_void) -> c_int {
    shielded(|| if crate::del(&Key(key)) { Ok(()) } else { Err(Failure::Absent) })
}

/// Destroys all values of the running stack, last set first, and keeps its handlers. Slots are cleared as well. This
/// concerns values of every language that shares this library.
///
/// Returns 0, also where the stack is not armed.
/// Thread-safe: it concerns the running stack alone. Not for signal handlers.
#[unsafe(no_mangle)]
pub extern "C" fn exeunt_reset() -> c_int {
    shielded(|| {
        crate::reset();
        Ok(())
    })
}

/// Destroys all values of the running stack, forgets its handlers without calling them, and puts its exit back: it is as
/// it was before it was armed.
///
/// Returns 0, also where the stack is not armed.
/// Thread-safe: it concerns the running stack alone. Not for signal handlers.
#[unsafe(no_mangle)]
pub extern "C" fn exeunt_unload() -> c_int {
    shielded(|| {
        crate::unload();
        Ok(())
    })
}

/// The identity of the running stack, which is armed if it was not: unique in the life of the process. It stays the same
/// until the stack ends or is unloaded, whichever thread runs it. 0 where the stack cannot be armed;
/// `exeunt_last_code` and `exeunt_last_error` say why.
///
/// Thread-safe: it concerns the running stack alone. Not for signal handlers.
#[unsafe(no_mangle)]
pub extern "C" fn exeunt_id() -> u64 {
    match crate::id() {
        Ok(id) => id.get(),
        Err(error) => {
            report(Failure::Error(error));
            0
        }
    }
}

/// Ends the process if it is dropped by a panic of ours, which must not unwind into C.
struct Before<'e> {
    entry: &'e Cell<bool>,
}

impl Drop for Before<'_> {
    fn drop(&mut self) {
        if !self.entry.get() {
            eprintln!("exeunt: a panic before the entry function was called; it cannot be unwound into C");
            std::process::abort();
        }
    }
}

/// Runs `call`, one of the faces of `enter`, with a closure that calls the entry function.
#[inline(always)]
unsafe fn entered(
    entry: exeunt_entry,
    arg: *mut c_void,
    result: *mut *mut c_void,
    call: impl FnOnce(&mut dyn FnMut() -> *mut c_void) -> Result<*mut c_void, Error>,
) -> c_int {
    let Some(entry) = entry else {
        return report(Failure::Invalid("exeunt_enter: the entry function is null"));
    };
    let called = Cell::new(false);
    let before = Before { entry: &called };
    let outcome = call(&mut || {
        called.set(true);
        // SAFETY: the duty of who called `exeunt_enter`.
        unsafe { entry(arg) }
    });
    std::mem::forget(before);
    match outcome {
        Ok(value) => {
            if !result.is_null() {
                // SAFETY: the duty of who called: null, or a place for a pointer.
                unsafe { result.write(value) };
            }
            EXEUNT_OK
        }
        Err(error) => report(Failure::Error(error)),
    }
}

/// Calls `entry(arg)` as the running stack's entry function, on any stack at all, and stores what it returns in
/// `*result`, unless `result` is null.
///
/// For the function of a fiber that never returns to code of the system: Boost.Context, Boost.Fiber, or your own switch.
/// What `entry` stores and registers is destroyed and run when it returns, before `exeunt_enter` does. If `entry` is left
/// by a C++ exception or by forced unwinding, that passes through, and the stack is drained on the way.
///
/// Nothing is paid for what is not used: the stack is armed by the first use of storage in `entry`.
///
/// It must be left in these ways: a `longjmp` out of it leaves what is stored undrained. Nor is it drained where the
/// process ends in it, by `exit` for example, on whichever thread.
///
/// Returns 0; `EXEUNT_EALREADY_ARMED` if the stack has its end already; `EXEUNT_EINVALID` for a null `entry`; or why the
/// trampoline cannot be set up. Then `entry` has not been called.
/// Thread-safe: it concerns the running stack alone. Not for signal handlers.
///
/// # Safety
/// `entry` must be good to call with `arg`, and `result` be null or good to write to.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn exeunt_enter(entry: exeunt_entry, arg: *mut c_void, result: *mut *mut c_void) -> c_int {
    // SAFETY: the caller's promises.
    unsafe { entered(entry, arg, result, |entry| crate::enter(entry)) }
}

/// As `exeunt_enter`, on a stack whose memory is known to be from `low` to `high`: it need not look who else is on this
/// stack, so it costs little more than the call.
///
/// Returns as `exeunt_enter`, or `EXEUNT_ENOT_ON_THAT_STACK`; then `entry` has not been called.
/// Thread-safe: it concerns the running stack alone. Not for signal handlers.
///
/// # Safety
/// As `exeunt_enter`; and the memory must be that of the running stack, on which no function further out is armed.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn exeunt_enter_on(
    low: *const c_void,
    high: *const c_void,
    entry: exeunt_entry,
    arg: *mut c_void,
    result: *mut *mut c_void,
) -> c_int {
    let range = low.addr()..high.addr();
    // SAFETY: the caller's promises.
    unsafe { entered(entry, arg, result, |entry| crate::enter_on(range, entry)) }
}

/// Says that the stacks whose memory is from `low` to `high` will never run again, although their functions have not
/// returned. Call it before you free the memory of a suspended fiber, or give it to another one.
///
/// Each armed one is drained here and now, on the stack that calls: storage that its handlers use is the caller's.
///
/// Returns 0, also where no armed stack was found; `EXEUNT_EINVALID` if `low` is above `high`.
/// Thread-safe, if nobody resumes those stacks meanwhile. Not for signal handlers.
///
/// # Safety
/// The stacks must be suspended for ever, neither resumed nor unwound, and the running one not be among them.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn exeunt_discard(low: *const c_void, high: *const c_void) -> c_int {
    shielded(|| {
        if crate::machine::arch::untagged(low.addr()) > crate::machine::arch::untagged(high.addr()) {
            return Err(Failure::Invalid("exeunt_discard: the lower bound is above the upper one"));
        }
        // SAFETY: the caller's promise.
        unsafe { crate::discard(low.addr()..high.addr()) };
        Ok(())
    })
}

/// Makes a runtime's wrapper known as an exit trampoline: the code from `start` to `end`, which calls a fiber's function
/// and, when that has returned, ends the fiber by switching away. Fibers of that runtime can then use everything without
/// `exeunt_enter`, and the runtime need not be changed. minicoro's `_mco_main` is such a wrapper.
///
/// `name` is what diagnosis shows for it; it is copied.
///
/// Of the function's result the wrapper gets all but the parts of vectors beyond 128 bits (AVX, SVE, and SVE's predicates), which
/// handlers may change.
///
/// Returns 0, also where this code is registered already; `EXEUNT_EINVALID` for a null name or an empty range;
/// `EXEUNT_EPOOL_FULL` when 32 are registered.
/// Thread-safe. Not for signal handlers.
///
/// # Safety
/// `name` must be a string. What returns into the code must be entry functions only; the code must stay loaded, and the
/// compiler must not have turned the call into a jump.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn exeunt_register_trampoline(
    name: *const c_char,
    start: *const c_void,
    end: *const c_void,
) -> c_int {
    shielded(|| {
        if name.is_null() || start.is_null() || start >= end {
            return Err(Failure::Invalid("exeunt_register_trampoline: the name is null or the range is empty"));
        }
        // SAFETY: not null, so a string: the caller's promise.
        let name = unsafe { CStr::from_ptr(name) }.to_string_lossy();
        // SAFETY: the caller's promise.
        unsafe { crate::register_trampoline(&name, start.addr()..end.addr()) }?;
        Ok(())
    })
}

/// Allocates a dynamic slot, as `TlsAlloc` does: an index that is never 0, under which every stack has a pointer of its
/// own, null at first. `destructor`, which may be null, is called with each pointer that is not null when its stack ends,
/// and when the slot is freed.
///
/// Returns 0; `EXEUNT_ESLOTS_EXHAUSTED` when 2,048 are allocated; `EXEUNT_EINVALID` for a null `slot`.
/// Thread-safe. Not for signal handlers.
///
/// # Safety
/// `slot` must be good to write to, and `destructor` good to call with all values that will be set, on any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn exeunt_slot_alloc(slot: *mut u32, destructor: exeunt_fn) -> c_int {
    shielded(|| {
        if slot.is_null() {
            return Err(Failure::Invalid("exeunt_slot_alloc: there is no place for the slot's index"));
        }
        // SAFETY: the caller's promise.
        let handle = unsafe { slots::alloc(destructor) }?;
        // SAFETY: the caller's promise.
        unsafe { slot.write(handle) };
        Ok(())
    })
}

/// Sets the slot's pointer on the running stack, which is armed if it was not. The pointer that was there is overwritten,
/// and no destructor is called for it, as with `TlsSetValue`.
///
/// Returns 0, `EXEUNT_ENO_SUCH_SLOT`, or why the stack cannot be armed.
/// Thread-safe: it concerns the running stack alone. Not for signal handlers.
///
/// # Safety
/// `value` must be what the slot's destructor, and whoever reads it on this stack, take it for.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn exeunt_slot_set(slot: u32, value: *mut c_void) -> c_int {
    // SAFETY: the caller's promise.
    shielded(|| Ok(unsafe { slots::set(slot, value) }?))
}

/// Stores the slot's pointer on the running stack in `*value`; null where none was set, and on an alternate signal stack.
/// It never arms the stack.
///
/// Returns 0; `EXEUNT_ENO_SUCH_SLOT`, then `*value` is null; or `EXEUNT_EINVALID` for a null `value`.
/// Thread-safe: it concerns the running stack alone. Async-signal-safe as long as it returns 0.
///
/// # Safety
/// `value` must be null or good to write to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn exeunt_slot_get(slot: u32, value: *mut *mut c_void) -> c_int {
    if value.is_null() {
        return report(Failure::Invalid("exeunt_slot_get: there is no place for the value"));
    }
    let (found, code) = match slots::get(slot) {
        Ok(found) => (found, EXEUNT_OK),
        Err(error) => (std::ptr::null_mut(), report(Failure::Error(error))),
    };
    // SAFETY: not null, so good to write to: the caller's promise.
    unsafe { value.write(found) };
    code
}

/// Frees the slot: its index is no more, and what was set on any stack is gone. The destructor is called with each pointer
/// that is not null, here and now. An index that is used again later is another slot.
///
/// Returns 0, or `EXEUNT_ENO_SUCH_SLOT`, also when it was freed before.
/// Thread-safe, if no stack uses this slot meanwhile. Not for signal handlers.
///
/// # Safety
/// No stack may be using the slot or what it points to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn exeunt_slot_free(slot: u32) -> c_int {
    // SAFETY: the caller's promise.
    shielded(|| Ok(unsafe { slots::free(slot) }?))
}
