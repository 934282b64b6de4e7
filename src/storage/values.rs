//! The values of one stack, keyed ones and stack locals alike, in the order in which they were set.
//!
//! [`Values`] finds (`find`, `get`, `local`), adds (`set`, `add_local`) and removes values
//! (`remove`, `pop`, `take_before`), and keeps pending drops (`defer_all`, `defer_handlers`,
//! `pop_pending`). It allocates in none of these: `new_capacities` and `move_to` make room before.

use super::handlers::{Handler, Handlers};
use super::inline_cache::InlineCache;
use super::key::Key;
use crate::base::alloc::{larger, move_to, try_reserve, try_vec};
use crate::base::counted::OnStack;
use crate::base::error::Error;
use crate::base::guard::{OnDrop, catch_panic};
use hashbrown::HashTable;
use std::any::Any;
use std::hash::Hash;
use std::mem::needs_drop;

/// Puts a child's value in place, on the child's stack.
pub(crate) type InstallChild = Box<dyn FnOnce() -> Result<(), Error> + Send>;

/// Makes the value of a child, a stack that this one starts, from this stack's value.
pub(crate) type MakeChild = OnStack<dyn Fn(&dyn Any) -> Option<InstallChild>>;

/// The list of the stack locals whose values are being created or dropped.
pub(crate) trait Initialize {
    /// Runs `code`, which creates or drops the value of the stack local with this number. No other
    /// code gets that value meanwhile.
    fn initializing<R>(&self, number: usize, code: impl FnOnce() -> R) -> R;
}

/// A value or handler that was removed, to be dropped when no access to the values is under way.
pub(crate) enum Removed {
    /// A handler that will not run.
    Handler(Handler),
    /// A keyed value. A `with` in an outer frame may still use it: then the end of that `with`
    /// drops it.
    Keyed(Keyed),
    /// A stack local's value.
    Local(LocalValue),
}

impl Removed {
    /// Whether the drop runs no user code.
    pub(crate) fn is_plain(&self) -> bool {
        matches!(self, Self::Keyed(Keyed { plain: true, .. }))
    }

    /// Drops the value, and runs its destructor unless it is still in use. `record` is where it was
    /// removed. The caller keeps cancellation from striking meanwhile.
    pub(crate) fn drop_now(self, record: &impl Initialize) {
        match self {
            Self::Handler(handler) => drop(handler),
            Self::Keyed(Keyed { value, key, child, .. }) => {
                let mut rest = Some((key, child));
                // This runs also where the value's destructor panics. A second panic would then
                // abort the process.
                let _rest = OnDrop(|| catch_panic(|| drop(rest.take())));
                drop(value);
            }
            // SAFETY: the value is out of the table, so no look-up finds it. The callers have
            // checked before that it is not borrowed (`life/unload.rs`, `clear`; `Record::drain`).
            // `destroy` fits the value by construction (`face/local.rs`).
            Self::Local(local) => record.initializing(local.number, || unsafe { (local.destroy)(local.value) }),
        }
    }
}

/// A stack local's value, its type forgotten.
#[derive(Clone, Copy)]
pub(crate) struct LocalValue {
    /// The stack local's number.
    pub number: usize,
    pub value: *mut u8,
    /// Drops and frees the value.
    pub destroy: unsafe fn(*mut u8),
    /// The inline cache of the stack local.
    pub cache: &'static InlineCache,
}

/// A keyed value.
pub(crate) struct Keyed {
    hash: u64,
    key: Box<dyn Any>,
    value: OnStack<dyn Any>,
    /// The function that makes the value of a child, if the value is inheritable.
    child: Option<MakeChild>,
    /// Whether the drop of all this runs no user code.
    plain: bool,
}

impl Keyed {
    pub(crate) fn new<K, V>(hash: u64, key: Box<K>, value: OnStack<V>, child: Option<MakeChild>) -> Self
    where
        K: Hash + Eq + 'static,
        V: 'static,
    {
        // `child` holds no more than a key.
        let plain = !needs_drop::<K>() && !needs_drop::<V>();
        // SAFETY: the same pointer.
        let value = unsafe { value.unsize::<dyn Any>(|value| value) };
        Self { hash, key, value, child, plain }
    }
}

enum Value {
    Keyed(Keyed),
    Local(LocalValue),
}

/// The values of one stack. A stack without values only touches the first field, which shares a
/// cache line with other fields that the drain needs (`record/header.rs`).
#[repr(C)]
pub(crate) struct Values {
    /// In the order in which they were set. A removed value leaves a gap.
    in_order: Vec<Option<Value>>,
    gaps: usize,
    /// The values of stack locals by their number, null where there is none. No stack local has
    /// number 0.
    locals: Vec<*mut u8>,
    /// Hash of a key → index in `in_order`.
    by_key: HashTable<usize>,
    /// Pending drops: what a `reset` or an `unload` in an outer frame has removed and not dropped
    /// yet. It is kept here so that it is not lost where the stack ends, or is abandoned, in a
    /// destructor.
    pending: Vec<Removed>,
}

/// Up to so many values and gaps, comparing the hashes of all is quicker than the table is.
const FEW: usize = 8;

/// What is about to be added to [`Values`].
#[derive(Clone, Copy)]
pub(crate) enum Addition {
    /// A keyed value.
    Key,
    /// The value of the stack local with this number.
    Local(usize),
    /// The pending drops of a `reset` or an `unload`: all values, and that many handlers.
    PendingDrops(usize),
}

/// The capacities that the tables of [`Values`] must get before an addition; `None` for a table
/// that has room.
pub(crate) struct NewCapacities {
    in_order: Option<usize>,
    locals: Option<usize>,
    by_key: Option<usize>,
    pending: Option<usize>,
}

/// Larger tables, allocated outside of a change. When they are in place: the smaller ones, to be
/// freed outside as well.
pub(crate) struct Tables {
    in_order: Vec<Option<Value>>,
    locals: Vec<*mut u8>,
    by_key: HashTable<usize>,
    pending: Vec<Removed>,
}

impl NewCapacities {
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        matches!(self, Self { in_order: None, locals: None, by_key: None, pending: None })
    }

    #[cold]
    pub(crate) fn allocate(&self) -> Result<Tables, Error> {
        let mut by_key = HashTable::new();
        try_reserve(|| by_key.try_reserve(self.by_key.unwrap_or(0), |_| 0))?;
        Ok(Tables {
            in_order: try_vec(self.in_order.unwrap_or(0))?,
            locals: try_vec(self.locals.unwrap_or(0))?,
            by_key,
            pending: try_vec(self.pending.unwrap_or(0))?,
        })
    }
}

impl Values {
    /// The capacities of the tables that must grow for this addition.
    #[inline]
    pub(crate) fn new_capacities(&self, addition: Addition) -> NewCapacities {
        let mut capacities = NewCapacities { in_order: None, locals: None, by_key: None, pending: None };
        match addition {
            Addition::Key => {
                capacities.in_order = larger(&self.in_order, self.in_order.len() + 1);
                // Removed keys may leave tombstones that take room. So the capacity counts, not the
                // length.
                if self.by_key.capacity() == self.by_key.len() {
                    capacities.by_key = Some((2 * self.by_key.len()).max(3));
                }
            }
            Addition::Local(number) => {
                capacities.in_order = larger(&self.in_order, self.in_order.len() + 1);
                capacities.locals = larger(&self.locals, number + 1);
            }
            Addition::PendingDrops(handlers) => {
                capacities.pending = larger(&self.pending, self.pending.len() + self.in_order.len() + handlers);
            }
        }
        capacities
    }

    /// Moves into the larger tables. This neither allocates nor frees.
    pub(crate) fn move_to(&mut self, tables: Tables) -> Tables {
        let mut by_key = tables.by_key;
        if by_key.capacity() > self.by_key.len() {
            std::mem::swap(&mut self.by_key, &mut by_key);
            self.index_keys();
        }
        Tables {
            in_order: move_to(&mut self.in_order, tables.in_order),
            locals: move_to(&mut self.locals, tables.locals),
            by_key,
            pending: move_to(&mut self.pending, tables.pending),
        }
    }

    /// Fills the table of keys, which is empty and has room for them.
    fn index_keys(&mut self) {
        let in_order = &self.in_order;
        for (index, value) in in_order.iter().enumerate() {
            if let Some(Value::Keyed(keyed)) = value {
                self.by_key.insert_unique(keyed.hash, index, |&index| hash_at(in_order, index));
            }
        }
    }

    /// Drops the references to keyed values that frames of this stack hold, so that those no longer
    /// delay a drop.
    ///
    /// # Safety
    /// The calls of `with` on this stack that were lent values neither go on nor are unwound, and
    /// no code to which they have lent them in turn uses them any more.
    pub(crate) unsafe fn abandon_frames(&mut self) {
        let keyed = self.in_order.iter().filter_map(|value| match value {
            Some(Value::Keyed(keyed)) => Some(&keyed.value),
            _ => None,
        });
        let pending = self.pending.iter().filter_map(|taken| match taken {
            Removed::Keyed(keyed) => Some(&keyed.value),
            _ => None,
        });
        for value in keyed.chain(pending) {
            // SAFETY: all other references are in frames of this stack, in `with` and `go`: the
            // caller's promise.
            unsafe { value.forget_others() };
        }
    }

    pub(crate) const fn new() -> Self {
        Self { in_order: Vec::new(), gaps: 0, locals: Vec::new(), by_key: HashTable::new(), pending: Vec::new() }
    }

    /// Whether there is a value, or a gap that one has left. This reads the first field only.
    pub(crate) fn has_had_values(&self) -> bool {
        !self.in_order.is_empty()
    }

    /// Whether there is no value. Pending drops do not count: another frame drops them.
    pub(crate) fn is_empty(&self) -> bool {
        self.in_order.len() == self.gaps
    }

    /// The index of the value of a key. This alone runs user code, the key's `Eq`.
    #[inline]
    pub(crate) fn find(&self, hash: u64, key: &(impl Key + ?Sized)) -> Option<usize> {
        if self.in_order.len() > FEW {
            return self.find_by_table(hash, key);
        }
        let is_there = |value: &Option<Value>| match value {
            Some(Value::Keyed(keyed)) => keyed.hash == hash && key.is(&*keyed.key),
            _ => false,
        };
        self.in_order.iter().position(is_there)
    }

    /// [`Self::find`] among many values.
    #[inline(never)]
    fn find_by_table(&self, hash: u64, key: &(impl Key + ?Sized)) -> Option<usize> {
        self.by_key.find(hash, |&index| key_at(&self.in_order, index).is_some_and(|other| key.is(other))).copied()
    }

    /// The value of a key.
    pub(crate) fn get(&self, hash: u64, key: &(impl Key + ?Sized)) -> Option<OnStack<dyn Any>> {
        match &self.in_order[self.find(hash, key)?] {
            Some(Value::Keyed(keyed)) => Some(keyed.value.clone()),
            _ => None,
        }
    }

    /// Sets the value of a key, for which there is room, and returns the value that the key had,
    /// which was found at `before`.
    pub(crate) fn set(&mut self, before: Option<usize>, keyed: Keyed) -> Option<Removed> {
        let old = before.map(|index| self.remove(keyed.hash, index));
        self.compact();
        let (hash, index) = (keyed.hash, self.in_order.len());
        self.in_order.push(Some(Value::Keyed(keyed)));
        let in_order = &self.in_order;
        self.by_key.insert_unique(hash, index, |&index| hash_at(in_order, index));
        old
    }

    /// Puts `value` in the place of the value that was found at `index`, makes it the last one, and
    /// returns the old one. `Err` with `value`, and nothing has changed, where that needs more: the
    /// old value is of another type, is inheritable, or is still in use, or there is no room.
    pub(crate) fn replace<V: 'static>(&mut self, hash: u64, index: usize, value: V) -> Result<V, V> {
        let last = index + 1 == self.in_order.len();
        if !last && self.in_order.len() == self.in_order.capacity() {
            return Err(value);
        }
        let Some(Value::Keyed(Keyed { value: place, child: None, .. })) = &mut self.in_order[index] else {
            return Err(value);
        };
        let Some(place) = place.get_mut().and_then(|place| place.downcast_mut::<V>()) else { return Err(value) };
        let old = std::mem::replace(place, value);
        if !last {
            if let Some(entry) = self.by_key.find_mut(hash, |&other| other == index) {
                *entry = self.in_order.len();
            }
            let moved = self.in_order[index].take();
            self.in_order.push(moved);
            self.gaps += 1;
            self.compact();
        }
        Ok(old)
    }

    /// The inheritable values, in the order in which they were set, with the functions that make
    /// the children's values.
    pub(crate) fn inheritable(&self) -> Vec<(OnStack<dyn Any>, MakeChild)> {
        let child = |value: &Option<Value>| match value {
            Some(Value::Keyed(Keyed { value, child: Some(child), .. })) => Some((value.clone(), child.clone())),
            _ => None,
        };
        self.in_order.iter().filter_map(child).collect()
    }

    /// Removes the value that was found at `index`.
    pub(crate) fn remove(&mut self, hash: u64, index: usize) -> Removed {
        self.forget_key(hash, index);
        self.gaps += 1;
        match self.in_order[index].take() {
            Some(Value::Keyed(keyed)) => Removed::Keyed(keyed),
            _ => unreachable!("the table leads to keyed values only"),
        }
    }

    fn forget_key(&mut self, hash: u64, index: usize) {
        if let Ok(entry) = self.by_key.find_entry(hash, |&other| other == index) {
            entry.remove();
        }
    }

    /// Removes the value that was set last. The caller drops it when no access to the values is
    /// under way.
    pub(crate) fn pop(&mut self) -> Option<Removed> {
        loop {
            let index = self.in_order.len().checked_sub(1)?;
            match self.in_order.pop()? {
                None => self.gaps -= 1,
                Some(Value::Keyed(keyed)) => {
                    self.forget_key(keyed.hash, index);
                    return Some(Removed::Keyed(keyed));
                }
                Some(Value::Local(local)) => {
                    local.cache.forget(local.value);
                    self.store_local(local.number, std::ptr::null_mut());
                    return Some(Removed::Local(local));
                }
            }
        }
    }

    /// Removes the value at `index`. For a stack local's value for which `keep` is true it returns
    /// nothing: that value is out of reach, but is dropped when the stack ends.
    fn take_unless(&mut self, index: usize, keep: impl Fn(&LocalValue) -> bool) -> Option<Removed> {
        let local = match self.in_order.get_mut(index)?.as_mut()? {
            Value::Keyed(keyed) => {
                let hash = keyed.hash;
                return Some(self.remove(hash, index));
            }
            Value::Local(local) => {
                let taken = *local;
                local.number = 0;
                taken
            }
        };
        local.cache.forget(local.value);
        self.store_local(local.number, std::ptr::null_mut());
        if keep(&local) {
            return None;
        }
        self.in_order[index] = None;
        self.gaps += 1;
        Some(Removed::Local(local))
    }

    /// Moves every value, except those for which `keep` is true, to the pending drops, if there is
    /// room. Returns whether there was.
    #[must_use]
    pub(crate) fn defer_all(&mut self, keep: impl Fn(&LocalValue) -> bool) -> bool {
        if self.pending.capacity() - self.pending.len() < self.in_order.len() {
            return false;
        }
        for index in 0..self.in_order.len() {
            if let Some(taken) = self.take_unless(index, &keep) {
                self.pending.push(taken);
            }
        }
        // No key is left, so no index is in use.
        self.in_order.retain(Option::is_some);
        self.gaps = 0;
        true
    }

    /// Removes the last value before `index`, and moves `index` there. For a `reset` without memory
    /// for pending drops.
    pub(crate) fn take_before(&mut self, index: &mut usize, keep: impl Fn(&LocalValue) -> bool) -> Option<Removed> {
        *index = self.in_order.len().min(*index);
        while *index > 0 {
            *index -= 1;
            if let Some(taken) = self.take_unless(*index, &keep) {
                return Some(taken);
            }
        }
        None
    }

    /// The number of values and gaps.
    pub(crate) fn len_with_gaps(&self) -> usize {
        self.in_order.len()
    }

    /// Moves these handlers to the pending drops, if there is room, so that the first one is
    /// dropped first. Returns whether there was room.
    #[must_use]
    pub(crate) fn defer_handlers(&mut self, handlers: &mut Handlers) -> bool {
        if self.pending.capacity() - self.pending.len() < handlers.len_with_gaps() {
            return false;
        }
        while let Some(handler) = handlers.pop() {
            self.pending.push(Removed::Handler(handler));
        }
        true
    }

    /// Removes the pending drop that is next.
    pub(crate) fn pop_pending(&mut self) -> Option<Removed> {
        self.pending.pop()
    }

    /// The value of the stack local with this number, or null.
    pub(crate) fn local(&self, number: usize) -> *mut u8 {
        self.locals.get(number).copied().unwrap_or(std::ptr::null_mut())
    }

    /// Adds the value of a stack local that has none. There is room for it.
    pub(crate) fn add_local(&mut self, local: LocalValue) {
        self.compact();
        self.in_order.push(Some(Value::Local(local)));
        self.store_local(local.number, local.value);
    }

    fn store_local(&mut self, number: usize, value: *mut u8) {
        // Number 0 marks a value that `take_unless` has put out of reach.
        if number == 0 {
            return;
        }
        if self.locals.len() <= number {
            // Within its capacity: only `add_local` gets here, and room was made before.
            self.locals.resize(number + 1, std::ptr::null_mut());
        }
        self.locals[number] = value;
    }

    /// Closes the gaps once they are most of the list, so that repeatedly setting one key does not
    /// need more and more memory.
    fn compact(&mut self) {
        if self.gaps < 32 || self.gaps < self.in_order.len() / 2 {
            return;
        }
        self.in_order.retain(Option::is_some);
        self.gaps = 0;
        self.by_key.clear();
        self.index_keys();
    }
}

fn key_at(in_order: &[Option<Value>], index: usize) -> Option<&dyn Any> {
    match &in_order[index] {
        Some(Value::Keyed(keyed)) => Some(&*keyed.key),
        _ => None,
    }
}

fn hash_at(in_order: &[Option<Value>], index: usize) -> u64 {
    match &in_order[index] {
        Some(Value::Keyed(keyed)) => keyed.hash,
        _ => 0,
    }
}
