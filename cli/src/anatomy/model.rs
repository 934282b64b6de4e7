//! The anatomy of one stack: its frames, its foot, and the class of each of its words.

use super::exits::{Exits, Foot};
use super::objects::Object;
use super::process::{Memory, Process, WORD};
use super::registers::{RETURN_ADDRESS, Registers, name};
use super::snapshot::Snapshot;
use super::unwind::{Step, step};
use super::verdict::{Verdict, verdict};
use crate::memory_map::without_signature;
use std::collections::HashMap;
use std::ops::Range;

/// What a word of a stack is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Class {
    Foot,
    ReturnAddress,
    SavedRegister,
    ThisStack,
    Heap,
    Code,
    Data,
    Zero,
    Other,
}

impl Class {
    pub const ALL: [Self; 9] = [
        Self::Foot,
        Self::ReturnAddress,
        Self::SavedRegister,
        Self::ThisStack,
        Self::Heap,
        Self::Code,
        Self::Data,
        Self::Zero,
        Self::Other,
    ];

    /// What a legend says of it.
    pub fn about(self) -> &'static str {
        match self {
            Self::Foot => "the entry function's return address, into the exit trampoline",
            Self::ReturnAddress => "where a function goes on when the one that it called returns",
            Self::SavedRegister => "a register of the caller, kept here by the unwind table's word",
            Self::ThisStack => "an address on this stack",
            Self::Heap => "an address in the heap, or in memory without a file",
            Self::Code => "an address of code that is no return address of a frame",
            Self::Data => "an address in a file's data, or on another stack",
            Self::Zero => "no bit is set",
            Self::Other => "no address: a number, text, anything",
        }
    }

    /// Its name in styles.
    pub fn id(self) -> &'static str {
        match self {
            Self::ReturnAddress => "return",
            Self::SavedRegister => "saved",
            Self::ThisStack => "stack",
            _ => self.name(),
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Foot => "foot",
            Self::ReturnAddress => "return address",
            Self::SavedRegister => "saved register",
            Self::ThisStack => "this stack",
            Self::Heap => "heap",
            Self::Code => "code",
            Self::Data => "data",
            Self::Zero => "zero",
            Self::Other => "other",
        }
    }

    /// Whether a word of this class says nothing of how the stack is built.
    pub fn says_nothing(self) -> bool {
        matches!(self, Self::Zero | Self::Other)
    }
}

/// One word.
pub struct Word {
    pub address: usize,
    pub value: usize,
    pub class: Class,
    /// What it is or leads to.
    pub meaning: String,
}

/// One frame.
pub struct Frame {
    /// Its function and the place in it.
    pub name: String,
    /// The term of the documentation for it.
    pub role: Option<&'static str>,
    /// The row of its unwind table, or why there is none.
    pub row: String,
    /// Its words, lowest address first: up to its return address and what the caller pushed.
    pub words: Vec<Word>,
}

/// A stack, described.
pub struct Anatomy {
    pub title: String,
    pub stack_pointer: usize,
    /// Innermost first, to the entry function; or all, if no foot was found.
    pub frames: Vec<Frame>,
    /// The frames behind the foot.
    pub outer: Vec<Frame>,
    pub foot: Option<Foot>,
    /// How the walk ended.
    pub end: String,
    pub verdict: Verdict,
}

/// Frames that are walked at most.
const MOST_FRAMES: usize = 4096;

struct Walked {
    registers: Registers,
    step: Result<Step, String>,
    is_return: bool,
}

/// Describes a copied stack.
pub fn anatomy(process: &Process, objects: &[Object], exits: &Exits, snapshot: &Snapshot) -> Anatomy {
    let memory = Memory { process, start: snapshot.start, words: &snapshot.words };
    let walked = walk(&memory, objects, snapshot);
    let mut names: Vec<_> =
        walked.iter().map(|frame| place(process, objects, frame.registers.pc, frame.is_return)).collect();
    let exit = exits.find(objects, &walked.iter().map(|frame| frame.registers.pc).collect::<Vec<_>>(), &names);
    if let Some((at, exit)) = &exit {
        // Its return address can be its first byte, before which another function ends.
        let name = place(process, objects, walked[*at].registers.pc, false);
        names[*at] = if name.starts_with(&exit.name) { name } else { exit.name.clone() };
    }
    let ours = |at: usize| short(&names[at]) == "exeunt_trampoline";
    // Of an armed stack the frame inside of the exit trampoline's is exeunt's trampoline.
    let armed = exit.as_ref().is_some_and(|(at, _)| *at > 1 && ours(at - 1));
    let entry = exit.as_ref().and_then(|(at, _)| at.checked_sub(1 + usize::from(armed)));
    let foot_at = entry.and_then(|entry| walked[entry].step.as_ref().ok()?.return_address_at);
    let foot = foot_at
        .zip(exit.clone())
        .and_then(|(address, (_, exit))| Some(Foot { address, word: memory.word(address)?, exit, armed }));
    let classes = Classes { process, objects, range: stack_range(process, snapshot, foot.as_ref()), foot: foot_at };
    let caller = |at: usize| names.get(at + 1).map_or("the caller", |name| short(name));
    let mut known = HashMap::new();
    for (at, frame) in walked.iter().enumerate() {
        let Ok(step) = &frame.step else { continue };
        for &(address, register) in &step.saved {
            known.insert(address, (Class::SavedRegister, format!("{} of {}", name(register), caller(at))));
        }
        if let (Some(address), Ok(_)) = (step.return_address_at, &step.caller) {
            let to = names.get(at + 1).map_or("", String::as_str);
            known.insert(address, (Class::ReturnAddress, format!("to {to}")));
        }
    }
    let drawn = entry.map_or(walked.len(), |entry| entry + 1);
    let mut start = snapshot.start;
    let mut frames = Vec::new();
    for (at, frame) in walked.iter().enumerate() {
        let end = match &frame.step {
            // Behind the foot are words of the exit trampoline.
            Ok(_) if Some(at) == entry => foot_at.map_or(start, |foot| foot + WORD),
            Ok(step) => step.cfa,
            // Where unwinding ends without a foot, some words show how it looks there.
            Err(_) => (start + 16 * WORD).min(snapshot.start + snapshot.words.len() * WORD),
        };
        let words = if at < drawn { classes.words(&memory, start..end.max(start), &known) } else { Vec::new() };
        start = end.max(start);
        let role = match () {
            () if exit.as_ref().is_some_and(|(exit, _)| *exit == at) => Some("exit trampoline"),
            () if Some(at) == entry => Some("entry function"),
            () if ours(at) => Some("trampoline of exeunt"),
            () => None,
        };
        let row = match &frame.step {
            Ok(step) => step.row.clone(),
            Err(problem) => problem.clone(),
        };
        frames.push(Frame { name: names[at].clone(), role, row, words });
    }
    let outer = frames.split_off(drawn);
    let end = match walked.last().map(|frame| &frame.step) {
        Some(Ok(Step { caller: Err(end), .. }) | Err(end)) => end.clone(),
        _ => format!("{MOST_FRAMES} frames were walked, and there are more"),
    };
    let verdict = verdict(snapshot, foot.as_ref(), objects, exits, &end);
    Anatomy { title: snapshot.title.clone(), stack_pointer: snapshot.start, frames, outer, foot, end, verdict }
}

fn walk(memory: &Memory, objects: &[Object], snapshot: &Snapshot) -> Vec<Walked> {
    let mut walked: Vec<Walked> = Vec::new();
    let mut registers = snapshot.registers.clone();
    if cfg!(target_arch = "x86_64") {
        // Unwind tables have a column for it, which no register of the processor is.
        registers.set(RETURN_ADDRESS, Some(registers.pc));
    }
    let mut is_return = false;
    while walked.len() < MOST_FRAMES {
        let object = find(objects, registers.pc);
        let mut made = step(memory, object, &registers, is_return);
        // An outer frame is at a higher address, or at the same one if it stores nothing.
        if let Ok(made) = &mut made {
            let same = made.caller.as_ref().is_ok_and(|caller| caller.pc == registers.pc);
            if made.cfa < registers.stack_pointer() || (made.cfa == registers.stack_pointer() && same) {
                made.caller = Err(format!("the next frame would be at {:#x}, which is no outer one", made.cfa));
            }
        }
        if let Ok(Step { caller, .. }) = &mut made
            && let Ok(Registers { pc, .. }) = caller
            && memory.process.map.mapping(*pc).is_none_or(|mapping| !mapping.executable)
        {
            *caller = Err(format!("the return address leads to no code: {pc:#x}"));
        }
        let next = made.as_ref().ok().and_then(|step| step.caller.clone().ok());
        let signal = object.and_then(|object| object.row(registers.pc)).is_some_and(|row| row.is_signal_frame);
        walked.push(Walked { registers, step: made, is_return });
        let Some(next) = next else { break };
        registers = next;
        is_return = !signal;
    }
    walked
}

fn find(objects: &[Object], address: usize) -> Option<&Object> {
    objects.iter().find(|object| object.contains(address))
}

/// The function that a code address is in, or its place in a file.
fn place(process: &Process, objects: &[Object], address: usize, is_return: bool) -> String {
    let Some(object) = find(objects, address) else {
        return match process.map.mapping(address) {
            Some(mapping) if mapping.executable => format!("code in no file, {address:#x}"),
            _ => format!("no code, {address:#x}"),
        };
    };
    // A call can be a function's last instruction, and then the return address is behind it.
    match object.function(address - usize::from(is_return)) {
        Some((function, distance)) => {
            let distance = distance + usize::from(is_return);
            if distance == 0 { function } else { format!("{function}+{distance:#x}") }
        }
        None => format!("{}+{:#x}", object.name(), address.wrapping_sub(object.bias)),
    }
}

/// A function's name without the distance from its start.
fn short(name: &str) -> &str {
    name.rsplit_once("+0x").map_or(name, |(function, _)| function)
}

/// The addresses that count as this stack.
fn stack_range(process: &Process, snapshot: &Snapshot, foot: Option<&Foot>) -> Range<usize> {
    let mapping = process.map.mapping(snapshot.start).map(|mapping| mapping.range.clone()).unwrap_or_default();
    // A fiber's memory can be part of a larger mapping.
    let end = foot.map_or(mapping.end, |foot| (foot.address + WORD).min(mapping.end).max(snapshot.start));
    let is_whole = foot.is_none_or(|foot| foot.exit.name != "__start_context");
    mapping.start..if is_whole { mapping.end } else { end }
}

struct Classes<'p> {
    process: &'p Process,
    objects: &'p [Object],
    range: Range<usize>,
    foot: Option<usize>,
}

impl Classes<'_> {
    fn words(&self, memory: &Memory, range: Range<usize>, known: &HashMap<usize, (Class, String)>) -> Vec<Word> {
        let addresses = (range.start..range.end).step_by(WORD);
        let described = addresses.map_while(|address| Some((address, memory.word(address)?)));
        let word = |(address, value)| {
            let (class, meaning) = known.get(&address).cloned().unwrap_or_else(|| self.of_value(value));
            let class = if Some(address) == self.foot { Class::Foot } else { class };
            let signed = without_signature(value) != value && matches!(class, Class::Foot | Class::ReturnAddress);
            let meaning = if signed { format!("{meaning}, signed") } else { meaning };
            Word { address, value, class, meaning }
        };
        described.map(word).collect()
    }

    fn of_value(&self, value: usize) -> (Class, String) {
        if value == 0 {
            return (Class::Zero, String::new());
        }
        if self.range.contains(&value) {
            return (Class::ThisStack, String::new());
        }
        let Some(mapping) = self.process.map.mapping(value) else { return (Class::Other, text_of(value)) };
        match mapping.what.as_str() {
            _ if mapping.executable => (Class::Code, place(self.process, self.objects, value, false)),
            "[heap]" => (Class::Heap, String::new()),
            "[stack]" => (Class::Data, "the main thread's stack".to_owned()),
            what if what.is_empty() || what.starts_with("[anon") => (Class::Heap, "anonymous memory".to_owned()),
            what => (Class::Data, format!("of {}", what.rsplit('/').next().unwrap_or(what))),
        }
    }
}

/// The text that a word's bytes are, if all of them are characters; otherwise a small number.
fn text_of(value: usize) -> String {
    let bytes = value.to_le_bytes();
    let length = bytes.iter().position(|&byte| byte == 0).unwrap_or(WORD);
    let is_text = bytes[..length].iter().all(|byte| byte.is_ascii_graphic() || *byte == b' ');
    if length >= 4 && is_text && bytes[length..].iter().all(|&byte| byte == 0) {
        return format!("{:?}", String::from_utf8_lossy(&bytes[..length]));
    }
    if (value as isize).unsigned_abs() < 1 << 20 { format!("{}", value as isize) } else { String::new() }
}
