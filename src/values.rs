//! The values of one stack, keyed ones and stack locals alike, in the order in which they were set.

use crate::inherit::Heir;
use crate::nearby::Nearby;
use crate::record::{Handler, InUse, OnDrop, Record, survived};
use hashbrown::HashTable;
use std::any::{Any, TypeId};
use std::hash::{BuildHasher, Hash};
use std::mem::needs_drop;
use std::rc::Rc;

/// What was taken out, to be dropped when nothing of ours is in use any more.
pub(crate) enum Taken {
    /// A handler that will not run.
    Handler(Handler),
    /// A keyed value. A `with` further up may still be using it: then that drops it.
    Keyed(Keyed),
    /// A stack local's value.
    Local(LocalValue),
}

impl Taken {
    /// Whether dropping it runs no code of the user's.
    pub(crate) fn is_plain(&self) -> bool {
        matches!(self, Self::Keyed(Keyed { plain: true, .. }))
    }

    /// Drops the value, and runs its destructor unless it is still in use. `record` is where it was taken from. The caller sees to
    /// it that no cancellation strikes meanwhile.
    pub(crate) fn drop_now(self, record: &Record) {
        match self {
            Self::Handler(handler) => drop(handler),
            Self::Keyed(Keyed { value, key, heir, .. }) => {
                let mut rest = Some((key, heir));
                // Also where the value's destructor panics; a second panic would abort the process then.
                let _then = OnDrop(|| survived(|| drop(rest.take())));
                drop(value);
            }
            // It is out of the table, so nobody finds it; whether somebody still borrows it was asked before (see
            // `stack::clear`), and a drain at the end of the stack has no borrower left.
            Self::Local(local) => {
                let _making = Making::new(record, local.number);
                // SAFETY: as said above; `destroy` fits the value by construction (`local.rs`).
                unsafe { (local.destroy)(local.value) }
            }
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
    /// Where the stack local remembers it.
    pub nearby: &'static Nearby,
}

/// A keyed value.
pub(crate) struct Keyed {
    hash: u64,
    key: Box<dyn Any>,
    value: Rc<dyn Any>,
    /// What makes its heirs, if it is inheritable.
    heir: Option<Heir>,
    /// Whether dropping all this runs no code of the user's.
    plain: bool,
}

impl Keyed {
    pub(crate) fn new<K, V>(hash: u64, key: Box<K>, value: Rc<V>, heir: Option<Heir>) -> Self
    where
        K: Hash + Eq + 'static,
        V: 'static,
    {
        // What makes heirs holds no more than a key.
        let plain = !needs_drop::<K>() && !needs_drop::<V>();
        Self { hash, key, value, heir, plain }
    }
}

enum Value {
    Keyed(Keyed),
    Local(LocalValue),
}

/// The values of one stack. Those who have none look at no more than the first field, which is in a cache line with
/// what else the drain needs (`record.rs`).
#[repr(C)]
pub(crate) struct Values {
    /// In the order in which they were set; removed ones leave a gap.
    in_order: Vec<Option<Value>>,
    gaps: usize,
    /// The values of stack locals by their number, null where there is none. Number 0 belongs to none.
    locals: Vec<*mut u8>,
    /// Hash of a key → index in `in_order`.
    by_key: HashTable<usize>,
    /// The stack locals whose values are being made or dropped, further up on this stack.
    in_making: Vec<usize>,
    /// What a `reset` or an `unload` further up on this stack has taken out and not dropped yet. It is kept here, so that it
    /// is not lost where the stack ends, or is abandoned, in a destructor.
    doomed: Vec<Taken>,
}

/// While it lives, a stack local of this record cannot be asked for, and the record is in use.
pub(crate) struct Making<'r> {
    record: &'r Record,
    number: usize,
    _in_use: InUse<'r>,
}

impl<'r> Making<'r> {
    pub(crate) fn new(record: &'r Record, number: usize) -> Self {
        let _ = record.change_values(|values| values.in_making.push(number));
        Self { record, number, _in_use: record.in_use() }
    }
}

impl Drop for Making<'_> {
    fn drop(&mut self) {
        let number = self.number;
        let _ = self.record.change_values(|values| {
            if let Some(index) = values.in_making.iter().rposition(|&other| other == number) {
                values.in_making.swap_remove(index);
            }
        });
    }
}

impl Values {
    /// Whether the value of this stack local is being made or dropped.
    pub(crate) fn is_in_making(&self, number: usize) -> bool {
        self.in_making.contains(&number)
    }

    /// Nothing is being made any more, and nobody who looks at a value keeps it from being dropped.
    ///
    /// # Safety
    /// The code of the stack that was in use of the values does not go on, nor is it unwound.
    pub(crate) unsafe fn nobody_comes_back(&mut self) {
        self.in_making.clear();
        let keyed = self.in_order.iter().filter_map(|value| match value {
            Some(Value::Keyed(keyed)) => Some(&keyed.value),
            _ => None,
        });
        let doomed = self.doomed.iter().filter_map(|taken| match taken {
            Taken::Keyed(keyed) => Some(&keyed.value),
            _ => None,
        });
        for value in keyed.chain(doomed) {
            for _ in 1..Rc::strong_count(value) {
                // SAFETY: who has a reference is a call of `with` on that stack, which never drops it. The one here stays.
                unsafe { Rc::decrement_strong_count(Rc::as_ptr(value)) };
            }
        }
    }

    pub(crate) const fn new() -> Self {
        Self {
            in_order: Vec::new(),
            gaps: 0,
            locals: Vec::new(),
            by_key: HashTable::new(),
            in_making: Vec::new(),
            doomed: Vec::new(),
        }
    }

    /// Whether there may be something here. This looks at no more than the first field.
    pub(crate) fn has_had_some(&self) -> bool {
        !self.in_order.is_empty()
    }

    /// Whether there is nothing here. What is doomed has somebody who drops it.
    pub(crate) fn is_empty(&self) -> bool {
        self.in_order.len() == self.gaps
    }

    /// Where the value of a key is. This alone runs code of the user's, the key's `Eq`.
    pub(crate) fn find<K: Hash + Eq + 'static>(&self, hash: u64, key: &K) -> Option<usize> {
        self.by_key.find(hash, |&index| key_at(&self.in_order, index) == Some(key)).copied()
    }

    /// The value of a key.
    pub(crate) fn get<K: Hash + Eq + 'static>(&self, hash: u64, key: &K) -> Option<Rc<dyn Any>> {
        match &self.in_order[self.find(hash, key)?] {
            Some(Value::Keyed(keyed)) => Some(Rc::clone(&keyed.value)),
            _ => None,
        }
    }

    /// Sets the value of a key, and gives back the one that it had, which was found at `before`.
    pub(crate) fn set(&mut self, before: Option<usize>, keyed: Keyed) -> Option<Taken> {
        let old = before.map(|index| self.remove(keyed.hash, index));
        self.compact();
        let (hash, index) = (keyed.hash, self.in_order.len());
        self.in_order.push(Some(Value::Keyed(keyed)));
        let in_order = &self.in_order;
        self.by_key.insert_unique(hash, index, |&index| hash_at(in_order, index));
        old
    }

    /// The inheritable values, in the order in which they were set, and what makes their heirs.
    pub(crate) fn inheritable(&self) -> Vec<(Rc<dyn Any>, Heir)> {
        let heir = |value: &Option<Value>| match value {
            Some(Value::Keyed(Keyed { value, heir: Some(heir), .. })) => Some((Rc::clone(value), Rc::clone(heir))),
            _ => None,
        };
        self.in_order.iter().filter_map(heir).collect()
    }

    /// Takes out the value that was found at `index`.
    pub(crate) fn remove(&mut self, hash: u64, index: usize) -> Taken {
        self.forget_key(hash, index);
        self.gaps += 1;
        match self.in_order[index].take() {
            Some(Value::Keyed(keyed)) => Taken::Keyed(keyed),
            _ => unreachable!("the table leads to keyed values only"),
        }
    }

    fn forget_key(&mut self, hash: u64, index: usize) {
        if let Ok(entry) = self.by_key.find_entry(hash, |&other| other == index) {
            entry.remove();
        }
    }

    /// Takes out the value that was set last. The caller drops it when the values are no longer borrowed.
    pub(crate) fn pop(&mut self) -> Option<Taken> {
        loop {
            let index = self.in_order.len().checked_sub(1)?;
            match self.in_order.pop()? {
                None => self.gaps -= 1,
                Some(Value::Keyed(keyed)) => {
                    self.forget_key(keyed.hash, index);
                    return Some(Taken::Keyed(keyed));
                }
                Some(Value::Local(local)) => {
                    local.nearby.forget(local.value);
                    self.store_local(local.number, std::ptr::null_mut());
                    return Some(Taken::Local(local));
                }
            }
        }
    }

    /// Dooms every value that `keep` does not want.
    pub(crate) fn doom_all(&mut self, keep: impl Fn(&LocalValue) -> bool) {
        let mut taken = Vec::new();
        let mut kept = Vec::new();
        while let Some(value) = self.pop() {
            match value {
                Taken::Local(local) if keep(&local) => kept.push(local),
                other => taken.push(other),
            }
        }
        for local in kept.into_iter().rev() {
            // Out of reach, but still to be dropped when the stack ends.
            self.in_order.push(Some(Value::Local(LocalValue { number: 0, ..local })));
        }
        self.doom(taken);
    }

    /// Dooms these, the first of them to be dropped first.
    pub(crate) fn doom(&mut self, taken: Vec<Taken>) {
        self.doomed.extend(taken.into_iter().rev());
    }

    /// Takes out what is doomed and is to be dropped next.
    pub(crate) fn pop_doomed(&mut self) -> Option<Taken> {
        self.doomed.pop()
    }

    /// The value of the stack local with this number, or null.
    pub(crate) fn local(&self, number: usize) -> *mut u8 {
        self.locals.get(number).copied().unwrap_or(std::ptr::null_mut())
    }

    /// Adds the value of a stack local that has none.
    pub(crate) fn add_local(&mut self, local: LocalValue) {
        self.compact();
        self.in_order.push(Some(Value::Local(local)));
        self.store_local(local.number, local.value);
    }

    fn store_local(&mut self, number: usize, value: *mut u8) {
        // Number 0 is of a value that `doom_all` put out of reach.
        if number != 0 {
            if self.locals.len() <= number {
                self.locals.resize(number + 1, std::ptr::null_mut());
            }
            self.locals[number] = value;
        }
    }

    /// Closes the gaps once they are most of it, so that setting one key for ever needs no more and more memory.
    fn compact(&mut self) {
        if self.gaps < 32 || self.gaps < self.in_order.len() / 2 {
            return;
        }
        self.in_order.retain(Option::is_some);
        self.gaps = 0;
        self.by_key.clear();
        let in_order = &self.in_order;
        for (index, value) in in_order.iter().enumerate() {
            if let Some(Value::Keyed(keyed)) = value {
                self.by_key.insert_unique(keyed.hash, index, |&index| hash_at(in_order, index));
            }
        }
    }
}

fn key_at<K: 'static>(in_order: &[Option<Value>], index: usize) -> Option<&K> {
    match &in_order[index] {
        Some(Value::Keyed(keyed)) => keyed.key.downcast_ref(),
        _ => None,
    }
}

fn hash_at(in_order: &[Option<Value>], index: usize) -> u64 {
    match &in_order[index] {
        Some(Value::Keyed(keyed)) => keyed.hash,
        _ => 0,
    }
}

/// The hash of a key together with its type, so that equal keys of distinct types are apart.
pub(crate) fn hash_of<K: Hash + 'static>(key: &K) -> u64 {
    foldhash::fast::FixedState::default().hash_one((TypeId::of::<K>(), key))
}
