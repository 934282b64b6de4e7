//! The camera: takes shots of the stopped thread, and moves it on, step by step or faster.

use super::actor::Facts;
use super::goroutine::stack::Goroutine;
use super::objects::AddressSpace;
use super::processor::{self, Registers};
use super::record::{self, RecordAt};
use super::recording::{Flow, Line, Listing, Pool, RecordShown, Skipped, Word};
use super::result::Result;
use super::tracee::Tracee;
use super::unwinder::{self, Backtrace};
use std::collections::HashMap;

/// The words from the foot on that a film watches: the exit trampoline's frame is smaller.
const WATCHED: usize = 64;

/// Steps after which a call that has not returned ends the film.
const PATIENCE: u64 = 20_000_000;

/// The state of the stack at one instruction.
pub struct Shot {
    pub chapter: usize,
    pub registers: Registers,
    /// Words of the stack by their addresses, in parts.
    pub parts: Vec<(u64, Vec<u64>)>,
    pub backtrace: Backtrace,
    /// The listing's number, if there is code.
    pub listing: Option<usize>,
    /// The same of another place: its listing, and its address.
    pub other: Option<(usize, u64)>,
    pub skipped: Option<Skipped>,
    pub record: Option<RecordShown>,
}

impl Shot {
    pub fn word(&self, at: u64) -> Option<u64> {
        let (start, words) =
            self.parts.iter().find(|(start, words)| (*start..start + 8 * words.len() as u64).contains(&at))?;
        words.get(((at - start) / 8) as usize).copied()
    }
}

/// Whether the last instruction of what is left out gets a shot.
#[derive(PartialEq, Eq)]
pub enum Last {
    Shown,
    LeftOut,
}

/// A chapter's title, and what it is about.
#[derive(Clone, Copy)]
pub struct Heading {
    pub title: &'static str,
    pub text: &'static str,
}

pub struct Camera {
    tracee: Tracee,
    pub space: AddressSpace,
    pub facts: Facts,
    pub shots: Vec<Shot>,
    pub listings: Pool<Listing>,
    pub chapters: Vec<(Heading, usize)>,
    /// The foot's address, once it is known.
    pub foot: Option<u64>,
    /// What is known of a filmed goroutine.
    pub goroutine: Option<Goroutine>,
    record: Option<RecordAt>,
    /// Another place whose code is shown.
    looks_at: Option<u64>,
    /// What has been left out since the last shot.
    skipped: Option<Skipped>,
}

impl Camera {
    pub fn new(tracee: Tracee, facts: Facts) -> Result<Self> {
        let trampolines = facts.trampolines.iter().map(|(name, at, _)| (*at, name.clone())).collect();
        let space = AddressSpace::of(tracee.process(), tracee.is_emulated(), trampolines)?;
        Ok(Self {
            tracee,
            space,
            facts,
            shots: Vec::new(),
            listings: Pool::new(),
            chapters: Vec::new(),
            foot: None,
            goroutine: None,
            record: None,
            looks_at: None,
            skipped: None,
        })
    }

    /// The next shots belong to this chapter.
    pub fn chapter(&mut self, heading: Heading) {
        self.chapters.push((heading, self.shots.len()));
    }

    pub fn registers(&self) -> Result<Registers> {
        self.tracee.registers()
    }

    pub fn word(&self, at: u64) -> Option<u64> {
        self.tracee.word(at)
    }

    pub fn set_word(&self, at: u64, word: u64) -> Result<()> {
        self.tracee.set_word(at, word)
    }

    /// Whether an emulator's stub has the hold. It cannot stop one thread while another one runs.
    pub fn is_emulated(&self) -> bool {
        self.tracee.is_emulated()
    }

    /// From now on only the filmed thread runs.
    pub fn freeze_others(&mut self) -> Result<()> {
        self.tracee.freeze_others()
    }

    /// Takes a shot of the present state.
    pub fn shoot(&mut self) -> Result<()> {
        let registers = self.registers()?;
        self.shoot_as(registers, &HashMap::new())
    }

    /// Takes a shot as it would have been with these registers, and with these words of memory.
    fn shoot_as(&mut self, registers: Registers, instead: &HashMap<u64, u64>) -> Result<()> {
        let tracee = &self.tracee;
        let read = |at: u64| instead.get(&at).copied().or_else(|| tracee.word(at));
        let sp = registers.sp() & !7;
        let foot = self.foot.unwrap_or(sp);
        let mut parts = vec![(foot - 8 * 6, WATCHED + 6), (sp - 16, 20)];
        parts.sort_unstable();
        // One part, where they overlap.
        if let [(low, low_count), (high, high_count)] = parts[..]
            && high <= low + 8 * low_count as u64
        {
            let end = (low + 8 * low_count as u64).max(high + 8 * high_count as u64);
            parts = vec![(low, ((end - low) / 8) as usize)];
        }
        let parts = parts
            .into_iter()
            .map(|(at, count)| (at, (0..count as u64).map_while(|number| read(at + 8 * number)).collect()))
            .collect();
        let backtrace = unwinder::backtrace(&self.space, &registers, &read);
        let record = match &self.goroutine {
            Some(goroutine) => goroutine.record(&read),
            None => self.record.as_ref().map(|record| record.shown(&read)),
        };
        let row = backtrace.frames.first().and_then(|frame| frame.shown.row.as_ref());
        let range = row.map(|row| (row.function[0].0, row.function[1].0));
        let listing = match range {
            Some(range) => self.listing(registers.pc(), range),
            None => self.without_table(registers.pc()),
        };
        let other = self.looks_at.and_then(|at| {
            let range = unwinder::function_range(self.space.file(at)?, at)?;
            Some((self.listing(at, range)?, at))
        });
        let chapter = self.chapters.len() - 1;
        let skipped = self.skipped.take();
        self.shots.push(Shot { chapter, registers, parts, backtrace, listing, other, skipped, record });
        Ok(())
    }

    /// From now on the code at this address is shown as well.
    pub fn look_at(&mut self, address: Option<u64>) {
        self.looks_at = address;
    }

    /// The function at an address, by the range of its unwind table.
    fn listing(&mut self, address: u64, (mut start, end): (u64, u64)) -> Option<usize> {
        let mut lines = Vec::new();
        if let Some(data) = self.data_of_trampoline(start, end) {
            let bytes = self.tracee.bytes(start, (data - start) as usize)?;
            lines.push(Line {
                at: Word(start),
                bytes: bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" "),
                text: format!("{} bytes of data, which the unwind table covers", data - start),
                flow: Flow::On,
            });
            start = data;
        }
        let code = self.tracee.bytes(start, (end - start) as usize)?;
        let name = |address: u64| self.space.file(address).map(|_| self.space.place(address));
        lines.extend(processor::disassemble(&code, start, &name));
        let function = self.space.name(address);
        Some(self.listings.number(Listing { function, lines }))
    }

    /// Code that no unwind table covers, up to its first jump.
    fn without_table(&mut self, pc: u64) -> Option<usize> {
        let code = self.tracee.bytes(pc, 64)?;
        let mut lines = processor::disassemble(&code, pc, &|_| None);
        let end = lines.iter().position(|line| line.flow != Flow::On)?;
        lines.truncate(end + 1);
        Some(self.listings.number(Listing { function: self.space.place(pc), lines }))
    }

    /// Where the code of one of exeunt's trampolines begins, behind its data (`asm/`: 8 bytes).
    fn data_of_trampoline(&self, start: u64, end: u64) -> Option<u64> {
        let is_trampoline = self.space.function(start).is_some_and(|(name, _)| name == "exeunt_trampoline");
        (is_trampoline && end - start <= 64).then_some(start + 8)
    }

    /// The instruction that is executed next.
    pub fn line(&self) -> Result<Line> {
        let pc = self.registers()?.pc();
        let code = self.tracee.bytes(pc, 16).ok_or("code that cannot be read")?;
        processor::disassemble(&code, pc, &|_| None).into_iter().next().ok_or_else(|| "no instruction".into())
    }

    /// Executes one instruction, and takes a shot.
    pub fn step(&mut self) -> Result<()> {
        self.tracee.step()?;
        self.shoot()
    }

    /// Executes one instruction, and takes no shot.
    pub fn pass(&mut self) -> Result<()> {
        self.tracee.step()
    }

    /// Runs at full speed to `address`, and takes a shot there.
    pub fn run_to(&mut self, address: u64, lowest: u64) -> Result<()> {
        self.go_to(address, lowest)?;
        self.skipped = Some(Skipped { instructions: None, functions: Vec::new() });
        self.shoot()
    }

    /// Runs at full speed to `address`, and takes no shot.
    pub fn go_to(&mut self, address: u64, lowest: u64) -> Result<()> {
        self.tracee.run_to(address, lowest)?;
        self.space.read_mappings()
    }

    /// The instructions of a range of code.
    pub fn lines(&self, range: std::ops::Range<u64>) -> Vec<Line> {
        let code = self.tracee.bytes(range.start, (range.end - range.start) as usize).unwrap_or_default();
        processor::disassemble(&code, range.start, &|_| None)
    }

    /// The instruction before the address that an exit trampoline's call returns to.
    pub fn call_before(&self, returns_to: u64) -> Option<u64> {
        let file = self.space.file(returns_to)?;
        let (start, end) = unwinder::function_range(file, returns_to - 1)?;
        let lines = self.lines(start..end);
        let behind = lines.iter().position(|line| line.at == Word(returns_to))?;
        lines.get(behind.checked_sub(1)?).filter(|line| line.flow == Flow::Call).map(|line| line.at.0)
    }

    /// Finds the foot by unwinding: the word that holds the return address into an exit trampoline.
    pub fn find_foot(&mut self) -> Result<Option<u64>> {
        let registers = self.registers()?;
        let backtrace = unwinder::backtrace(&self.space, &registers, &|at| self.tracee.word(at));
        let is_trampoline = |pc: u64| self.facts.trampolines.iter().any(|(_, at, unwound)| *at == pc && !unwound);
        let Some(outer) = backtrace.frames.iter().position(|frame| is_trampoline(frame.pc)) else {
            let frames: Vec<_> = backtrace.frames.iter().map(|frame| frame.shown.name.as_str()).collect();
            return Err(format!(
                "unwinding does not lead to a known exit trampoline, but to {}. {}",
                frames.join(", "),
                backtrace.ended
            )
            .into());
        };
        let entry = outer.checked_sub(1).and_then(|entry| backtrace.frames.get(entry));
        self.foot = entry.and_then(|entry| entry.return_address_at);
        Ok(self.foot)
    }

    /// Executes instructions without shots until `until` holds. Where a word from the foot on
    /// changes, it takes one shot before that instruction and one after it.
    pub fn silently(&mut self, last: Last, until: impl Fn(&Registers) -> bool) -> Result<()> {
        let foot = self.foot.ok_or("the foot is not known")?;
        let mut before = self.registers()?;
        let mut words = self.tracee.words(foot, WATCHED);
        let mut count = 0;
        let mut functions: HashMap<u64, u64> = HashMap::new();
        for _ in 0..PATIENCE {
            self.tracee.step()?;
            let now = self.registers()?;
            let words_now = self.tracee.words(foot, WATCHED);
            if words_now != words {
                let instead =
                    words.iter().enumerate().map(|(number, word)| (foot + 8 * number as u64, *word)).collect();
                self.skipped = skipped(&self.space, count, &mut functions);
                self.shoot_as(before, &instead)?;
                self.look_for_record(foot)?;
                self.shoot()?;
                count = 0;
            } else {
                count += 1;
                if let Some(beginning) = self.space.beginning(before.pc()) {
                    *functions.entry(beginning).or_default() += 1;
                }
            }
            if until(&now) {
                if last == Last::Shown && count > 0 {
                    self.skipped = skipped(&self.space, count - 1, &mut functions);
                    self.shoot_as(before, &HashMap::new())?;
                } else {
                    self.skipped = skipped(&self.space, count, &mut functions);
                }
                return Ok(());
            }
            (before, words) = (now, words_now);
        }
        Err("the film does not come to an end".into())
    }

    fn look_for_record(&mut self, foot: u64) -> Result<()> {
        if self.record.is_none() {
            // Arming can have mapped the memory that the stack map's entry is in.
            self.space.read_mappings()?;
            let word = self.tracee.word(foot).unwrap_or_default();
            self.record = record::find(self.space.data(), foot, word, &|at, count| self.tracee.bytes(at, count));
        }
        Ok(())
    }

    /// Lets the child go on to its end.
    pub fn finish(self) -> Result<(Film, i32)> {
        let film = Film {
            space: self.space,
            facts: self.facts,
            shots: self.shots,
            listings: self.listings,
            chapters: self.chapters,
            foot: self.foot.ok_or("the foot was not found")?,
            goroutine: self.goroutine,
        };
        Ok((film, self.tracee.finish()?))
    }
}

/// All that was shot.
pub struct Film {
    pub space: AddressSpace,
    pub facts: Facts,
    pub shots: Vec<Shot>,
    pub listings: Pool<Listing>,
    pub chapters: Vec<(Heading, usize)>,
    pub foot: u64,
    pub goroutine: Option<Goroutine>,
}

/// The five functions that most of the instructions belong to.
fn skipped(space: &AddressSpace, count: u64, functions: &mut HashMap<u64, u64>) -> Option<Skipped> {
    let named = std::mem::take(functions).into_iter().map(|(beginning, count)| (space.name(beginning), count));
    let mut functions: Vec<_> = named.collect();
    functions.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    functions.truncate(5);
    (count > 0).then_some(Skipped { instructions: Some(count), functions })
}
