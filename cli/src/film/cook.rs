//! From what was shot to the recording.

use super::camera::{Film, Heading, Shot};
use super::goroutine;
use super::kind::Kind;
use super::narrate;
use super::processor::{self, REGISTERS};
use super::recording::{Chapter, Listing, Machine, Pool, Recording, StackShown, Step, Word};
use super::result::Result;
use super::words::Roles;
use crate::machine;
use std::collections::BTreeSet;

/// Lines of a listing that are kept around each one that is executed.
const AROUND: usize = 12;

pub fn recording(kind: Kind, mut film: Film) -> Result<Recording> {
    let roles = Roles::of(&film).ok_or("the film does not show the foot before the stack is armed")?;
    let outermost = outermost(&film, &roles).ok_or("no backtrace leads through the exit trampoline")?;
    let mut frames = Pool::new();
    let mut steps = Vec::new();
    for (number, shot) in film.shots.iter().enumerate() {
        let former = number.checked_sub(1).map(|former| &film.shots[former]);
        let what = narrate::what(&film, &roles, former, shot);
        let why = match &film.goroutine {
            Some(goroutine) => goroutine::narrate::why(&film, goroutine, &roles, former, shot),
            None => narrate::why(&film, &roles, former, shot, film.shots.get(number + 1)),
        };
        let registers = shot.registers.all();
        let changed = former.map_or_else(Vec::new, |former| {
            let pairs = former.registers.all().into_iter().zip(&registers);
            pairs.enumerate().filter(|(_, (was, is))| was != *is).map(|(number, _)| number).collect()
        });
        let complete = match &film.goroutine {
            Some(_) => ends_in(&film, shot, roles.before),
            None => shot.backtrace.frames.len() >= outermost.len() && outer(shot, outermost.len()) == outermost,
        };
        let is_first = film.chapters.iter().any(|(_, first)| *first == number);
        let changes_foot = former.is_some_and(|former| former.word(roles.foot) != shot.word(roles.foot));
        steps.push(Step {
            chapter: shot.chapter,
            pc: Word(shot.registers.pc()),
            place: film.space.place(shot.registers.pc()),
            what,
            why,
            skipped: shot.skipped.clone(),
            registers,
            changed,
            words: roles.words(&film, shot, former),
            listing: shot.listing,
            other: shot.other.map(|(listing, at)| (listing, Word(at))),
            backtrace: shot.backtrace.frames.iter().map(|frame| frames.number(frame.shown.clone())).collect(),
            complete,
            ended: shot.backtrace.ended.clone(),
            record: shot.record.clone(),
            key: is_first || changes_foot || number + 1 == film.shots.len(),
        });
    }
    let exit_trampoline = film.facts.trampolines.iter().find(|(_, at, _)| *at == processor::plain(roles.before));
    let exit_trampoline = exit_trampoline.map(|(name, ..)| name.clone()).unwrap_or_default();
    let chapters = chapters(&film);
    let mut outermost_names: Vec<_> = outermost.iter().map(|pc| film.space.name(pc.wrapping_sub(1))).collect();
    if film.goroutine.is_some() {
        outermost_names.push(exit_trampoline.clone());
    }
    let visited = film.shots.iter().flat_map(|shot| [Some(shot.registers.pc()), shot.other.map(|(_, at)| at)]);
    let visited: BTreeSet<u64> = visited.flatten().collect();
    let pool = std::mem::replace(&mut film.listings, Pool::new());
    let libc = machine::libc();
    let kernel = machine::kernel();
    Ok(Recording {
        version: 1,
        kind: kind.name(),
        title: kind.title().to_owned(),
        about: kind.about().to_owned(),
        machine: Machine {
            processor: processor::NAME,
            system: format!("{} {}", kernel.system, kernel.release),
            libc: match &film.goroutine {
                Some(goroutine) => format!("{}, without libc", goroutine.version),
                None => format!("{} {}", libc.name, libc.version),
            },
            exeunt: env!("CARGO_PKG_VERSION"),
            redirect: kind.redirect(),
        },
        stack: StackShown {
            foot: Word(roles.foot),
            before: Word(roles.before),
            after: Word(roles.after),
            returns_to: Word(processor::plain(roles.before)),
            leads_to: Word(processor::plain(roles.after)),
            exit_trampoline,
            outermost: outermost_names,
        },
        registers: REGISTERS.to_vec(),
        chapters,
        steps,
        listings: pool.into_items().into_iter().map(|listing| shortened(listing, &visited)).collect(),
        frames: frames.into_items(),
    })
}

/// The return addresses of the outermost frames from the exit trampoline on, outermost last.
fn outermost(film: &Film, roles: &Roles) -> Option<Vec<u64>> {
    let original = processor::plain(roles.before);
    film.shots.iter().find_map(|shot| {
        let frames = &shot.backtrace.frames;
        let exit = frames.iter().position(|frame| frame.pc == original)?;
        // The exit trampoline itself moves on when the entry function has returned.
        (exit > 0).then(|| frames[exit + 1..].iter().map(|frame| frame.pc).collect())
    })
}

/// Whether the outermost frame is in the function that this address leads into.
fn ends_in(film: &Film, shot: &Shot, address: u64) -> bool {
    let function = |at: u64| film.space.function(at).map(|(_, start)| start);
    let last = shot.backtrace.frames.last();
    last.is_some_and(|last| function(last.shown.looked_up.0) == function(address.wrapping_sub(1)))
}

fn outer(shot: &Shot, count: usize) -> Vec<u64> {
    let frames = &shot.backtrace.frames;
    frames[frames.len().saturating_sub(count)..].iter().map(|frame| frame.pc).collect()
}

fn chapters(film: &Film) -> Vec<Chapter> {
    let chapter =
        |(heading, first): &(Heading, usize)| Chapter { title: heading.title, text: heading.text, first: *first };
    film.chapters.iter().map(chapter).collect()
}

/// The lines of a listing that are near an executed one.
fn shortened(listing: Listing, visited: &BTreeSet<u64>) -> Listing {
    let executed: Vec<usize> =
        listing.lines.iter().enumerate().filter(|(_, line)| visited.contains(&line.at.0)).map(|(at, _)| at).collect();
    let is_near = |at: usize| executed.iter().any(|&executed| executed.abs_diff(at) <= AROUND);
    let lines = listing.lines.into_iter().enumerate().filter(|&(at, _)| is_near(at)).map(|(_, line)| line).collect();
    Listing { function: listing.function, lines }
}
