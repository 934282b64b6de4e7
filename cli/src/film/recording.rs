//! What a film has: the recording, from which the page, the text and the JSON form are made.
//!
//! Numbers are strings of hexadecimal digits, since a script's numbers have 53 bits.

use serde::{Serialize, Serializer};
use std::collections::HashMap;
use std::hash::Hash;

/// A word or an address, written in hexadecimal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Word(pub u64);

impl Serialize for Word {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl std::fmt::Display for Word {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

#[derive(Serialize)]
pub struct Recording {
    /// Changes only if a member is removed or changes its meaning.
    pub version: u32,
    pub kind: &'static str,
    pub title: String,
    pub about: String,
    pub machine: Machine,
    pub stack: StackShown,
    /// The registers' names, in the order of [`Step::registers`].
    pub registers: Vec<&'static str>,
    pub chapters: Vec<Chapter>,
    pub steps: Vec<Step>,
    /// Functions, disassembled; steps refer to them by number.
    pub listings: Vec<Listing>,
    /// Frames of backtraces; steps refer to them by number.
    pub frames: Vec<Frame>,
}

#[derive(Serialize)]
pub struct Machine {
    pub processor: &'static str,
    pub system: String,
    pub libc: String,
    pub exeunt: &'static str,
    pub redirect: &'static str,
}

/// What is known of the filmed stack.
#[derive(Serialize)]
pub struct StackShown {
    /// The foot's address.
    pub foot: Word,
    /// Its word before the stack was armed, and after.
    pub before: Word,
    pub after: Word,
    /// Where these two lead: the same without what a signature puts into them.
    pub returns_to: Word,
    pub leads_to: Word,
    pub exit_trampoline: String,
    /// The outermost frames, which a complete backtrace ends with.
    pub outermost: Vec<String>,
}

#[derive(Serialize)]
pub struct Chapter {
    pub title: &'static str,
    pub text: &'static str,
    /// The number of its first step.
    pub first: usize,
}

#[derive(Serialize)]
pub struct Step {
    pub chapter: usize,
    /// The instruction that will be executed next.
    pub pc: Word,
    pub place: String,
    /// What has just happened, and why.
    pub what: String,
    pub why: String,
    /// Instructions before this step that the film leaves out.
    pub skipped: Option<Skipped>,
    pub registers: Vec<Word>,
    /// Numbers of the registers that differ from the step before.
    pub changed: Vec<usize>,
    /// Words of the stack, the highest address first. There can be gaps.
    pub words: Vec<StackWord>,
    pub listing: Option<usize>,
    /// Code of another place that is shown as well: its listing, and the address in it.
    pub other: Option<(usize, Word)>,
    pub backtrace: Vec<usize>,
    /// Whether the backtrace leads through the exit trampoline to the outermost frame.
    pub complete: bool,
    /// How the backtrace ended.
    pub ended: String,
    pub record: Option<RecordShown>,
    /// Whether it is one of the pictures of the page without scripts.
    pub key: bool,
}

#[derive(Serialize, Clone)]
pub struct Skipped {
    /// How many, if they were counted; they are not where the child ran at full speed.
    pub instructions: Option<u64>,
    /// The functions that most of them belong to, with their numbers.
    pub functions: Vec<(String, u64)>,
}

#[derive(Serialize, Clone)]
pub struct StackWord {
    pub at: Word,
    pub word: Word,
    /// Its name, if it has one: `foot`.
    pub name: Option<String>,
    /// What the word is.
    pub note: String,
    /// The class of what it is, for colours.
    pub class: &'static str,
    pub changed: bool,
}

#[derive(Serialize, PartialEq, Eq, Hash, Clone)]
pub struct Listing {
    pub function: String,
    pub lines: Vec<Line>,
}

#[derive(Serialize, PartialEq, Eq, Hash, Clone)]
pub struct Line {
    pub at: Word,
    pub bytes: String,
    pub text: String,
    #[serde(skip)]
    pub flow: Flow,
}

/// Where an instruction leads.
#[derive(PartialEq, Eq, Hash, Clone, Copy, Debug)]
pub enum Flow {
    On,
    Call,
    Return,
    Jump,
}

/// A frame of a backtrace, and how the next one is found from it.
#[derive(Serialize, PartialEq, Eq, Hash, Clone)]
pub struct Frame {
    pub pc: Word,
    pub name: String,
    /// The address by which the row was looked up: the program counter, or one less.
    pub looked_up: Word,
    pub row: Option<Row>,
}

/// The row of the unwind table, evaluated.
#[derive(Serialize, PartialEq, Eq, Hash, Clone)]
pub struct Row {
    /// The range of its FDE, and of the row in it.
    pub function: [Word; 2],
    pub range: [Word; 2],
    pub cfa: Rule,
    pub return_address: Rule,
    pub registers: Vec<(&'static str, Rule)>,
}

#[derive(Serialize, PartialEq, Eq, Hash, Clone)]
pub struct Rule {
    pub rule: String,
    /// The rule with the numbers put in, and its result.
    pub numbers: String,
    pub value: Option<Word>,
    /// An expression's operations, each with the stack of numbers after it.
    pub expression: Vec<(String, Vec<Word>)>,
}

/// The record of the armed stack, as it is in the child's memory.
#[derive(Serialize, Clone)]
pub struct RecordShown {
    pub at: Word,
    /// The stack map's entry for the page of the base.
    pub entry: Option<(Word, Word, Word)>,
    pub fields: Vec<(&'static str, Word, String)>,
}

/// Equal items once, each with its number.
pub struct Pool<T> {
    items: Vec<T>,
    numbers: HashMap<T, usize>,
}

impl<T: Eq + Hash + Clone> Pool<T> {
    pub fn new() -> Self {
        Self { items: Vec::new(), numbers: HashMap::new() }
    }

    pub fn number(&mut self, item: T) -> usize {
        if let Some(&number) = self.numbers.get(&item) {
            return number;
        }
        self.items.push(item.clone());
        self.numbers.insert(item, self.items.len() - 1);
        self.items.len() - 1
    }

    pub fn get(&self, number: usize) -> &T {
        &self.items[number]
    }

    pub fn into_items(self) -> Vec<T> {
        self.items
    }
}
