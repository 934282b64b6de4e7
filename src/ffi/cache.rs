//! What `exeunt_get` found last: a small table on each stack from keys to values, so that a read costs no more than one
//! of a slot does. The truth is in the stack's values; this only remembers.
//!
//! The table is a stack local, made before the first value that C sets. So it is dropped after them, and a stack without
//! it has no such values. Whatever takes a value away - a new one, `exeunt_del`, a reset, the stack's end - drops it, and
//! its `drop` forgets it here first. A reset takes the table away together with the values.

use crate::Error;
use std::ffi::c_void;
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering, compiler_fence};

const ENTRIES: usize = 32;

/// Atomic, as a signal handler may read in the middle of a change; never shared between stacks.
struct Entry {
    /// Null where there is none; so a null key is never remembered.
    key: AtomicPtr<c_void>,
    value: AtomicPtr<c_void>,
}

/// The last keys that were asked for, one for each place that they hash to.
pub(super) struct Cache([Entry; ENTRIES]);

crate::stack_local! {
    static CACHE: Cache = Cache::new();
}

impl Cache {
    fn new() -> Self {
        let none = || AtomicPtr::new(ptr::null_mut());
        Self(std::array::from_fn(|_| Entry { key: none(), value: none() }))
    }

    /// Keys are often neighbours, one byte each: multiplying spreads them (Fibonacci hashing).
    #[inline(always)]
    fn entry(&self, key: *const c_void) -> &Entry {
        let hash = (key.addr() as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        &self.0[(hash >> (64 - ENTRIES.ilog2())) as usize]
    }

    #[inline(always)]
    fn find(&self, key: *const c_void) -> Option<*mut c_void> {
        let entry = self.entry(key);
        let is_it = entry.key.load(Ordering::Relaxed).cast_const() == key && !key.is_null();
        is_it.then(|| entry.value.load(Ordering::Relaxed))
    }

    fn remember(&self, key: *const c_void, value: *mut c_void) {
        let entry = self.entry(key);
        // A signal handler never sees a key beside another one's value.
        entry.key.store(ptr::null_mut(), Ordering::Relaxed);
        compiler_fence(Ordering::SeqCst);
        entry.value.store(value, Ordering::Relaxed);
        compiler_fence(Ordering::SeqCst);
        entry.key.store(key.cast_mut(), Ordering::Relaxed);
    }
}

/// Makes the running stack's table, and arms the stack for that. To be called before a value is set.
pub(super) fn ensure() -> Result<(), Error> {
    // First: this finds out where what is remembered is an abandoned stack's.
    crate::life::arm::record()?;
    CACHE.try_with(|_| ())
}

/// The running stack's value under `key`, found by `search` if it is not remembered. Null where there is none.
#[inline(always)]
pub(super) fn get(key: *const c_void, search: impl FnOnce() -> Option<*mut c_void>) -> *mut c_void {
    CACHE.peek(|cache| {
        let Some(cache) = cache else { return ptr::null_mut() };
        if let Some(value) = cache.find(key) {
            return value;
        }
        let Some(value) = search() else { return ptr::null_mut() };
        cache.remember(key, value);
        value
    })
}

/// Forgets the value under `key`, which is being dropped. Where that happens on another stack (`exeunt_discard`), that
/// stack may forget one of its own, and will find it again.
pub(super) fn forget(key: *const c_void) {
    CACHE.peek(|cache| {
        if let Some(cache) = cache.filter(|cache| cache.find(key).is_some()) {
            cache.entry(key).key.store(ptr::null_mut(), Ordering::Relaxed);
        }
    });
}
