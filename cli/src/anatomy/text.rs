//! The picture in a terminal.

use super::fold::{Extent, Line, lines, summary};
use super::model::{Anatomy, Class, Frame, Word};
use super::verdict::Redirect;
use crate::paint::{BAD, FAINT, GOOD, MARK, OURS, THEIRS, TITLE, padded, paint, shortened};
use anstream::println;
use anstyle::{AnsiColor, Style};

const NAME: usize = 70;

fn style(class: Class) -> Style {
    match class {
        Class::Foot => MARK,
        Class::ReturnAddress => THEIRS,
        Class::SavedRegister => AnsiColor::Cyan.on_default(),
        Class::ThisStack => AnsiColor::Blue.on_default(),
        Class::Heap => AnsiColor::Green.on_default(),
        Class::Code | Class::Data | Class::Other => Style::new(),
        Class::Zero => FAINT,
    }
}

pub fn print(anatomy: &Anatomy, extent: Extent) {
    println!("\n{}", paint(TITLE, &anatomy.title));
    if !anatomy.outer.is_empty() {
        println!("  {}", paint(FAINT, "frames of the system, behind the foot"));
        anatomy.outer.iter().rev().for_each(heading);
    }
    println!("  {}", paint(FAINT, "address          word               class            meaning"));
    let (frames, left_out) = extent.frames(anatomy);
    for frame in frames.iter().rev() {
        heading(frame);
        for line in lines(&frame.words, extent) {
            match line {
                Line::Word(word) => print_word(word),
                Line::Folded(words) => println!("      {}", paint(FAINT, format!("⋮ {}", summary(&words)))),
            }
        }
    }
    if let Some(left_out) = left_out {
        println!("  {}", paint(FAINT, format!("⋮ {left_out}")));
    }
    println!("    {:#014x} {}", anatomy.stack_pointer, paint(FAINT, "◂ stack pointer"));
    match &anatomy.foot {
        Some(foot) => {
            let armed = if foot.armed { "exeunt's trampoline, then " } else { "" };
            println!("  {}{:#x}, leads to {armed}{}", padded(MARK, "foot", 15), foot.address, foot.exit.name);
        }
        None => println!("  {:15}{}", "foot", paint(BAD, format!("not found: {}", anatomy.end))),
    }
    redirect("slot redirect", &anatomy.verdict.slot);
    redirect("code redirect", &anatomy.verdict.code);
}

fn heading(frame: &Frame) {
    let name = shortened(&frame.name, NAME);
    match frame.role {
        Some(role) => {
            let style = match role {
                "entry function" => MARK,
                "exit trampoline" => THEIRS,
                _ => OURS,
            };
            println!("  ─ {} {}", paint(style, name), paint(style, format!("◂ {role}")));
        }
        None => println!("  ─ {name}"),
    }
    println!("      {}", paint(FAINT, &frame.row));
}

fn print_word(word: &Word) {
    let style = style(word.class);
    let mark = if word.class == Class::Foot { paint(MARK, "▸").to_string() } else { " ".to_owned() };
    println!(
        "  {mark} {} {} {} {}",
        paint(FAINT, format!("{:#014x}", word.address)),
        paint(style, format!("{:016x}", word.value)),
        padded(style, word.class.name(), 16),
        shortened(&word.meaning, NAME)
    );
}

fn redirect(name: &str, redirect: &Redirect) {
    let (style, verdict) = match redirect.possible {
        Some(true) => (GOOD, "yes"),
        Some(false) => (BAD, "no"),
        None => (FAINT, "open"),
    };
    println!("  {name:15}{}: {}", paint(style, verdict), redirect.text);
}
