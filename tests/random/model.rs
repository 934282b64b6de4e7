//! The expected result of acts: the contents of each stack, and the lines that are logged.

use crate::acts::{Act, Held, SLOTS};
use std::ops::ControlFlow;

/// The model of one stack.
#[derive(Default, Debug)]
pub struct Stack {
    armed: bool,
    /// Whether acts can stop it.
    is_fiber: bool,
    /// The number of its users: its arming, its end. It stays armed meanwhile, even where it is
    /// unloaded.
    users: usize,
    /// The place of its identity among those seen, if an act has read it.
    id: Option<usize>,
    handlers: Vec<(Held, Vec<Act>)>,
    /// In the order in which they were set.
    values: Vec<Value>,
    /// The pending drops of a reset or an unload, the next one last.
    pending: Vec<Value>,
    slots: [Option<Held>; SLOTS],
    /// The stack locals whose values are lent, by their birth, once for each time.
    lent: Vec<usize>,
    /// The stack locals that are initializing.
    initializing: Vec<usize>,
    /// The stack that was abandoned on its memory.
    pub below: Option<Box<Stack>>,
    /// The same, where this one was abandoned while it drained that one.
    found: Option<Box<Stack>>,
}

#[derive(Debug)]
pub enum Value {
    Key(u8, Held),
    /// A stack local (none if it was lent when the values were dropped), its birth, and its
    /// content.
    Local(Option<usize>, usize, Option<Held>),
    /// The value that a removed handler holds.
    Handler(Held),
}

/// The expected lines of the log.
#[derive(Default)]
pub struct Expected {
    pub log: Vec<String>,
    ids: usize,
    births: usize,
}

impl Expected {
    fn note(&mut self, line: impl Into<String>) {
        self.log.push(line.into());
    }
}

/// Broken where the stack is stopped.
pub type Flow = ControlFlow<()>;

fn number(held: Option<&Held>) -> Option<u32> {
    held.map(|held| held.0)
}

impl Stack {
    /// A fiber on memory where one was abandoned before, or none.
    pub fn fiber(below: Option<Box<Self>>) -> Self {
        Self { is_fiber: true, below, ..Self::default() }
    }

    fn arm(&mut self, expected: &mut Expected) -> Flow {
        if std::mem::replace(&mut self.armed, true) {
            return Flow::Continue(());
        }
        if let Some(mut abandoned) = self.below.take() {
            self.users += 1;
            if abandoned.drain_on(Some(self), expected).is_break() {
                self.found = Some(abandoned);
                return Flow::Break(());
            }
            self.users -= 1;
        }
        Flow::Continue(())
    }

    fn local(&mut self, local: usize) -> Option<(usize, &mut Option<Held>)> {
        self.values.iter_mut().find_map(|value| match value {
            Value::Local(Some(other), birth, held) if *other == local => Some((*birth, held)),
            _ => None,
        })
    }

    /// Makes the stack local if need be, with an initialiser that may act. Returns whether it can
    /// be read.
    fn ensure_local(&mut self, local: usize, acts: Option<&[Act]>, expected: &mut Expected) -> ControlFlow<(), bool> {
        self.arm(expected)?;
        if self.local(local).is_some() {
            return ControlFlow::Continue(true);
        }
        if self.initializing.contains(&local) {
            expected.note(format!("local {local}: initializing"));
            return ControlFlow::Continue(false);
        }
        if let Some(acts) = acts {
            expected.note("is made");
            self.initializing.push(local);
            self.perform_all(acts, expected)?;
            self.initializing.pop();
        }
        expected.births += 1;
        self.values.push(Value::Local(Some(local), expected.births, None));
        ControlFlow::Continue(true)
    }

    fn look(&mut self, local: usize, acts: Option<&[Act]>, expected: &mut Expected) -> Flow {
        if self.ensure_local(local, acts, expected)? {
            let (_, held) = self.local(local).expect("just made");
            expected.note(format!("local {local}: {:?}", number(held.as_ref())));
        }
        Flow::Continue(())
    }

    fn take_key(&mut self, key: u8) -> Option<Held> {
        let place = self.values.iter().position(|value| matches!(value, Value::Key(other, _) if *other == key))?;
        match self.values.remove(place) {
            Value::Key(_, held) => Some(held),
            _ => unreachable!(),
        }
    }

    pub fn perform_all(&mut self, acts: &[Act], expected: &mut Expected) -> Flow {
        acts.iter().try_for_each(|act| self.perform(act, expected))
    }

    pub fn perform(&mut self, act: &Act, expected: &mut Expected) -> Flow {
        match act {
            Act::AtExit(held, acts) => {
                self.arm(expected)?;
                self.handlers.push((held.clone(), acts.clone()));
            }
            Act::Set(key, held) => {
                self.arm(expected)?;
                let old = self.take_key(*key);
                self.values.push(Value::Key(*key, held.clone()));
                self.drop_held(old, expected)?;
            }
            Act::Get(key) => {
                let found = self.values.iter().find_map(|value| match value {
                    Value::Key(other, held) if other == key => Some(held.0),
                    _ => None,
                });
                expected.note(format!("key {key}: {found:?}"));
            }
            Act::Del(key) => {
                let old = self.take_key(*key);
                let was_there = old.is_some();
                self.drop_held(old, expected)?;
                expected.note(format!("del {key}: {was_there}"));
            }
            Act::LocalSet(local, held) => {
                if self.ensure_local(*local, None, expected)? {
                    let (_, place) = self.local(*local).expect("just made");
                    let old = place.replace(held.clone());
                    self.drop_held(old, expected)?;
                } else {
                    // It comes too late to be stored. The closure that holds it is dropped before
                    // the caller has the error.
                    let refused = expected.log.pop();
                    self.drop_held(Some(held.clone()), expected)?;
                    expected.log.extend(refused);
                }
            }
            Act::LocalGet(local) => self.look(*local, None, expected)?,
            Act::LocalMake(local, acts) => self.look(*local, Some(acts), expected)?,
            Act::Lend(local, acts) => {
                if self.ensure_local(*local, None, expected)? {
                    let (birth, _) = self.local(*local).expect("just made");
                    self.lent.push(birth);
                    self.perform_all(acts, expected)?;
                    self.lent.pop();
                }
            }
            Act::SlotSet(slot, held) => {
                self.arm(expected)?;
                self.slots[*slot] = Some(held.clone());
            }
            Act::SlotGet(slot) => {
                expected.note(format!("slot {slot}: {:?}", number(self.slots[*slot].as_ref())));
            }
            Act::Reset => self.clear(expected)?,
            Act::Unload => {
                if self.armed {
                    self.unload(expected)?;
                }
                expected.note(format!("armed: {}", self.armed));
            }
            Act::Id => {
                self.arm(expected)?;
                let id = *self.id.get_or_insert_with(|| {
                    expected.ids += 1;
                    expected.ids - 1
                });
                expected.note(format!("id {id}"));
            }
            Act::Stop if self.is_fiber && self.lent.is_empty() => {
                expected.note("stop");
                return Flow::Break(());
            }
            Act::Stop => {}
            Act::Deeper(_, act) => self.perform(act, expected)?,
        }
        Flow::Continue(())
    }

    fn unload(&mut self, expected: &mut Expected) -> Flow {
        self.users += 1;
        self.pending.extend(self.handlers.drain(..).rev().map(|(held, _)| Value::Handler(held)));
        self.drop_pending(None, expected)?;
        self.clear(expected)?;
        self.users -= 1;
        self.id = None;
        let is_empty = self.handlers.is_empty() && self.values.is_empty() && self.slots.iter().all(Option::is_none);
        self.armed = self.users > 0 || !self.initializing.is_empty() || !is_empty;
        Flow::Continue(())
    }

    /// The destructor of a stored value, which runs on this stack.
    fn drop_held(&mut self, held: Option<Held>, expected: &mut Expected) -> Flow {
        let Some(Held(number, acts)) = held else { return Flow::Continue(()) };
        expected.note(format!("drop {number}"));
        self.perform_all(&acts, expected)
    }

    /// Drops the values except those that are lent, last set first, and clears the slots.
    fn clear(&mut self, expected: &mut Expected) -> Flow {
        let is_lent = |birth: &usize| self.lent.contains(birth);
        let mut kept = Vec::new();
        for value in std::mem::take(&mut self.values) {
            match value {
                Value::Local(_, birth, held) if is_lent(&birth) => kept.push(Value::Local(None, birth, held)),
                other => self.pending.push(other),
            }
        }
        self.values = kept;
        self.users += 1;
        self.drop_pending(None, expected)?;
        self.clear_slots(None, expected)?;
        self.users -= 1;
        Flow::Continue(())
    }

    /// Drops the pending values, on this stack or on another one.
    fn drop_pending(&mut self, mut on: Option<&mut Stack>, expected: &mut Expected) -> Flow {
        self.users += 1;
        while let Some(value) = self.pending.pop() {
            self.drop_value(value, on.as_deref_mut(), expected)?;
        }
        self.users -= 1;
        Flow::Continue(())
    }

    /// Drops one of this stack's values, on itself or on another one.
    fn drop_value(&mut self, value: Value, on: Option<&mut Stack>, expected: &mut Expected) -> Flow {
        let (local, held) = match value {
            Value::Key(_, held) | Value::Handler(held) => (None, Some(held)),
            Value::Local(local, _, held) => (local, held),
        };
        self.initializing.extend(local);
        on.unwrap_or(self).drop_held(held, expected)?;
        if local.is_some() {
            self.initializing.pop();
        }
        Flow::Continue(())
    }

    /// Destroys the values of the slots, on this stack or on another one, from the first to the
    /// last. Returns whether there was one.
    fn clear_slots(&mut self, mut on: Option<&mut Stack>, expected: &mut Expected) -> ControlFlow<(), bool> {
        let mut any = false;
        for slot in 0..SLOTS {
            if let Some(held) = self.slots[slot].take() {
                any = true;
                on.as_deref_mut().unwrap_or(self).drop_held(Some(held), expected)?;
            }
        }
        ControlFlow::Continue(any)
    }

    /// Its end: on itself, or on the stack that has detected that it was abandoned. Its handlers
    /// use that one's storage then.
    pub fn drain_on(&mut self, mut on: Option<&mut Stack>, expected: &mut Expected) -> Flow {
        self.users += 1;
        self.drop_pending(on.as_deref_mut(), expected)?;
        loop {
            if let Some((held, acts)) = self.handlers.pop() {
                expected.note(format!("handler {}", held.0));
                let runner = on.as_deref_mut().unwrap_or(self);
                runner.perform_all(&acts, expected)?;
                runner.drop_held(Some(held), expected)?;
            } else if let Some(value) = self.values.pop() {
                self.drop_value(value, on.as_deref_mut(), expected)?;
            } else if self.clear_slots(on.as_deref_mut(), expected)? {
            } else if let Some(mut found) = self.found.take() {
                if found.drain_on(Some(on.as_deref_mut().unwrap_or(self)), expected).is_break() {
                    self.found = Some(found);
                    return Flow::Break(());
                }
            } else {
                return Flow::Continue(());
            }
        }
    }

    /// Returns what it leaves on its memory when it is abandoned.
    pub fn abandoned(mut self) -> Option<Box<Stack>> {
        if !self.armed {
            return self.below;
        }
        self.lent.clear();
        self.initializing.clear();
        Some(Box::new(self))
    }

    /// The end of its function. Returns what it leaves on its memory.
    pub fn end(mut self, expected: &mut Expected) -> Option<Box<Stack>> {
        if self.armed && self.drain_on(None, expected).is_break() {
            return self.abandoned();
        }
        self.below
    }
}
