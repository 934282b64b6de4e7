//! Random acts, and where they run.

/// An act of code on the stack that it runs on. Numbers name what is stored; they are never used
/// again.
#[derive(Clone, Debug)]
pub enum Act {
    /// A handler that holds a value, and acts.
    AtExit(Held, Vec<Act>),
    Set(u8, Held),
    Get(u8),
    Del(u8),
    LocalSet(usize, Held),
    LocalGet(usize),
    /// Reads a stack local whose initialiser acts, if it runs.
    LocalMake(usize, Vec<Act>),
    /// Acts while a stack local is lent.
    Lend(usize, Vec<Act>),
    SlotSet(usize, Held),
    SlotGet(usize),
    Reset,
    Unload,
    Id,
    /// Suspends for ever the fiber that this runs on. Not while a stack local is lent: the
    /// borrower's mark would stay, and might be taken for one of the next value at the same
    /// address. A reset would then keep that value until the stack's end.
    Stop,
    /// An act some frames further in.
    Deeper(u8, Box<Act>),
}

/// A stored value: its name, and the acts of its destructor.
#[derive(Clone, Debug)]
pub struct Held(pub u32, pub Vec<Act>);

const KEYS: u8 = 3;
pub const LOCALS: usize = 3;
pub const SLOTS: usize = 3;
pub const MEMORIES: usize = 3;

/// The driver's next step.
#[derive(Clone, Debug)]
pub enum Command {
    /// On the driver's own stack.
    Here(Act),
    /// On the fiber of a memory, which is made first if there is none. It is resumed by another
    /// thread, or by this one.
    On(usize, Act, bool),
    /// The fiber of a memory runs to its end, on another thread or on this one.
    End(usize, bool),
    Abandon(usize),
    /// The fiber of a memory is abandoned, and discarded.
    Discard(usize),
    /// A thread from beginning to end.
    Thread(Vec<Act>),
    /// A thread with scopes one after the other.
    Scopes(Vec<Vec<Act>>),
}

/// Generates acts.
pub struct Source {
    random: fastrand::Rng,
    last: u32,
}

impl Source {
    pub fn new(seed: u64) -> Self {
        Self { random: fastrand::Rng::with_seed(seed), last: 0 }
    }

    fn number(&mut self) -> u32 {
        self.last += 1;
        self.last
    }

    fn acts(&mut self, nested: usize) -> Vec<Act> {
        (0..self.random.usize(0..4)).map(|_| self.act(nested + 1)).collect()
    }

    /// Mostly without a destructor that acts.
    fn held(&mut self, nested: usize) -> Held {
        let number = self.number();
        Held(number, if nested < 3 && self.random.u8(..5) == 0 { self.acts(nested) } else { Vec::new() })
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
            24 => Act::Lend(local, self.acts(nested)),
            25..27 => Act::LocalMake(local, self.acts(nested)),
            _ => Act::Deeper(self.random.u8(1..40), Box::new(self.act(nested + 1))),
        }
    }

    pub fn command(&mut self) -> Command {
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
