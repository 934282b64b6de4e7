//! Stacks that do what comes, in a random order, beside a model of what must come of it: threads, scopes, and fibers that
//! move between threads, end, are abandoned and discarded. Each line that is logged must be the one that the model expects.
//!
//! A failure names its seed and says what was done. `EXEUNT_RANDOM=SEED` runs that one case, `EXEUNT_RANDOM=FROM..TO` many.
#![cfg(target_os = "linux")]

mod common;

use common::fiber::{Fiber, Inside, Pages};
use common::{Log, Loud, on_a_thread, process, scaled};
use exeunt::{StackId, slots};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::ffi::c_void;
use std::fmt::Write;
use std::hint::black_box;
use std::ops::Range;
use std::sync::{Arc, Mutex};

/// What code does on the stack that it runs on. Numbers name what is stored; they are never used again.
#[derive(Clone, Debug)]
enum Act {
    AtExit(u32, Vec<Act>),
    Set(u8, u32),
    Get(u8),
    Del(u8),
    LocalSet(usize, u32),
    LocalGet(usize),
    /// Acts while a stack local is lent.
    Lend(usize, Vec<Act>),
    SlotSet(usize, u32),
    SlotGet(usize),
    Reset,
    Unload,
    Id,
    /// An act a few frames further down.
    Deeper(u8, Box<Act>),
}

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
    /// The fiber of a memory comes to its end.
    End(usize),
    Abandon(usize),
    /// The fiber of a memory is abandoned, and said to be.
    Discard(usize),
    /// A thread from beginning to end.
    Thread(Vec<Act>),
    /// A thread with scopes one after the other.
    Scopes(Vec<Vec<Act>>),
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

    fn act(&mut self, nested: usize) -> Act {
        let (key, local, slot) = (self.random.u8(..KEYS), self.random.usize(..LOCALS), self.random.usize(..SLOTS));
        match self.random.u8(..if nested < 3 { 26 } else { 20 }) {
            0..3 => Act::Set(key, self.number()),
            3..5 => Act::Get(key),
            5 => Act::Del(key),
            6..9 => Act::LocalSet(local, self.number()),
            9..12 => Act::LocalGet(local),
            12..14 => Act::SlotSet(slot, self.number()),
            14..17 => Act::SlotGet(slot),
            17 => Act::Reset,
            18 => Act::Unload,
            19 => Act::Id,
            20..23 => Act::AtExit(self.number(), self.acts(nested)),
            23 => Act::Lend(local, self.acts(nested)),
            _ => Act::Deeper(self.random.u8(1..40), Box::new(self.act(nested + 1))),
        }
    }

    fn command(&mut self) -> Command {
        let memory = self.random.usize(..MEMORIES);
        match self.random.u8(..20) {
            0..2 => Command::Here(self.act(0)),
            2..13 => Command::On(memory, self.act(0), self.random.bool()),
            13..15 => Command::End(memory),
            15..17 => Command::Abandon(memory),
            17 => Command::Discard(memory),
            18 => Command::Thread(self.acts(0)),
            _ => Command::Scopes((0..self.random.usize(1..3)).map(|_| self.acts(0)).collect()),
        }
    }
}

exeunt::stack_local! {
    static FIRST: RefCell<Option<Loud>> = const { RefCell::new(None) };
    static SECOND: RefCell<Option<Loud>> = const { RefCell::new(None) };
    static THIRD: RefCell<Option<Loud>> = const { RefCell::new(None) };
}

static LOCAL: [&exeunt::LocalKey<RefCell<Option<Loud>>>; LOCALS] = [&FIRST, &SECOND, &THIRD];

/// The log of the case that runs, for the slots' destructors.
static SLOTS_LOG: Mutex<Option<Log>> = Mutex::new(None);

unsafe extern "C-unwind" fn destroy(value: *mut c_void) {
    let log = SLOTS_LOG.lock().unwrap().clone();
    log.expect("a case runs").note(format!("destroy {}", value.addr()));
}

/// What all stacks of a case share.
#[derive(Clone)]
struct World {
    log: Log,
    slots: Arc<[u32]>,
    /// The identities in the order in which they were first seen.
    ids: Arc<Mutex<Vec<StackId>>>,
}

impl World {
    fn perform_all(&self, acts: &[Act]) {
        acts.iter().for_each(|act| self.perform(act));
    }

    /// Does it on the running stack.
    fn perform(&self, act: &Act) {
        let log = &self.log;
        match act {
            Act::AtExit(number, acts) => {
                let (world, held) = (self.clone(), log.loud(format!("handler {number}")));
                let (number, acts) = (*number, acts.clone());
                let handler = move || {
                    let _held = held;
                    world.log.note(format!("handler {number}"));
                    world.perform_all(&acts);
                };
                exeunt::at_exit(handler).unwrap();
            }
            Act::Set(key, number) => exeunt::set(*key, log.loud(number.to_string())).unwrap(),
            Act::Get(key) => exeunt::with(key, |value: Option<&Loud>| {
                log.note(format!("key {key}: {}", name(value)));
            }),
            Act::Del(key) => {
                let was_there = exeunt::del(key);
                log.note(format!("del {key}: {was_there}"));
            }
            Act::LocalSet(local, number) => LOCAL[*local].set(Some(log.loud(number.to_string()))),
            Act::LocalGet(local) => LOCAL[*local].with_borrow(|value| {
                log.note(format!("local {local}: {}", name(value.as_ref())));
            }),
            Act::Lend(local, acts) => LOCAL[*local].with(|_| self.perform_all(acts)),
            Act::SlotSet(slot, number) => {
                slots::set(self.slots[*slot], std::ptr::without_provenance_mut(*number as usize)).unwrap();
            }
            Act::SlotGet(slot) => {
                let value = slots::get(self.slots[*slot]).unwrap().addr();
                log.note(format!("slot {slot}: {value}"));
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
            Act::Deeper(frames, act) => self.deeper(*frames, act),
        }
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

fn name(value: Option<&Loud>) -> &str {
    value.map_or("none", |value| &value.name)
}

/// What the model knows of one stack.
#[derive(Default, Debug)]
struct Stack {
    armed: bool,
    /// It is being armed or ends: so it stays armed whatever is unloaded.
    busy: bool,
    /// The place of its identity among those seen, if it was asked for.
    id: Option<usize>,
    handlers: Vec<(u32, Vec<Act>)>,
    /// In the order in which they were set.
    values: Vec<Value>,
    slots: [u32; SLOTS],
    /// Which stack locals' values are lent, by their birth, once for each time.
    lent: Vec<usize>,
    /// The stack that was abandoned on its memory.
    below: Option<Box<Stack>>,
}

#[derive(Debug)]
enum Value {
    Key(u8, u32),
    /// A stack local (none once it was lent when the values were dropped), its birth, and what is in it.
    Local(Option<usize>, usize, Option<u32>),
}

/// What the model expects to be logged.
#[derive(Default)]
struct Expected {
    log: Vec<String>,
    ids: usize,
    births: usize,
}

impl Expected {
    fn note(&mut self, line: String) {
        self.log.push(line);
    }

    fn drop(&mut self, number: Option<u32>) {
        if let Some(number) = number {
            self.note(format!("drop {number}"));
        }
    }
}

impl Stack {
    fn arm(&mut self, expected: &mut Expected) {
        if std::mem::replace(&mut self.armed, true) {
            return;
        }
        if let Some(mut abandoned) = self.below.take() {
            self.busy = true;
            abandoned.drain_on(Some(self), expected);
            self.busy = false;
        }
    }

    fn local(&mut self, local: usize) -> Option<(usize, &mut Option<u32>)> {
        self.values.iter_mut().find_map(|value| match value {
            Value::Local(Some(other), birth, held) if *other == local => Some((*birth, held)),
            _ => None,
        })
    }

    /// The stack local, made if need be: its birth, and what is in it.
    fn ensure_local(&mut self, local: usize, expected: &mut Expected) -> (usize, &mut Option<u32>) {
        self.arm(expected);
        if self.local(local).is_none() {
            expected.births += 1;
            self.values.push(Value::Local(Some(local), expected.births, None));
        }
        self.local(local).expect("just made")
    }

    fn take_key(&mut self, key: u8) -> Option<u32> {
        let place = self.values.iter().position(|value| matches!(value, Value::Key(other, _) if *other == key))?;
        match self.values.remove(place) {
            Value::Key(_, number) => Some(number),
            _ => unreachable!(),
        }
    }

    fn perform_all(&mut self, acts: &[Act], expected: &mut Expected) {
        acts.iter().for_each(|act| self.perform(act, expected));
    }

    fn perform(&mut self, act: &Act, expected: &mut Expected) {
        match act {
            Act::AtExit(number, acts) => {
                self.arm(expected);
                self.handlers.push((*number, acts.clone()));
            }
            Act::Set(key, number) => {
                self.arm(expected);
                let old = self.take_key(*key);
                self.values.push(Value::Key(*key, *number));
                expected.drop(old);
            }
            Act::Get(key) => {
                let found = self.values.iter().find_map(|value| match value {
                    Value::Key(other, number) if other == key => Some(number.to_string()),
                    _ => None,
                });
                expected.note(format!("key {key}: {}", found.unwrap_or("none".into())));
            }
            Act::Del(key) => {
                let old = self.take_key(*key);
                expected.drop(old);
                expected.note(format!("del {key}: {}", old.is_some()));
            }
            Act::LocalSet(local, number) => {
                let old = self.ensure_local(*local, expected).1.replace(*number);
                expected.drop(old);
            }
            Act::LocalGet(local) => {
                let held = self.ensure_local(*local, expected).1.map_or("none".into(), |number| number.to_string());
                expected.note(format!("local {local}: {held}"));
            }
            Act::Lend(local, acts) => {
                let (birth, _) = self.ensure_local(*local, expected);
                self.lent.push(birth);
                self.perform_all(acts, expected);
                self.lent.pop();
            }
            Act::SlotSet(slot, number) => {
                self.arm(expected);
                self.slots[*slot] = *number;
            }
            Act::SlotGet(slot) => expected.note(format!("slot {slot}: {}", self.slots[*slot])),
            Act::Reset => self.clear(expected),
            Act::Unload if self.armed => {
                for (number, _) in std::mem::take(&mut self.handlers) {
                    expected.note(format!("drop handler {number}"));
                }
                self.clear(expected);
                self.id = None;
                self.armed = self.busy || !self.values.is_empty();
            }
            Act::Unload => {}
            Act::Id => {
                self.arm(expected);
                let id = *self.id.get_or_insert_with(|| {
                    expected.ids += 1;
                    expected.ids - 1
                });
                expected.note(format!("id {id}"));
            }
            Act::Deeper(_, act) => self.perform(act, expected),
        }
    }

    /// Drops the values but those that are lent, last set first, and clears the slots.
    fn clear(&mut self, expected: &mut Expected) {
        let lent = self.lent.clone();
        let mut kept = Vec::new();
        while let Some(value) = self.values.pop() {
            match value {
                Value::Local(_, birth, held) if lent.contains(&birth) => kept.push(Value::Local(None, birth, held)),
                Value::Key(_, number) => expected.drop(Some(number)),
                Value::Local(_, _, held) => expected.drop(held),
            }
        }
        self.values.extend(kept.into_iter().rev());
        self.clear_slots(expected);
    }

    fn clear_slots(&mut self, expected: &mut Expected) -> bool {
        let values = std::mem::take(&mut self.slots).into_iter().filter(|&number| number != 0);
        let destroyed = values.map(|number| expected.note(format!("destroy {number}")));
        destroyed.count() != 0
    }

    /// Its end: on itself, or on the stack that has found it abandoned, whose storage its handlers then use.
    fn drain_on(&mut self, mut on: Option<&mut Stack>, expected: &mut Expected) {
        self.busy = true;
        loop {
            if let Some((number, acts)) = self.handlers.pop() {
                expected.note(format!("handler {number}"));
                match on.as_deref_mut() {
                    Some(on) => on.perform_all(&acts, expected),
                    None => self.perform_all(&acts, expected),
                }
                expected.note(format!("drop handler {number}"));
            } else if let Some(value) = self.values.pop() {
                expected.drop(match value {
                    Value::Key(_, number) => Some(number),
                    Value::Local(_, _, held) => held,
                });
            } else if !self.clear_slots(expected) {
                return;
            }
        }
    }

    /// The end of its function.
    fn end(mut self, expected: &mut Expected) -> Option<Box<Stack>> {
        if self.armed {
            self.drain_on(None, expected);
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
            let next = || theirs.lock().unwrap().pop_front().expect("it is resumed with an order");
            while let Some(act) = next() {
                world.perform(&act);
                fiber.suspend();
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
        let mut gone = std::mem::take(&mut self.stack);
        self.stack.below = if gone.armed {
            gone.lent.clear();
            Some(Box::new(gone))
        } else {
            gone.below
        };
    }
}

/// Runs one case, and compares after each command.
fn run(seed: u64) {
    let mut source = Source { random: fastrand::Rng::with_seed(seed), last: 0 };
    let log = Log::new();
    *SLOTS_LOG.lock().unwrap() = Some(log.clone());
    // SAFETY: the destructor takes its values for the numbers that they are.
    let slots = (0..SLOTS).map(|_| unsafe { slots::alloc(Some(destroy)) }.unwrap()).collect();
    let world = World { log: log.clone(), slots, ids: Arc::default() };
    let mut expected = Expected::default();
    let mut own = Stack::default();
    let mut memories: Vec<_> =
        (0..MEMORIES).map(|_| Memory { pages: Pages::new(256 * 1024), fiber: None, stack: Stack::default() }).collect();
    let mut done = String::new();
    for _ in 0..80 {
        let command = source.command();
        _ = writeln!(done, "{command:?}");
        match command {
            Command::Here(act) => {
                world.perform(&act);
                own.perform(&act, &mut expected);
            }
            Command::On(number, act, elsewhere) => {
                let memory = &mut memories[number];
                memory.ensure_fiber(&world);
                memory.order(Some(act.clone()), elsewhere);
                memory.stack.perform(&act, &mut expected);
            }
            Command::End(number) => {
                let memory = &mut memories[number];
                if memory.fiber.is_some() {
                    memory.order(None, source.random.bool());
                    memory.stack.below = std::mem::take(&mut memory.stack).end(&mut expected);
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
                    gone.drain_on(Some(&mut own), &mut expected);
                }
            }
            Command::Thread(acts) => {
                let (world, theirs) = (world.clone(), acts.clone());
                on_a_thread(move || world.perform_all(&theirs));
                let mut stack = Stack::default();
                stack.perform_all(&acts, &mut expected);
                stack.end(&mut expected);
            }
            Command::Scopes(scopes) => {
                let (world, theirs) = (world.clone(), scopes.clone());
                on_a_thread(move || theirs.iter().for_each(|acts| exeunt::enter(|| world.perform_all(acts)).unwrap()));
                for acts in scopes {
                    let mut stack = Stack::default();
                    stack.perform_all(&acts, &mut expected);
                    stack.end(&mut expected);
                }
            }
        }
        let logged = log.take();
        let lines = std::mem::take(&mut expected.log);
        assert_eq!(logged, lines, "seed {seed}, left: what happened, right: what must; done so far:\n{done}");
    }
    for memory in &mut memories {
        memory.abandon();
        // SAFETY: nobody is resumed there.
        unsafe { exeunt::discard(memory.pages.range()) };
    }
    exeunt::unload();
    world.slots.iter().for_each(|&slot| {
        // SAFETY: no stack is using it.
        unsafe { slots::free(slot) }.unwrap();
    });
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
            on_a_thread(move || run(seed));
            assert_eq!(exeunt::survey().unwrap().armed, 0, "seed {seed}");
        }
    });
}
