//! Why each step of a goroutine's film happens.

use super::processor;
use super::stack::Goroutine;
use crate::film::camera::{Film, Shot};
use crate::film::narrate::{change, line_of, registers, written};
use crate::film::recording::{Flow, Line};
use crate::film::words::Roles;

pub fn why(film: &Film, goroutine: &Goroutine, roles: &Roles, former: Option<&Shot>, shot: &Shot) -> String {
    let Some(former) = former else {
        return processor::CHOSEN.to_owned();
    };
    let Some(line) = line_of(film, former) else { return String::new() };
    if shot.skipped.is_some() {
        return after_skip(film, goroutine, shot);
    }
    if std::ptr::eq(shot, film.shots.last().unwrap_or(former)) {
        return "The next instruction loads the stack pointer of another stack: that of g0, on which the runtime works. \
                There runtime.goexit0 marks the goroutine as dead, and puts its descriptor and its stack into a list, \
                for a goroutine that begins later. This is the last instruction on this stack."
            .to_owned();
    }
    let function = film.space.name(former.registers.pc());
    let jumped = shot.registers.pc() != former.registers.pc() + line.bytes.split(' ').count() as u64;
    let reason = words_written(&line, goroutine, former, shot)
        .or_else(|| branch(film, roles, &line, former, shot))
        .or_else(|| stored(roles, &line, former, shot))
        .or_else(|| processor::instruction(&function, &line, jumped))
        .or_else(|| value(goroutine, former, shot))
        .or_else(|| processor::frame(&line.text));
    reason.unwrap_or_default().to_owned()
}

fn after_skip(film: &Film, goroutine: &Goroutine, shot: &Shot) -> String {
    let pc = shot.registers.pc();
    if pc == goroutine.set_words {
        return format!(
            "In runtime.goexit, {} Calls in runtime.Goexit, runtime.main and others have changed in the same way. So all \
             ends of goroutines lead to a hook, also of those that other code starts. The foot is as it was. The \
             function here writes the spare words.",
            change(film, shot).unwrap_or_default()
        );
    }
    if pc == film.facts.handler {
        return "This is the exit handler, which exeunt.AtExit has registered. It runs on the goroutine's own stack. The \
                entry function is gone, but the backtrace still leads to runtime.goexit, through functions that Go's \
                tables describe: the collector and a traceback can walk it at any time."
            .to_owned();
    }
    if film
        .shots
        .iter()
        .take_while(|other| !std::ptr::eq(*other, shot))
        .any(|other| other.registers.pc() == film.facts.handler)
    {
        return "The drain is over. The handlers have run, the record is free for another goroutine, and the check word is \
                cleared."
            .to_owned();
    }
    "The handler is in the goroutine's record. Nothing else has changed for the code that runs here.".to_owned()
}

fn words_written(line: &Line, goroutine: &Goroutine, former: &Shot, shot: &Shot) -> Option<&'static str> {
    let end = goroutine.stack.end;
    let distances: Vec<u64> = written(line, former, shot).iter().map(|(at, _)| end.wrapping_sub(*at)).collect();
    processor::word_written(&distances)
}

fn branch(film: &Film, roles: &Roles, line: &Line, former: &Shot, shot: &Shot) -> Option<&'static str> {
    let function = |shot: &Shot| film.space.name(shot.registers.pc());
    let (from, to) = (function(former), function(shot));
    let is_hook = |name: &str| name.contains(".returnHook");
    match line.flow {
        Flow::Call if film.facts.sites.iter().any(|site| site.address == former.registers.pc()) => {
            Some(processor::HOOKED)
        }
        Flow::Call if is_hook(&from) && to.ends_with(".drainGoroutine") => Some(
            "The drain runs the handlers of this goroutine, last in first out, and closes its values. The film does not \
             step through it: it stops at the handler, and at the drain's return.",
        ),
        Flow::Call if to == "runtime.goexit1" => Some(
            "This is the function that runtime.goexit called before. It never returns, so the frame of the hook stays \
             where it is until the stack is given up.",
        ),
        Flow::Call if to == "runtime.mcall" => Some(
            "mcall goes to the stack on which the runtime works, and calls a function there: goexit0. This goroutine \
             cannot free its own stack while it runs on it.",
        ),
        Flow::Call if to.ends_with(".register") => {
            Some("The compiler has inlined exeunt.AtExit. What is left of it is this call of register.")
        }
        Flow::Return if shot.registers.pc() == roles.before => Some(processor::RETURNED),
        Flow::Jump if shot.registers.pc() == film.facts.begin => Some(processor::ENTERED),
        Flow::Jump if is_hook(&from) && is_hook(&to) && from != to => Some(
            "The rest of the hook is a function of its own, because it needs a frame. It is not executed at the ends of \
             goroutines without a record.",
        ),
        Flow::Jump if from == "runtime.goexit1" && is_jump(&line.text) && begins(film, shot) => Some(
            "The call led to a wrapper with this name, since assembly calls by another convention than compiled code. \
             This is the function itself.",
        ),
        Flow::Jump if is_hook(&from) && processor::is_branch_of_equal(&line.text) => Some(
            "The words are equal, so this goroutine may have a record. If they were not, the next jump would lead to \
             runtime.goexit1: that is all that other goroutines pay.",
        ),
        Flow::Return if from.ends_with(".setSpareWords") => Some("The goroutine is armed. Its foot is as it was."),
        _ => None,
    }
}

/// Why a function that has been called stores its return address, where calls keep it in a
/// register.
fn stored(roles: &Roles, line: &Line, former: &Shot, shot: &Shot) -> Option<&'static str> {
    let (_, word) = *written(line, former, shot).iter().find(|(at, _)| *at == roles.foot)?;
    (line.flow == Flow::On).then_some(if word == roles.before { processor::STORED } else { processor::REUSED })
}

/// A jump without a condition.
fn is_jump(text: &str) -> bool {
    text.starts_with("jmp") || text.starts_with("b ")
}

/// Whether the program counter is at a function's first instruction.
fn begins(film: &Film, shot: &Shot) -> bool {
    film.space.function(shot.registers.pc()).is_some_and(|(_, start)| start == shot.registers.pc())
}

/// By the value that a register has got.
fn value(goroutine: &Goroutine, former: &Shot, shot: &Shot) -> Option<&'static str> {
    let secret = shot.record.as_ref().and_then(|record| record.fields.iter().find(|(name, ..)| *name == "check word"));
    let changed = registers(former, shot);
    changed.iter().find_map(|&(_, value)| {
        if value == goroutine.g {
            Some(processor::FOUND_G)
        } else if value == goroutine.stack.end {
            Some(processor::FOUND_BASE)
        } else if secret.is_some_and(|(_, check, _)| check.0 == value) {
            Some("The result is what the check word holds.")
        } else {
            None
        }
    })
}
