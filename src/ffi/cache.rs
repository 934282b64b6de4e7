//! A cache of what `exeunt_get` found last: a small table on each stack from keys to values, so
//! that a read costs no more than one of a slot. The stack's values are the truth, and the table is
//! only a cache.
//!
//! The table is a stack local, made before the first value that C sets. So it is dropped after
//! these values, and a stack without it has none. Every removal of a value (a new one,
//! `exeunt_del`, a reset, the stack's end) drops the value, and its `drop` removes it from the
//! table first. A reset removes the table together with the values.

use crate::Error;
use std::ffi::c_void;
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering, compiler_fence};

const ENTRIES: usize = 32;

/// Atomic, as a signal handler may read in the middle of a change. Never shared between stacks.
struct Entry {
    /// Null if the entry is empty. So a null key is never cached.
    key: AtomicPtr<c_void>,
    value: AtomicPtr<c_void>,
}

/// The last keys that were read, one for each hash.
pub(super) struct Cache([Entry; ENTRIES]);

crate::stack_local! {
    static CACHE: Cache = Cache::new();
}

impl Cache {
    fn new() -> Self {
        let none = || AtomicPtr::new(ptr::null_mut());
        Self(std::array::from_fn(|_| Entry { key: none(), value: none() }))
    }

    /// Keys are often neighbours, one byte each. Multiplication spreads them (Fibonacci hashing).
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
        // In this order, so that a signal handler never finds a key beside another key's value.
        entry.key.store(ptr::null_mut(), Ordering::Relaxed);
        compiler_fence(Ordering::SeqCst);
        entry.value.store(value, Ordering::Relaxed);
        compiler_fence(Ordering::SeqCst);
        entry.key.store(key.cast_mut(), Ordering::Relaxed);
    }
}

/// Makes the running stack's table, and arms the stack for that. Called before a value is set.
pub(super) fn ensure() -> Result<(), Error> {
    // First: this verifies the record, and so drops what was cached for an abandoned stack.
    crate::life::arm::record_from(crate::machine::arch::stack_pointer())?;
    CACHE.try_with(|_| ())
}

/// The running stack's value under `key`, found by `search` if it is not cached. Null if there is
/// none.
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

/// Removes `key` from the table, as its value is being dropped. If that happens on another stack
/// (`exeunt_discard`), that stack may lose an entry of its own, and finds the value again by
/// `search`.
pub(super) fn forget(key: *const c_void) {
    CACHE.peek(|cache| {
        if let Some(cache) = cache.filter(|cache| cache.find(key).is_some()) {
            cache.entry(key).key.store(ptr::null_mut(), Ordering::Relaxed);
        }
    });
}
