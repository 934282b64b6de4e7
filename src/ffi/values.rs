//! Keyed values: `exeunt_set`, `exeunt_get`, `exeunt_del`, `exeunt_reset`.

use super::cache;
use super::code::{Failure, shielded};
use super::types::exeunt_fn;
use crate::base::error::Error;
use crate::face::keyed::{self, StoreHooks};
use crate::machine::arch::stack_pointer;
use crate::record::header::Record;
use crate::storage::key::hash_of;
use crate::storage::values::Addition;
use std::cell::Cell;
use std::ffi::{c_int, c_void};
use std::hash::{Hash, Hasher};

/// A key of C. Its type keeps it apart from all keys of Rust.
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
    /// `None` until the value is stored: before, the value is the caller's.
    destructor: Cell<exeunt_fn>,
}

/// Makes the stack's cache before a value of C is stored, and gives the value its destructor.
struct Storing(exeunt_fn);

impl StoreHooks<Value> for Storing {
    fn prepare(&self, record: &Record) -> Result<(), Error> {
        // First, so that nothing can fail after the cache was made.
        record.room_for(Addition::Key)?;
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
            // SAFETY: the promise of the caller of `exeunt_set`: the destructor fits the value. It
            // is called once, here.
            unsafe { destructor(self.value) }
        }
    }
}

/// Stores `value` under `key` on the running stack, and arms the stack if it is not armed.
///
/// The key is the address alone. Use the address of a static variable that is not `const`: the
/// compiler may merge `const` ones. Keys are compared as `==` compares pointers, so a tag in the
/// upper byte (aarch64: MTE, HWASan) is a part of them.
///
/// `destructor` is called with the value when the stack ends, after its handlers, or when the value
/// is replaced, deleted or reset, unless `value` or `destructor` is null. At the end, values are
/// destroyed last set first. A destructor may use storage, also under the same key.
///
/// Returns 0, or the code for why the stack cannot be armed. Then nothing has changed: the old
/// value is still there. The new one is still yours, and its destructor is not called.
///
/// Thread-safe: it concerns the running stack alone. Not for signal handlers.
///
/// # Safety
/// `destructor` must be good to call with `value`, on the thread that runs the stack then. Its code
/// must stay loaded.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn exeunt_set(key: *const c_void, value: *mut c_void, destructor: exeunt_fn) -> c_int {
    let face = stack_pointer();
    shielded(|| {
        let (key, value) = (Key(key), Value { key, value, destructor: Cell::new(None) });
        keyed::set_with_child(hash_of(&key), key, value, None, Storing(destructor), face)?;
        Ok(())
    })
}

/// Returns the value under `key` on the running stack; null if there is none. Never arms the stack.
///
/// Thread-safe: it concerns the running stack alone. Async-signal-safe: it returns null if the
/// signal came in the middle of a change of this stack's values, and on an alternate signal stack.
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
/// Returns 0; `EXEUNT_EABSENT` if there is none; or `EXEUNT_EBUSY` if the call comes from a Rust
/// key's comparison.
///
/// Thread-safe: it concerns the running stack alone. Not for signal handlers.
#[unsafe(no_mangle)]
pub extern "C" fn exeunt_del(key: *const c_void) -> c_int {
    shielded(|| if crate::del(&Key(key))? { Ok(()) } else { Err(Failure::Absent) })
}

/// Destroys all values of the running stack, last set first, clears its slots, and keeps its
/// handlers. This concerns the values of every language that shares this library.
///
/// Returns 0, also if the stack is not armed; or `EXEUNT_EBUSY` if the call comes from a Rust
/// key's comparison.
///
/// Thread-safe: it concerns the running stack alone. Not for signal handlers.
#[unsafe(no_mangle)]
pub extern "C" fn exeunt_reset() -> c_int {
    shielded(|| Ok(crate::reset()?))
}
