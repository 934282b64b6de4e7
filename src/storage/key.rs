//! [`Key`]: what a keyed value is found by.

use std::any::{Any, TypeId};
use std::hash::{BuildHasher, Hash};

/// What [`get`](crate::get), [`with`](crate::with) and [`del`](crate::del) find a value by: any
/// type that is `Hash + Eq + 'static`, and `str`.
///
/// You need not implement it. `str` finds what was set under a string literal, whose type is
/// `&'static str`. So both forms of the call work:
///
/// ```
/// # std::thread::spawn(|| {
/// exeunt::set("name", 7)?;
/// assert_eq!(exeunt::get::<i32>("name"), Some(7));
/// assert_eq!(exeunt::get::<i32>(&"name"), Some(7));
/// // Keys of distinct types never clash: this is another key.
/// assert_eq!(exeunt::get::<i32>(&String::from("name")), None);
/// # Ok::<(), exeunt::Error>(())
/// # }).join().unwrap().unwrap();
/// ```
///
/// Anything else does not compile:
///
/// ```compile_fail,E0277
/// let found = exeunt::get::<i32>(&1.5_f64);
/// ```
/// ```compile_fail,E0277
/// let found = exeunt::get::<i32>([1, 2].as_slice());
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be the key of a value",
    label = "this is no key",
    note = "keys are of any type that is `Hash + Eq + 'static`: pass a reference to one, as in `get(&7)`, or a string \
            literal, as in `get(\"name\")`"
)]
pub trait Key: Sealed {}

/// What the library asks of a [`Key`].
pub trait Sealed {
    /// Its hash, together with its type.
    fn key_hash(&self) -> u64;
    /// Whether `other`, which a value was set under, is this key.
    fn is(&self, other: &dyn Any) -> bool;
}

impl<K: Hash + Eq + 'static> Key for K {}

impl<K: Hash + Eq + 'static> Sealed for K {
    #[inline]
    fn key_hash(&self) -> u64 {
        hash_of(self)
    }

    #[inline]
    fn is(&self, other: &dyn Any) -> bool {
        other.downcast_ref() == Some(self)
    }
}

impl Key for str {}

impl Sealed for str {
    #[inline]
    fn key_hash(&self) -> u64 {
        foldhash::fast::FixedState::default().hash_one((TypeId::of::<&'static str>(), self))
    }

    #[inline]
    fn is(&self, other: &dyn Any) -> bool {
        other.downcast_ref::<&'static str>().is_some_and(|other| *other == self)
    }
}

/// The hash of a key together with its type, so that equal keys of distinct types are apart.
pub(crate) fn hash_of<K: Hash + 'static>(key: &K) -> u64 {
    foldhash::fast::FixedState::default().hash_one((TypeId::of::<K>(), key))
}
