//! The film in a terminal.

use super::page::next_line;
use super::recording::{Recording, Step};
use crate::paint::{FAINT, MARK, OURS, THEIRS, TITLE, paint};
use anstream::{print, println};
use std::io::{self, BufRead, IsTerminal, Write};

/// Plays it: step by step if somebody can press keys, all of it at once elsewhere.
pub fn play(recording: &Recording) -> io::Result<()> {
    let machine = &recording.machine;
    println!(
        "{}  {}",
        paint(TITLE, &recording.title),
        paint(FAINT, format!("{}, {}", machine.processor, machine.libc))
    );
    println!("{}", recording.about);
    if !io::stdin().is_terminal() || !io::stdout().is_terminal() {
        (0..recording.steps.len()).for_each(|number| show(recording, number));
        return Ok(());
    }
    let mut lines = io::stdin().lock().lines();
    let mut number = 0;
    loop {
        show(recording, number);
        print!("{}", paint(FAINT, "Enter: on, b: back, a number: that step, q: end > "));
        io::stdout().flush()?;
        let Some(line) = lines.next() else { return Ok(()) };
        let last = recording.steps.len() - 1;
        match line?.trim() {
            "q" => return Ok(()),
            "b" => number = number.saturating_sub(1),
            "" if number == last => return Ok(()),
            "" => number += 1,
            other => match other.parse::<usize>() {
                Ok(wanted) if (1..=last + 1).contains(&wanted) => number = wanted - 1,
                _ => println!("The steps are 1 to {}.", last + 1),
            },
        }
    }
}

fn show(recording: &Recording, number: usize) {
    let step = &recording.steps[number];
    let chapter = &recording.chapters[step.chapter];
    if chapter.first == number {
        println!("\n{}  {}", paint(TITLE, chapter.title), paint(FAINT, chapter.text));
    }
    println!("\n{} {}", paint(MARK, format!("step {}", number + 1)), step.what);
    if !step.why.is_empty() {
        println!("  {}", step.why);
    }
    words(recording, step);
    println!("  {} {}", paint(FAINT, format!("{} ", step.pc)), paint(MARK, next_line(recording, step)));
    let names: Vec<_> = step.backtrace.iter().map(|&frame| recording.frames[frame].name.as_str()).collect();
    println!("  {} {}", paint(FAINT, "backtrace:"), names.join(" ← "));
}

fn words(recording: &Recording, step: &Step) {
    let sp = step.registers.get(1).map_or(0, |sp| sp.0);
    let mut last: Option<u64> = None;
    for word in &step.words {
        if let Some(gap) = last.map(|last| last - word.at.0).filter(|gap| *gap > 8) {
            println!("    {}", paint(FAINT, format!("⋮ {} bytes", gap - 8)));
        }
        last = Some(word.at.0);
        let mark = if word.changed { "*" } else { " " };
        let pointer = if word.at.0 == sp { format!(" ◀ {}", recording.registers[1]) } else { String::new() };
        let style = match word.class {
            "ours" => OURS,
            "theirs" => THEIRS,
            "dead" => FAINT,
            _ => anstyle::Style::new(),
        };
        let name = word.name.clone().unwrap_or_default();
        println!(
            "  {mark} {} {} {}{pointer} {}",
            word.at,
            paint(style, format!("{:016x}", word.word.0)),
            paint(MARK, name),
            paint(FAINT, &word.note)
        );
    }
}
