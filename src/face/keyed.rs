//! Keyed values, as go-tls has them: any key, any value, on the running stack. [`set`], [`get`],
//! [`with`], [`del`].

use crate::base::alloc::{refused, try_box};
use crate::base::cancellation::Uncancelled;
use crate::base::counted::OnStack;
use crate::base::error::Error;
use crate::base::guard::{OnDrop, catch_panic};
use crate::life::arm;
use crate::life::lookup;
use crate::life::unload;
use crate::machine::arch::stack_pointer;
use crate::record::header::Record;
use crate::storage::key::{Key, hash_of};
use crate::storage::values::{Addition, Keyed, MakeChild, Removed, Values};
use std::hash::Hash;
use std::mem::needs_drop;

/// Stores `value` under `key` on this stack, and arms the stack if it is not armed.
///
/// An old value of the key is dropped after the new one is in place. Which of the two equal keys
/// stays is not specified. Keys of distinct types never clash: `1_u32` and `1_u64` are two keys.
/// When the stack ends, values are dropped after the handlers have run, last set first. Setting a
/// key again makes it the last one.
///
/// # Errors
/// An error of arming, [`Error::OutOfMemory`], or [`Error::Busy`] from inside a key's `Eq`. Then
/// nothing has changed: the key's old value is still there, and `key` and `value` are dropped.
///
/// # Examples
/// ```
/// # std::thread::spawn(|| {
/// exeunt::set("request", 7_u64)?;
/// assert_eq!(exeunt::get::<u64>(&"request"), Some(7));
/// # Ok::<(), exeunt::Error>(())
/// # }).join().unwrap().unwrap();
/// ```
#[inline(never)]
pub fn set<K: Hash + Eq + 'static, V: 'static>(key: K, value: V) -> Result<(), Error> {
    let hash = hash_of(&key);
    match replace(hash, &key, value)? {
        Ok(old) => {
            drop_replaced(old, key);
            Ok(())
        }
        Err(value) => set_with_child(hash, key, value, None, NoHooks, stack_pointer()),
    }
}

/// Puts `value` in the place of the key's old value, which it returns, without an allocation.
/// `Ok(Err(value))` where that cannot be, and nothing has changed.
fn replace<V: 'static>(hash: u64, key: &impl Key, value: V) -> Result<Result<V, V>, Error> {
    let Some(record) = lookup::lookup_verified() else { return Ok(Err(value)) };
    match record.compare(|values| values.find(hash, key))? {
        Some(index) => record.change_values(|values| values.replace(hash, index, value)),
        None => Ok(Err(value)),
    }
}

/// Drops what a [`replace`] has left over, as [`Removed::drop_now`] does.
fn drop_replaced<K, V>(old: V, key: K) {
    if !needs_drop::<K>() && !needs_drop::<V>() {
        return;
    }
    let _uncancelled = Uncancelled::new();
    let mut key = Some(key);
    // This runs also where the value's destructor panics.
    let _rest = OnDrop(|| catch_panic(|| drop(key.take())));
    drop(old);
}

/// What a caller of [`set_with_child`] does before the value is stored.
pub(crate) trait StoreHooks<V> {
    /// Runs when the stack is armed and nothing has been stored yet.
    fn prepare(&self, record: &Record) -> Result<(), Error>;
    /// Runs when nothing can fail any more, right before the value is stored.
    fn before_store(&self, value: &V);
}

/// Does nothing.
pub(crate) struct NoHooks;

impl<V> StoreHooks<V> for NoHooks {
    fn prepare(&self, _: &Record) -> Result<(), Error> {
        Ok(())
    }

    fn before_store(&self, _: &V) {}
}

/// [`set`], of a value that may be inheritable. `face` is the stack pointer of the function that
/// users call.
pub(crate) fn set_with_child<K, V>(
    hash: u64,
    key: K,
    value: V,
    child: Option<MakeChild>,
    hooks: impl StoreHooks<V>,
    face: usize,
) -> Result<(), Error>
where
    K: Hash + Eq + 'static,
    V: 'static,
{
    // First: the allocator may be code of yours that uses storage as well, or have no memory.
    let key = try_box(key).map_err(|_| refused())?;
    let value = OnStack::try_new(value).map_err(|_| refused())?;
    let (record, is_new) = arm::record_or_new_for(stack_pointer(), face)?;
    let before = ready(record, || hooks.prepare(record), |values| values.find(hash, &*key));
    match before {
        Ok(before) => {
            hooks.before_store(&value);
            store(record, before, Keyed::new(hash, key, value, child))
        }
        Err(error) => Err(unload::undo(record, is_new, error)),
    }
}

/// Makes room for one more value, and finds the old one. Until the caller stores the value, no code
/// runs that could change the values.
fn ready(
    record: &Record,
    prepare: impl FnOnce() -> Result<(), Error>,
    find: impl FnOnce(&Values) -> Option<usize>,
) -> Result<Option<usize>, Error> {
    let _kept_armed = record.keep_armed();
    prepare()?;
    record.room_for(Addition::Key)?;
    record.compare(find)
}

/// The part that is the same for all types of keys and values. Not inlined, for the reason that
/// [`Record::push`] gives.
#[inline(never)]
fn store(record: &Record, before: Option<usize>, keyed: Keyed) -> Result<(), Error> {
    if let Some(old) = record.change_values(|values| values.set(before, keyed))? {
        drop_now(old, record);
    }
    Ok(())
}

/// A copy of the value under `key` on this stack. `None` if there is none, or one of another type
/// than `V`.
///
/// It never arms the stack. It is safe in a signal handler, provided that `V`'s `Clone` and the
/// key's `Hash` and `Eq` are. In a signal handler it gives `None` in these cases:
///
/// - The signal came in the middle of a change.
/// - The handler runs on an alternate signal stack.
/// - The signal came while a panic or an exception was landing, in the few instructions in which
///   the unwinder has replaced the registers that lead to its own callers: in libgcc's
///   `uw_install_context`, and on aarch64 also between that and the landing.
///
/// A key that is a string literal is found as it was set, and by reference: see [`Key`].
///
/// # Examples
/// ```
/// assert_eq!(exeunt::get::<String>(&"never set"), None);
/// ```
#[must_use]
pub fn get<V: Clone + 'static>(key: &(impl Key + ?Sized)) -> Option<V> {
    with(key, |value: Option<&V>| value.cloned())
}

/// Calls `look` with a reference to the value under `key` on this stack, or with `None` as [`get`]
/// does.
///
/// `look` may do anything. It may set or delete the same key, or remove the value by
/// [`reset`](crate::reset). Then the value is out of the stack's storage at once, and is dropped
/// when `look` has returned. So no reference outlives its value.
///
/// # Examples
/// ```
/// # std::thread::spawn(|| {
/// exeunt::set("name", String::from("Hamlet"))?;
/// let length = exeunt::with(&"name", |name: Option<&String>| name.map_or(0, |name| name.len()));
/// assert_eq!(length, 6);
/// # Ok::<(), exeunt::Error>(())
/// # }).join().unwrap().unwrap();
/// ```
pub fn with<V: 'static, R>(key: &(impl Key + ?Sized), look: impl FnOnce(Option<&V>) -> R) -> R {
    // Before the lookup of the record: a key's `Hash` is code of yours, and may unload.
    let hash = key.key_hash();
    let value = lookup::lookup().and_then(|record| record.read_values(|values| values.get(hash, key))?);
    look(value.as_ref().and_then(|value| value.downcast_ref()))
}

/// Drops the value under `key` on this stack. Returns whether there was one.
///
/// # Errors
/// [`Error::Busy`] from inside a key's `Eq`. Then nothing has changed.
///
/// # Examples
/// ```
/// # std::thread::spawn(|| {
/// exeunt::set('k', 1)?;
/// assert!(exeunt::del(&'k')?);
/// assert!(!exeunt::del(&'k')?);
/// # Ok::<(), exeunt::Error>(())
/// # }).join().unwrap().unwrap();
/// ```
pub fn del(key: &(impl Key + ?Sized)) -> Result<bool, Error> {
    let hash = key.key_hash();
    let Some(record) = lookup::lookup_verified() else { return Ok(false) };
    match record.compare(|values| values.find(hash, key))? {
        Some(index) => remove(record, hash, index),
        None => Ok(false),
    }
}

/// As [`store`].
#[inline(never)]
fn remove(record: &Record, hash: u64, index: usize) -> Result<bool, Error> {
    drop_now(record.change_values(|values| values.remove(hash, index))?, record);
    Ok(true)
}

/// Drops a value that was removed. Cancellation is deferred meanwhile, as it would unwind from the
/// destructor through frames of exeunt.
fn drop_now(taken: Removed, record: &Record) {
    if taken.is_plain() {
        return;
    }
    let _uncancelled = Uncancelled::new();
    taken.drop_now(record);
}
