//! Keyed values.

use super::cache;
use super::code::{Failure, shielded};
use super::types::exeunt_fn;
use crate::base::error::Error;
use crate::face::keyed::{self, StoreHooks};
use crate::record::header::Record;
use crate::storage::values::{For, hash_of};
use std::cell::Cell;
use std::ffi::{c_int, c_void};
use std::hash::{Hash, Hasher};

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

impl StoreHooks<Value> for Storing {
    fn prepare(&self, record: &Record) -> Result<(), Error> {
        // First, so that nothing can fail any more when there is a cache.
        record.room_for(For::Key)?;
        cache::ensure()
    }

    fn before_store(&self, value: &Value) {
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
