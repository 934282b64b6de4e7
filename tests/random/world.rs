//! Acts performed by the library.

use crate::acts::{Act, Held, LOCALS, SLOTS};
use crate::common::Log;
use crate::common::fiber::Inside;
use exeunt::{Error, StackId, slots};
use std::cell::RefCell;
use std::ffi::c_void;
use std::hint::black_box;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

type Local = RefCell<Option<Stored>>;

exeunt::stack_local! {
    static FIRST: Local = make();
    static SECOND: Local = make();
    static THIRD: Local = make();
}

static LOCAL: [&exeunt::LocalKey<Local>; LOCALS] = [&FIRST, &SECOND, &THIRD];

/// The acts of the next initialiser that runs.
static MAKES: Mutex<Option<(World, Vec<Act>)>> = Mutex::new(None);

fn make() -> Local {
    let acts = MAKES.lock().unwrap().take();
    if let Some((world, acts)) = acts {
        world.log.note("is made");
        world.perform_all(&acts);
    }
    RefCell::new(None)
}

/// The destructor of a slot's value.
unsafe extern "C" fn destroy(value: *mut c_void) {
    // SAFETY: slots hold these boxes, and call this once for each.
    drop(unsafe { Box::from_raw(value.cast::<Stored>()) });
}

/// The state that all stacks of a case share.
#[derive(Clone)]
pub struct World {
    pub log: Log,
    slots: Arc<[u32]>,
    /// The identities in the order in which they were first seen.
    ids: Arc<Mutex<Vec<StackId>>>,
    /// The running fiber.
    running: Arc<Mutex<Option<Running>>>,
    /// How many stack locals the running stack lends.
    lent: Arc<AtomicUsize>,
}

#[derive(Clone, Copy)]
struct Running(Inside);

// SAFETY: it is only used on the fiber itself.
unsafe impl Send for Running {}

/// The value that is stored for a [`Held`].
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
    pub fn new() -> Self {
        // SAFETY: the slots hold values of the destructor's type.
        let slots = (0..SLOTS).map(|_| unsafe { slots::alloc(Some(destroy)) }.unwrap()).collect();
        Self { log: Log::new(), slots, ids: Arc::default(), running: Arc::default(), lent: Arc::default() }
    }

    /// Called when no stack is left that uses it.
    pub fn end(self) {
        self.slots.iter().for_each(|&slot| {
            // SAFETY: no stack is using it.
            unsafe { slots::free(slot) }.unwrap();
        });
    }

    /// Called by each fiber before and after it waits for orders.
    pub fn runs(&self, fiber: Option<Inside>) {
        *self.running.lock().unwrap() = fiber.map(Running);
    }

    /// Called for a fiber that an act may have stopped, because it does not call it itself.
    pub fn is_stopped(&self) {
        self.runs(None);
        MAKES.lock().unwrap().take();
    }

    fn store(&self, Held(number, acts): &Held) -> Stored {
        Stored { world: self.clone(), number: *number, acts: acts.clone() }
    }

    pub fn perform_all(&self, acts: &[Act]) {
        acts.iter().for_each(|act| self.perform(act));
    }

    /// Performs it on the running stack.
    pub fn perform(&self, act: &Act) {
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
                // Armed first: an abandoned stack's handlers, which run then, initialise theirs in
                // their own way.
                _ = exeunt::id().unwrap();
                *MAKES.lock().unwrap() = Some((self.clone(), acts.clone()));
                self.look(*local);
                MAKES.lock().unwrap().take();
            }
            Act::Lend(local, acts) => {
                let lend = |_: &Local| {
                    self.lent.fetch_add(1, Ordering::Relaxed);
                    self.perform_all(acts);
                    self.lent.fetch_sub(1, Ordering::Relaxed);
                };
                if let Err(error) = LOCAL[*local].try_with(lend) {
                    self.refused(*local, &error);
                }
            }
            Act::SlotSet(slot, held) => {
                let value = Box::into_raw(Box::new(self.store(held)));
                // The previous value is overwritten, and never dropped.
                // SAFETY: `destroy` and `SlotGet` expect such a box.
                unsafe { slots::set(self.slots[*slot], value.cast()) }.unwrap();
            }
            Act::SlotGet(slot) => {
                let value = slots::get(self.slots[*slot]).unwrap().cast::<Stored>();
                // SAFETY: null, or a box that is in the slot.
                let number = unsafe { value.as_ref() }.map(|stored| stored.number);
                log.note(format!("slot {slot}: {number:?}"));
            }
            Act::Reset => exeunt::reset(),
            Act::Unload => {
                exeunt::unload();
                log.note(format!("armed: {}", exeunt::Stack::current().is_armed()));
            }
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
                if let Some(Running(fiber)) = running.filter(|_| self.lent.load(Ordering::Relaxed) == 0) {
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
        assert_eq!(*error, Error::RecursiveInit);
        self.log.note(format!("local {local}: initializing"));
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
