//! Stacks that do what comes, in a random order, beside a model of what must come of it: threads, scopes, and fibers that
//! move between threads, end, are abandoned and discarded. Each line that is logged must be the one that the model expects.
//!
//! A failure names its seed and says what was done. `EXEUNT_RANDOM=SEED` runs that one case, `EXEUNT_RANDOM=FROM..TO` many.
#![cfg(target_os = "linux")]

mod common;

use common::fiber::{Fiber, Inside, Pages};
use common::{Log, on_a_thread, process, scaled};
use exeunt::{Error, StackId, slots};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::ffi::c_void;
use std::fmt::Write;
use std::hint::black_box;
use std::ops::{ControlFlow, Range};
use std::sync::{Arc, Mutex};

/// What code does on the stack that it runs on. Numbers name what is stored; they are never used again.
#[derive(Clone, Debug)]
enum Act {
    /// A handler that holds something, and acts.
    AtExit(Held, Vec<Act>),
    Set(u8, Held),
    Get(u8),
    Del(u8),
    LocalSet(usize, Held),
    LocalGet(usize),
    /// Asks for a stack local whose initialiser acts, if it runs.
    LocalMake(usize, Vec<Act>),
    /// Acts while a stack local is lent.
    Lend(usize, Vec<Act>),
    SlotSet(usize, Held),
    SlotGet(usize),
    Reset,
    Unload,
    Id,
    /// The fiber that this runs on is suspended for ever.
    Stop,
    /// An act a few frames further down.
    Deeper(u8, Box<Act>),
}

/// Something that is stored: its name, and what its destructor does.
#[derive(Clone, Debug)]
struct Held(u32, Vec<Act>);

const KEYS: u8 = 3;
const LOCALS: usize = 3;
const SLOTS: usize = 3;
const MEMORIES: usize = 3;

/// What the driver does next.
#[derive(Clone, Debug)]
enum Command {
    /// On the driver's own stack.
    Here(Act),
    /// On the fiber of a memory, which is made first if there is none; from another thread, or from this one.
    On(usize, Act, bool),
    /// The fiber of a memory comes to its end; on another thread, or on this one.
    End(usize, bool),
    Abandon(usize),
    /// The fiber of a memory is abandoned, and said to be.
    Discard(usize),
    /// A thread from beginning to end.
    Thread(Vec<Act>),
    /// A thread with scopes one after the other.
    Scopes(Vec<Vec<Act>>),
}

impl Act {
    fn without_stop(self) -> Self {
        let all = |acts: Vec<Act>| acts.into_iter().map(Act::without_stop).collect();
        match self {
            Self::Stop => Self::Id,
            Self::Lend(local, acts) => Self::Lend(local, all(acts)),
            Self::LocalMake(local, acts) => Self::LocalMake(local, all(acts)),
            Self::Deeper(frames, act) => Self::Deeper(frames, Box::new(act.without_stop())),
            // What a handler does is done later, and what a destructor does has none.
            other => other,
        }
    }
}

/// Makes up acts.
struct Source {
    random: fastrand::Rng,
    last: u32,
}

impl Source {
    fn number(&mut self) -> u32 {
        self.last += 1;
        self.last
    }

    fn acts(&mut self, nested: usize) -> Vec<Act> {
        (0..self.random.usize(0..4)).map(|_| self.act(nested + 1)).collect()
    }

    /// Mostly without a destructor that acts. One that does must come to its end, as nobody goes on with a `reset` that is
    /// left in the middle.
    fn held(&mut self, nested: usize) -> Held {
        let number = self.number();
        let acts = if nested < 3 && self.random.u8(..5) == 0 { self.acts(nested) } else { Vec::new() };
        Held(number, acts.into_iter().map(Act::without_stop).collect())
    }

    fn act(&mut self, nested: usize) -> Act {
        let (key, local, slot) = (self.random.u8(..KEYS), self.random.usize(..LOCALS), self.random.usize(..SLOTS));
        match self.random.u8(..if nested < 3 { 29 } else { 21 }) {
            0..3 => Act::Set(key, self.held(nested)),
            3..5 => Act::Get(key),
            5 => Act::Del(key),
            6..9 => Act::LocalSet(local, self.held(nested)),
            9..12 => Act::LocalGet(local),
            12..14 => Act::SlotSet(slot, self.held(nested)),
            14..17 => Act::SlotGet(slot),
            17 => Act::Reset,
            18 => Act::Unload,
            19 => Act::Id,
            20 if nested > 0 => Act::Stop,
            20..24 => Act::AtExit(self.held(nested), self.acts(nested)),
            // Not stopped inside: the borrower's mark would stay behind, and may be taken for one of the next value at the same
            // address, which a reset then keeps until the stack's end.
            24 => Act::Lend(local, self.acts(nested).into_iter().map(Act::without_stop).collect()),
            25..27 => Act::LocalMake(local, self.acts(nested)),
            _ => Act::Deeper(self.random.u8(1..40), Box::new(self.act(nested + 1))),
        }
    }

    fn command(&mut self) -> Command {
        let memory = self.random.usize(..MEMORIES);
        match self.random.u8(..20) {
            0..2 => Command::Here(self.act(0)),
            2..13 => Command::On(memory, self.act(0), self.random.bool()),
            13..15 => Command::End(memory, self.random.bool()),
            15..17 => Command::Abandon(memory),
            17 => Command::Discard(memory),
            18 => Command::Thread(self.acts(0)),
            _ => Command::Scopes((0..self.random.usize(1..3)).map(|_| self.acts(0)).collect()),
        }
    }
}

type Local = RefCell<Option<Stored>>;

exeunt::stack_local! {
    static FIRST: Local = make();
    static SECOND: Local = make();
    static THIRD: Local = make();
}

static LOCAL: [&exeunt::LocalKey<Local>; LOCALS] = [&FIRST, &SECOND, &THIRD];

/// What the next initialiser to run does.
static MAKES: Mutex<Option<(World, Vec<Act>)>> = Mutex::new(None);

fn make() -> Local {
    let acts = MAKES.lock().unwrap().take();
    if let Some((world, acts)) = acts {
        world.log.note("is made");
        world.perform_all(&acts);
    }
    RefCell::new(None)
}

/// The destructor of what is in a slot.
unsafe extern "C-unwind" fn destroy(value: *mut c_void) {
    // SAFETY: slots hold these boxes, and call this once for each.
    drop(unsafe { Box::from_raw(value.cast::<Stored>()) });
}

/// What all stacks of a case share.
#[derive(Clone)]
struct World {
    log: Log,
    slots: Arc<[u32]>,
    /// The identities in the order in which they were first seen.
    ids: Arc<Mutex<Vec<StackId>>>,
    /// The fiber that runs.
    running: Arc<Mutex<Option<Running>>>,
}

#[derive(Clone, Copy)]
struct Running(Inside);

// SAFETY: it is only used on the fiber itself.
unsafe impl Send for Running {}

/// What is stored for a [`Held`].
struct Stored {
    world: World,
    number: u32,
    acts: Vec<Act>,
}

impl Drop for Stored {
    fn drop(&mut self) {
        self.world.log.note(format!("drop {}", self.number));
        self.world.perform_all(&self.acts);
    }
}

impl World {
    fn store(&self, Held(number, acts): &Held) -> Stored {
        Stored { world: self.clone(), number: *number, acts: acts.clone() }
    }

    fn perform_all(&self, acts: &[Act]) {
        acts.iter().for_each(|act| self.perform(act));
    }

    /// Does it on the running stack.
    fn perform(&self, act: &Act) {
        let log = &self.log;
        match act {
            Act::AtExit(held, acts) => {
                let (world, stored, acts) = (self.clone(), self.store(held), acts.clone());
                let handler = move || {
                    world.log.note(format!("handler {}", stored.number));
                    world.perform_all(&acts);
                    drop(stored);
                };
                exeunt::at_exit(handler).unwrap();
            }
            Act::Set(key, held) => exeunt::set(*key, self.store(held)).unwrap(),
            Act::Get(key) => exeunt::with(key, |value: Option<&Stored>| {
                log.note(format!("key {key}: {:?}", value.map(|stored| stored.number)));
            }),
            Act::Del(key) => {
                let was_there = exeunt::del(key);
                log.note(format!("del {key}: {was_there}"));
            }
            Act::LocalSet(local, held) => {
                let stored = self.store(held);
                match LOCAL[*local].try_with(|value| value.replace(Some(stored))) {
                    Ok(old) => drop(old),
                    Err(error) => self.refused(*local, &error),
                }
            }
            Act::LocalGet(local) => self.look(*local),
            Act::LocalMake(local, acts) => {
                // Armed first: handlers of an abandoned stack, which run then, make theirs in their own way.
                _ = exeunt::id().unwrap();
                *MAKES.lock().unwrap() = Some((self.clone(), acts.clone()));
                self.look(*local);
                MAKES.lock().unwrap().take();
            }
            Act::Lend(local, acts) => {
                if let Err(error) = LOCAL[*local].try_with(|_| self.perform_all(acts)) {
                    self.refused(*local, &error);
                }
            }
            Act::SlotSet(slot, held) => {
                let value = Box::into_raw(Box::new(self.store(held)));
                // What was there is overwritten, and never dropped.
                slots::set(self.slots[*slot], value.cast()).unwrap();
            }
            Act::SlotGet(slot) => {
                let value = slots::get(self.slots[*slot]).unwrap().cast::<Stored>();
                // SAFETY: null, or a box that is in the slot.
                let number = unsafe { value.as_ref() }.map(|stored| stored.number);
                log.note(format!("slot {slot}: {number:?}"));
            }
            Act::Reset => exeunt::reset(),
            Act::Unload => exeunt::unload(),
            Act::Id => {
                let id = exeunt::id().unwrap();
                let mut ids = self.ids.lock().unwrap();
                let place = ids.iter().position(|&seen| seen == id).unwrap_or_else(|| {
                    ids.push(id);
                    ids.len() - 1
                });
                drop(ids);
                log.note(format!("id {place}"));
            }
            Act::Stop => {
                let running = *self.running.lock().unwrap();
                if let Some(Running(fiber)) = running {
                    log.note("stop");
                    fiber.suspend();
                    unreachable!("it is abandoned");
                }
            }
            Act::Deeper(frames, act) => self.deeper(*frames, act),
        }
    }

    fn look(&self, local: usize) {
        let looked = LOCAL[local].try_with(|value| value.borrow().as_ref().map(|stored| stored.number));
        match looked {
            Ok(number) => self.log.note(format!("local {local}: {number:?}")),
            Err(error) => self.refused(local, &error),
        }
    }

    fn refused(&self, local: usize, error: &Error) {
        assert_eq!(*error, Error::InItsOwnMaking);
        self.log.note(format!("local {local}: in its own making"));
    }

    #[inline(never)]
    fn deeper(&self, frames: u8, act: &Act) {
        let room = black_box([frames; 40]);
        if frames == 0 {
            self.perform(act)
        } else {
            self.deeper(frames - 1, act)
        }
        black_box(room);
    }
}

/// What the model knows of one stack.
#[derive(Default, Debug)]
struct Stack {
    armed: bool,
    /// Whether acts can stop it.
    is_fiber: bool,
    /// How many are using it: its arming, its end. It stays armed meanwhile, whatever is unloaded.
    users: usize,
    /// The place of its identity among those seen, if it was asked for.
    id: Option<usize>,
    handlers: Vec<(Held, Vec<Act>)>,
    /// In the order in which they were set.
    values: Vec<Value>,
    slots: [Option<Held>; SLOTS],
    /// Which stack locals' values are lent, by their birth, once for each time.
    lent: Vec<usize>,
    /// Which stack locals are being made or dropped.
    making: Vec<usize>,
    /// The stack that was abandoned on its memory.
    below: Option<Box<Stack>>,
    /// The same, where this one was abandoned while it drained that.
    found: Option<Box<Stack>>,
}

#[derive(Debug)]
enum Value {
    Key(u8, Held),
    /// A stack local (none once it was lent when the values were dropped), its birth, and what is in it.
    Local(Option<usize>, usize, Option<Held>),
}

/// What the model expects to be logged.
#[derive(Default)]
struct Expected {
    log: Vec<String>,
    ids: usize,
    births: usize,
}

impl Expected {
    fn note(&mut self, line: impl Into<String>) {
        self.log.push(line.into());
    }
}

/// Broken where the stack is stopped.
type Flow = ControlFlow<()>;

fn number(held: Option<&Held>) -> Option<u32> {
    held.map(|held| held.0)
}

impl Stack {
    fn fiber() -> Self {
        Self { is_fiber: true, ..Self::default() }
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

    /// Makes the stack local if need be, with an initialiser that may act. Whether it can be had.
    fn ensure_local(&mut self, local: usize, acts: Option<&[Act]>, expected: &mut Expected) -> ControlFlow<(), bool> {
        self.arm(expected)?;
        if self.local(local).is_some() {
            return ControlFlow::Continue(true);
        }
        if self.making.contains(&local) {
            expected.note(format!("local {local}: in its own making"));
            return ControlFlow::Continue(false);
        }
        if let Some(acts) = acts {
            expected.note("is made");
            self.making.push(local);
            self.perform_all(acts, expected)?;
            self.making.pop();
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
            Value::Local(..) => unreachable!(),
        }
    }

    fn perform_all(&mut self, acts: &[Act], expected: &mut Expected) -> Flow {
        acts.iter().try_for_each(|act| self.perform(act, expected))
    }

    fn perform(&mut self, act: &Act, expected: &mut Expected) -> Flow {
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
                    // It comes too late to be stored: the closure that has it is dropped before the error is seen.
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
            Act::Unload if self.armed => {
                self.users += 1;
                for (held, _) in std::mem::take(&mut self.handlers) {
                    self.drop_held(Some(held), expected)?;
                }
                self.clear(expected)?;
                self.users -= 1;
                self.id = None;
                let is_empty =
                    self.handlers.is_empty() && self.values.is_empty() && self.slots.iter().all(Option::is_none);
                self.armed = self.users > 0 || !self.making.is_empty() || !is_empty;
            }
            Act::Unload => {}
            Act::Id => {
                self.arm(expected)?;
                let id = *self.id.get_or_insert_with(|| {
                    expected.ids += 1;
                    expected.ids - 1
                });
                expected.note(format!("id {id}"));
            }
            Act::Stop if self.is_fiber => {
                expected.note("stop");
                return Flow::Break(());
            }
            Act::Stop => {}
            Act::Deeper(_, act) => self.perform(act, expected)?,
        }
        Flow::Continue(())
    }

    /// The destructor of something, which runs on this stack.
    fn drop_held(&mut self, held: Option<Held>, expected: &mut Expected) -> Flow {
        let Some(Held(number, acts)) = held else { return Flow::Continue(()) };
        expected.note(format!("drop {number}"));
        self.perform_all(&acts, expected)
    }

    /// Drops the values but those that are lent, last set first, and clears the slots.
    fn clear(&mut self, expected: &mut Expected) -> Flow {
        let is_lent = |birth: &usize| self.lent.contains(birth);
        let (mut kept, mut dropped) = (Vec::new(), Vec::new());
        for value in std::mem::take(&mut self.values) {
            match value {
                Value::Local(_, birth, held) if is_lent(&birth) => kept.push(Value::Local(None, birth, held)),
                other => dropped.push(other),
            }
        }
        self.values = kept;
        self.users += 1;
        for value in dropped.into_iter().rev() {
            self.drop_value(value, None, expected)?;
        }
        self.clear_slots(None, expected)?;
        self.users -= 1;
        Flow::Continue(())
    }

    /// Drops one of this stack's values, on itself or on another one.
    fn drop_value(&mut self, value: Value, on: Option<&mut Stack>, expected: &mut Expected) -> Flow {
        let (local, held) = match value {
            Value::Key(_, held) => (None, Some(held)),
            Value::Local(local, _, held) => (local, held),
        };
        self.making.extend(local);
        on.unwrap_or(self).drop_held(held, expected)?;
        if local.is_some() {
            self.making.pop();
        }
        Flow::Continue(())
    }

    /// Destroys what is in the slots, on this stack or on another one, from the first to the last. Whether there was something.
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

    /// Its end: on itself, or on the stack that has found it abandoned, whose storage its handlers then use.
    fn drain_on(&mut self, mut on: Option<&mut Stack>, expected: &mut Expected) -> Flow {
        self.users += 1;
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

    /// What it leaves on its memory when it is abandoned.
    fn abandoned(mut self) -> Option<Box<Stack>> {
        if !self.armed {
            return self.below;
        }
        self.lent.clear();
        self.making.clear();
        Some(Box::new(self))
    }

    /// The end of its function. What it leaves on its memory.
    fn end(mut self, expected: &mut Expected) -> Option<Box<Stack>> {
        if self.armed && self.drain_on(None, expected).is_break() {
            return self.abandoned();
        }
        self.below
    }
}

/// What a fiber is to do when it is resumed.
type Orders = Arc<Mutex<VecDeque<Option<Act>>>>;

/// A memory, the fiber there, and what the model knows of it and of the one that was abandoned there.
struct Memory {
    pages: Pages,
    fiber: Option<(Fiber, Orders)>,
    stack: Stack,
}

impl Memory {
    fn ensure_fiber(&mut self, world: &World) {
        if self.fiber.is_some() {
            return;
        }
        let orders = Orders::default();
        let (world, theirs) = (world.clone(), Arc::clone(&orders));
        let life = move |fiber: Inside| {
            *world.running.lock().unwrap() = Some(Running(fiber));
            let next = || theirs.lock().unwrap().pop_front().expect("it is resumed with an order");
            while let Some(act) = next() {
                world.perform(&act);
                *world.running.lock().unwrap() = None;
                fiber.suspend();
                *world.running.lock().unwrap() = Some(Running(fiber));
            }
        };
        // SAFETY: the memory is this fiber's until it is over or abandoned.
        self.fiber = Some((unsafe { Fiber::new(self.pages.range(), life) }, orders));
    }

    /// Resumes the fiber with an order, from this thread or from another one.
    fn order(&mut self, act: Option<Act>, elsewhere: bool) {
        let (fiber, orders) = self.fiber.take().expect("there is one");
        orders.lock().unwrap().push_back(act);
        let more = match elsewhere {
            true => {
                let (fiber_back, more) = on_a_thread(move || {
                    let more = fiber.resume();
                    (fiber, more)
                });
                self.fiber = Some((fiber_back, orders));
                more
            }
            false => {
                let more = fiber.resume();
                self.fiber = Some((fiber, orders));
                more
            }
        };
        if !more {
            self.fiber = None;
        }
    }

    /// The fiber is not resumed any more.
    fn abandon(&mut self) {
        if self.fiber.take().is_none() {
            return;
        }
        self.stack = Stack { below: std::mem::replace(&mut self.stack, Stack::fiber()).abandoned(), ..Stack::fiber() };
    }
}

/// What a case is about: the world, and the model of it.
struct Case {
    world: World,
    /// The stack of the thread that runs it.
    own: Stack,
    expected: Expected,
    /// What was done, and from which seed: for who has to find out what went wrong.
    done: String,
}

impl Case {
    fn new(seed: u64) -> Self {
        let log = Log::new();
        // SAFETY: the destructor takes its values for the numbers that they are.
        let slots = (0..SLOTS).map(|_| unsafe { slots::alloc(Some(destroy)) }.unwrap()).collect();
        let world = World { log, slots, ids: Arc::default(), running: Arc::default() };
        let done = format!("seed {seed}; left: what happened, right: what must; done so far:\n");
        Self { world, own: Stack::default(), expected: Expected::default(), done }
    }

    /// After the thread that ran it.
    fn end(mut self) {
        std::mem::take(&mut self.own).end(&mut self.expected);
        assert_eq!(self.world.log.take(), self.expected.log, "{}", self.done);
        self.world.slots.iter().for_each(|&slot| {
            // SAFETY: no stack is using it.
            unsafe { slots::free(slot) }.unwrap();
        });
        assert_eq!(exeunt::survey().unwrap().armed, 0, "{}", self.done);
    }
}

/// Runs a case on the running thread, and compares after each command.
fn run(seed: u64) -> Case {
    let mut case = Case::new(seed);
    let Case { world, own, expected, done } = &mut case;
    let mut source = Source { random: fastrand::Rng::with_seed(seed), last: 0 };
    let mut memories: Vec<_> =
        (0..MEMORIES).map(|_| Memory { pages: Pages::new(256 * 1024), fiber: None, stack: Stack::fiber() }).collect();
    // In the end nobody is left on memory that goes.
    let last = (0..MEMORIES).map(Command::Discard);
    let commands: Vec<_> = (0..80).map(|_| source.command()).chain(last).collect();
    for command in commands {
        _ = writeln!(done, "{command:?}");
        match command {
            Command::Here(act) => {
                world.perform(&act);
                _ = own.perform(&act, expected);
            }
            Command::On(number, act, elsewhere) => {
                let memory = &mut memories[number];
                memory.ensure_fiber(world);
                memory.order(Some(act.clone()), elsewhere);
                if memory.stack.perform(&act, expected).is_break() {
                    memory.abandon();
                }
            }
            Command::End(number, elsewhere) => {
                let memory = &mut memories[number];
                if memory.fiber.is_some() {
                    memory.order(None, elsewhere);
                    let ended = std::mem::replace(&mut memory.stack, Stack::fiber());
                    memory.stack.below = ended.end(expected);
                }
            }
            Command::Abandon(number) => memories[number].abandon(),
            Command::Discard(number) => {
                let memory = &mut memories[number];
                memory.abandon();
                // SAFETY: the fiber that was there is not resumed any more.
                let count = unsafe { exeunt::discard(memory.pages.range()) };
                let gone = memory.stack.below.take();
                assert_eq!(count, usize::from(gone.is_some()), "{done}");
                if let Some(mut gone) = gone {
                    _ = gone.drain_on(Some(own), expected);
                }
            }
            Command::Thread(acts) => {
                let (world, theirs) = (world.clone(), acts.clone());
                on_a_thread(move || world.perform_all(&theirs));
                let mut stack = Stack::default();
                _ = stack.perform_all(&acts, expected);
                stack.end(expected);
            }
            Command::Scopes(scopes) => {
                let (world, theirs) = (world.clone(), scopes.clone());
                on_a_thread(move || theirs.iter().for_each(|acts| exeunt::enter(|| world.perform_all(acts)).unwrap()));
                for acts in scopes {
                    let mut stack = Stack::default();
                    _ = stack.perform_all(&acts, expected);
                    stack.end(expected);
                }
            }
        }
        // A fiber that was stopped does not say so.
        *world.running.lock().unwrap() = None;
        MAKES.lock().unwrap().take();
        let lines = std::mem::take(&mut expected.log);
        assert_eq!(world.log.take(), lines, "{done}");
    }
    case
}

fn cases() -> Range<u64> {
    let Ok(asked) = std::env::var("EXEUNT_RANDOM") else { return 0..scaled(500, 25) as u64 };
    let number =
        |word: &str| word.parse().unwrap_or_else(|_| panic!("EXEUNT_RANDOM is {asked:?}, not SEED or FROM..TO"));
    match asked.split_once("..") {
        Some((from, to)) => number(from)..number(to),
        None => number(&asked)..number(&asked) + 1,
    }
}

#[test]
fn whatever_stacks_do_is_what_the_model_says() {
    process::alone("whatever_stacks_do_is_what_the_model_says", || {
        for seed in cases() {
            on_a_thread(move || run(seed)).end();
        }
    });
}
