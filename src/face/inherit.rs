//! Inheritable values: stacks that [`context::go`](crate::context::go) starts get them from the
//! stack that starts them.

use crate::base::alloc::refused;
use crate::base::counted::OnStack;
use crate::base::error::Error;
use crate::face::keyed;
use crate::life::lookup;
use crate::machine::arch::stack_pointer;
use crate::storage::key::hash_of;
use crate::storage::values::{InstallChild, MakeChild};
use std::any::Any;
use std::hash::Hash;

/// Stores `value` under `key` as [`set`](crate::set) does, and marks it as inheritable. Each stack
/// that [`context::go`](crate::context::go) starts from here gets a clone, which is inheritable
/// there again.
///
/// # Errors
/// As [`set`](crate::set).
///
/// # Examples
/// ```
/// # std::thread::spawn(|| {
/// exeunt::set_inheritable("tenant", String::from("acme"))?;
/// let there = exeunt::context::go(|| exeunt::get::<String>(&"tenant"));
/// assert_eq!(there.join().unwrap().as_deref(), Some("acme"));
/// # Ok::<(), exeunt::Error>(())
/// # }).join().unwrap().unwrap();
/// ```
#[inline(never)]
pub fn set_inheritable<K, V>(key: K, value: V) -> Result<(), Error>
where
    K: Hash + Eq + Clone + Send + 'static,
    V: Clone + Send + 'static,
{
    set_by(key, value, |value: &V| Some(value.clone()), stack_pointer())
}

/// As [`set_inheritable`], with a function of yours that makes the child's value from this one, or
/// returns `None` if the child gets none. It runs on the stack that calls
/// [`context::go`](crate::context::go).
///
/// # Errors
/// As [`set`](crate::set).
///
/// # Examples
/// ```
/// # std::thread::spawn(|| {
/// exeunt::set_inheritable_by("depth", 1_u32, |depth| (*depth < 3).then_some(depth + 1))?;
/// let there = exeunt::context::go(|| exeunt::get::<u32>(&"depth"));
/// assert_eq!(there.join().unwrap(), Some(2));
/// # Ok::<(), exeunt::Error>(())
/// # }).join().unwrap().unwrap();
/// ```
#[inline(never)]
pub fn set_inheritable_by<K, V>(key: K, value: V, child_value: fn(&V) -> Option<V>) -> Result<(), Error>
where
    K: Hash + Eq + Clone + Send + 'static,
    V: Send + 'static,
{
    set_by(key, value, child_value, stack_pointer())
}

/// [`set_inheritable_by`]. `face` is the stack pointer of the function that users call. Part of that
/// function, as a jump to another one on aarch64 would leave `face` with the user's own frame.
#[inline(always)]
fn set_by<K, V>(key: K, value: V, child_value: fn(&V) -> Option<V>, face: usize) -> Result<(), Error>
where
    K: Hash + Eq + Clone + Send + 'static,
    V: Send + 'static,
{
    let childs_key = key.clone();
    let child = OnStack::try_new(move |value: &dyn Any| {
        let (key, value) = (childs_key.clone(), child_value(value.downcast_ref()?)?);
        Some(Box::new(move || set_inheritable_by(key, value, child_value)) as InstallChild)
    });
    // SAFETY: the same pointer.
    let child: MakeChild =
        unsafe { child.map_err(|_| refused())?.unsize::<dyn Fn(&dyn Any) -> Option<InstallChild>>(|child| child) };
    keyed::set_with_child(hash_of(&key), key, value, Some(child), keyed::NoHooks, face)
}

/// What a new stack gets from the stack that starts it.
pub(crate) struct Inheritance {
    installs: Vec<InstallChild>,
}

/// Collects the running stack's inheritable values.
pub(crate) fn collect() -> Inheritance {
    let heirs = lookup::lookup().and_then(|record| record.read_values(|values| values.inheritable()));
    // The functions run after the borrow of the values has ended: they may use storage.
    let installs = heirs.unwrap_or_default().into_iter().filter_map(|(value, child)| child(&*value)).collect();
    Inheritance { installs }
}

impl Inheritance {
    /// Stores the values on the running stack.
    pub(crate) fn install(self) -> Result<(), Error> {
        self.installs.into_iter().try_for_each(|install| install())
    }
}
