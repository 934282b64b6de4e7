//! What each word of the stack is.

use super::camera::{Film, Shot};
use super::objects::AddressSpace;
use super::processor::{self, JUMP_BUFFER, LANDING_BELOW_SPARE};
use super::recording::{StackWord, Word};
use std::ops::Range;

/// What the words of the filmed stack mean, from the whole film.
pub struct Roles {
    pub foot: u64,
    /// The foot's word before the stack was armed, and after.
    pub before: u64,
    pub after: u64,
    /// The word that keeps the original return address.
    pub spare: Option<u64>,
    /// The landing's program counter, in the `jmp_buf` of the exit trampoline's frame.
    pub landing: Option<u64>,
    /// Words from the foot on that change.
    changing: Vec<u64>,
    /// The memory that the stack is in.
    memory: Range<u64>,
}

impl Roles {
    pub fn of(film: &Film) -> Option<Self> {
        let foot = film.foot;
        let mut before = None;
        let mut after = None;
        // Once the entry function has returned, other calls use this word.
        let begun = film.shots.iter().position(|shot| in_frame(foot, shot)).unwrap_or_default();
        let lives = film.shots.iter().skip(begun).take_while(|shot| in_frame(foot, shot));
        for word in lives.filter_map(|shot| shot.word(foot)) {
            let is_trampoline =
                |word| film.facts.trampolines.iter().any(|(_, at, unwound)| *at == processor::plain(word) && !unwound);
            if before.is_none() && is_trampoline(word) {
                before = Some(word);
            }
            if after.is_none() && before.is_some_and(|before| before != word) {
                after = Some(word);
            }
        }
        let before = before?;
        let after = after.unwrap_or(before);
        let mut changing = Vec::new();
        let mut spare = None;
        let mut landing = None;
        let goroutine = film.goroutine.as_ref();
        for pair in film.shots.windows(2) {
            for number in 0..64 {
                let at = foot + 8 * number;
                // Behind a goroutine's base another object of the heap follows.
                if goroutine.is_some_and(|goroutine| at >= goroutine.stack.end) {
                    break;
                }
                let (Some(was), Some(is)) = (pair[0].word(at), pair[1].word(at)) else { continue };
                if was == is || !in_frame(at, &pair[1]) {
                    continue;
                }
                changing.push(at);
                if at > foot && is == processor::plain(before) {
                    spare = Some(at);
                }
            }
        }
        changing.sort_unstable();
        changing.dedup();
        // A rehearsal on the same stack may have left it there.
        let armed = film.shots.iter().find(|shot| after != before && shot.word(foot) == Some(after));
        let kept = armed.and_then(|shot| {
            let mut words = (1..64).map(|number| foot + 8 * number);
            words.find(|&at| shot.word(at) == Some(processor::plain(before)))
        });
        let spare = spare.or(kept);
        if let Some(spare) = spare {
            landing = spare.checked_sub(8 * LANDING_BELOW_SPARE).filter(|at| changing.contains(at));
        }
        let memory = match goroutine {
            Some(goroutine) => goroutine.stack.clone(),
            None => film.space.mapping(foot).map_or(foot..foot, |mapping| mapping.range.clone()),
        };
        Some(Self { foot, before, after, spare, landing, changing, memory })
    }

    fn name(&self, at: u64) -> Option<String> {
        if at == self.foot {
            return Some("foot".to_owned());
        }
        if Some(at) == self.spare {
            return Some("spare word".to_owned());
        }
        let landing = self.landing?;
        let found = JUMP_BUFFER.iter().find(|(words, _)| landing.wrapping_add_signed(8 * words) == at);
        found.map(|(_, name)| (*name).to_owned())
    }

    /// The words of one shot that are shown: around the stack pointer, around the foot, and those
    /// that change in the film. The highest first.
    pub fn words(&self, film: &Film, shot: &Shot, former: Option<&Shot>) -> Vec<StackWord> {
        let sp = shot.registers.sp() & !7;
        let mut shown: Vec<u64> = (0..8).map(|number| sp + 8 * number).collect();
        shown.push(sp - 8);
        shown.extend((0..7).map(|number| self.foot - 8 * 3 + 8 * number));
        shown.extend(&self.changing);
        let landing = self.landing.into_iter();
        let words = landing.flat_map(|at| JUMP_BUFFER.map(|(words, _)| at.wrapping_add_signed(8 * words)));
        shown.extend(words);
        shown.sort_unstable();
        shown.dedup();
        if let Some(goroutine) = &film.goroutine {
            // Once the goroutine has ended, the stack pointer is in another stack.
            shown.retain(|at| *at < goroutine.stack.end || sp >= goroutine.stack.end);
        }
        let kept = self.frame_pointers(film, shot);
        shown
            .into_iter()
            .rev()
            .filter_map(|at| {
                let word = shot.word(at)?;
                let (class, note) = if at < sp { ("dead", below(film, word)) } else { self.note(film, shot, at, word) };
                let (class, note) = match kept.iter().find(|(below, _)| *below == at) {
                    Some((_, of)) if at < sp => {
                        ("saved", format!("the caller's frame pointer, which {of} keeps below the stack pointer"))
                    }
                    Some((_, of)) => ("saved", format!("the caller's frame pointer, which {of} has saved")),
                    None => (class, note),
                };
                let its = film.goroutine.as_ref().and_then(|goroutine| goroutine.word(at, shot.record.is_some()));
                let (name, class, note) = match its {
                    Some((name, note)) => (Some(name.to_owned()), "number", note.to_owned()),
                    None => (self.name(at), class, note),
                };
                let changed = former.and_then(|former| former.word(at)).is_some_and(|was| was != word);
                Some(StackWord { at: Word(at), word: Word(word), name, note, class, changed })
            })
            .collect()
    }

    /// Words below stack pointers in which a goroutine's functions keep frame pointers, and the
    /// functions.
    fn frame_pointers(&self, film: &Film, shot: &Shot) -> Vec<(u64, String)> {
        let Some(goroutine) = &film.goroutine else { return Vec::new() };
        let lines = shot.listing.map_or(&[][..], |listing| &film.listings.get(listing).lines);
        let last = lines.iter().rev().find(|line| line.at.0 < shot.registers.pc());
        let has_kept = last.is_some_and(|line| line.text == "stur x29, [sp, #-8]");
        goroutine.frame_pointers(&shot.registers, &shot.backtrace.frames, has_kept)
    }

    /// The class of a word, and what it is.
    pub fn note(&self, film: &Film, shot: &Shot, at: u64, word: u64) -> (&'static str, String) {
        let space = &film.space;
        if word == self.after && self.after != self.before {
            return ("ours", format!("exeunt's trampoline: {}", place(space, word)));
        }
        if processor::plain(word) == processor::plain(self.before) {
            return ("theirs", format!("into the exit trampoline: {}", place(space, word)));
        }
        for frame in &shot.backtrace.frames {
            if frame.return_address_at == Some(at) {
                let of = space.name(frame.shown.looked_up.0);
                return ("return", format!("return address of {of}: {}", place(space, word)));
            }
            if let Some((register, _)) = frame.saved.iter().find(|(_, saved)| *saved == at) {
                let of = space.name(frame.shown.looked_up.0);
                return ("saved", format!("the caller's {register}, which {of} has saved"));
            }
        }
        if Some(at) == self.landing {
            return ("landing", "where pthread_exit jumps to; glibc has mangled it".to_owned());
        }
        if self.memory.contains(&word) {
            return ("stack", "an address of this stack".to_owned());
        }
        match space.mapping(processor::plain(word)) {
            Some(mapping) if mapping.executable => ("code", place(space, word)),
            Some(mapping) if mapping.what == "[heap]" => ("data", "an address of the heap".to_owned()),
            Some(mapping) if mapping.what.is_empty() => ("data", "an address of other memory".to_owned()),
            Some(mapping) => {
                let name = mapping.what.rsplit('/').next().unwrap_or_default();
                ("data", format!("data of {name}"))
            }
            None if word == 0 => ("zero", "zero".to_owned()),
            None if film.facts.result == Some(word) => ("result", "the entry function's result".to_owned()),
            None => ("number", "a number".to_owned()),
        }
    }
}

/// The place that a word leads to, and whether it is signed.
fn place(space: &AddressSpace, word: u64) -> String {
    let place = space.place(processor::plain(word));
    if word == processor::plain(word) { place } else { format!("{place}; signed") }
}

/// A word below the stack pointer.
fn below(film: &Film, word: u64) -> String {
    match film.space.mapping(processor::plain(word)) {
        Some(mapping) if mapping.executable => format!("below the stack pointer; was {}", place(&film.space, word)),
        _ => "below the stack pointer: free".to_owned(),
    }
}

/// Whether a word belongs to a frame: it is not below the stack pointer.
fn in_frame(at: u64, shot: &Shot) -> bool {
    at >= shot.registers.sp()
}
