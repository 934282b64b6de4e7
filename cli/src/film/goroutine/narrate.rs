//! Why each step of a goroutine's film happens.

use super::stack::Goroutine;
use crate::film::camera::{Film, Shot};
use crate::film::narrate::{change, line_of, registers, written};
use crate::film::recording::{Flow, Line};
use crate::film::words::Roles;

pub fn why(film: &Film, goroutine: &Goroutine, roles: &Roles, former: Option<&Shot>, shot: &Shot) -> String {
    let Some(former) = former else {
        return "The scheduler has chosen this goroutine. Its function gogo has loaded the stack pointer, which is at the \
                foot. The word there is the address of the second byte of runtime.goexit, as if runtime.goexit had \
                called the entry function. The next instruction jumps to the entry function."
            .to_owned();
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
    let reason = words_written(&line, goroutine, former, shot)
        .or_else(|| branch(film, roles, &line, former, shot))
        .or_else(|| instruction(film, &line, former, shot))
        .or_else(|| value(goroutine, former, shot))
        .or_else(|| frame(&line));
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
    written(line, former, shot).iter().find_map(|(at, _)| match end.wrapping_sub(*at) {
        8 => Some(
            "This is the record's index. It is no pointer, because the collector does not look for pointers here. If the \
             stack grows and is moved, the runtime copies this word as well.",
        ),
        16 => Some(
            "This is the check word. Memory of a stack is used again without being cleared, so an index alone could be \
             an old one. From now on the goroutine has a record.",
        ),
        24 => Some("Where a frame goes on that recovers a panic. Nothing has been recovered."),
        32 => Some(
            "How far from the base the nearest frame is that has recovered a panic: none has. By these two words \
             exeunt.Ending tells a handler whether the entry function has recovered one.",
        ),
        _ => None,
    })
}

fn branch(film: &Film, roles: &Roles, line: &Line, former: &Shot, shot: &Shot) -> Option<&'static str> {
    let function = |shot: &Shot| film.space.name(shot.registers.pc());
    let (from, to) = (function(former), function(shot));
    let is_hook = |name: &str| name.contains(".returnHook");
    match line.flow {
        Flow::Call if film.facts.sites.iter().any(|site| site.address == former.registers.pc()) => Some(
            "Without the module this call would lead to runtime.goexit1. It leads to the hook. The word that was the \
             foot holds the call's return address now. That is the runtime's own, in runtime.goexit, so walks of this \
             stack find nothing unknown.",
        ),
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
        Flow::Return if former.registers.sp() == roles.foot => Some(
            "The function has no part in this. Its ret takes the foot's word as ever. That word leads to the second byte \
             of runtime.goexit, behind a nop. The nop is there because walks look up a return address minus one. The \
             instruction here is the one that the module has changed.",
        ),
        Flow::Jump if shot.registers.pc() == film.facts.begin => Some(
            "This is the entry function of the goroutine. The stack pointer is at the foot, as after a call, and the \
             backtrace is complete: it has this function and runtime.goexit.",
        ),
        Flow::Jump if is_hook(&from) && is_hook(&to) && from != to => Some(
            "The rest of the hook is a function of its own, because it needs a frame. It is not executed at the ends of \
             goroutines without a record.",
        ),
        Flow::Jump if from == "runtime.goexit1" && line.text.starts_with("jmp") && begins(film, shot) => Some(
            "The call led to a wrapper with this name, since assembly calls by another convention than compiled code. \
             This is the function itself.",
        ),
        Flow::Jump if is_hook(&from) && line.text.starts_with("je") => Some(
            "The words are equal, so this goroutine may have a record. If they were not, the next jump would lead to \
             runtime.goexit1: that is all that other goroutines pay.",
        ),
        Flow::Return if from.ends_with(".setSpareWords") => Some("The goroutine is armed. Its foot is as it was."),
        _ => None,
    }
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
            Some("This is g, the descriptor of the running goroutine. Thread-local storage has its address.")
        } else if value == goroutine.stack.end {
            Some("This is g.stack.hi: the base of the stack. It lies five words above the foot's address.")
        } else if secret.is_some_and(|(_, check, _)| check.0 == value) {
            Some("The result is what the check word holds.")
        } else {
            None
        }
    })
}

fn instruction(film: &Film, line: &Line, former: &Shot, shot: &Shot) -> Option<&'static str> {
    let function = film.space.name(former.registers.pc());
    let text = line.text.as_str();
    let sets_flags = text.starts_with("cmp");
    if sets_flags && text.contains("(%r14)") && text.contains("%rsp") {
        return Some(
            "Most of Go's functions begin with this: is there room on the stack? r14 is g, and the word in g is the \
             stack's limit. If there is no room, the runtime copies the stack to a larger place.",
        );
    }
    let behind = former.registers.pc() + line.bytes.split(' ').count() as u64;
    if line.flow == Flow::Jump && text.starts_with("jbe") && shot.registers.pc() == behind {
        return Some("There is room, so the function goes on.");
    }
    if text.contains("xmm15") {
        return Some("Compiled Go code expects zero in this register, and assembly does not keep it so.");
    }
    if function.contains(".returnHook") && sets_flags {
        return Some("The hook compares its result with the check word on the stack.");
    }
    if (function.contains(".returnHook") || function.ends_with(".setSpareWords")) && text.starts_with("add") {
        return Some(
            "g + index: two goroutines never have the same. So a check word that an earlier goroutine has left does not \
             fit this one.",
        );
    }
    if text.starts_with("push") && text.contains("%rbp") {
        return Some("The caller's frame pointer is kept, as in C programs that are compiled with frame pointers.");
    }
    if text.contains("%fs:") && text.ends_with(", %r14") {
        return Some("Compiled Go code expects g in r14, and assembly does not keep it there.");
    }
    if function == "main.entry" && text.starts_with("lea") {
        return Some("This is the argument of the next call: the function value of the exit handler.");
    }
    if function.ends_with(".setSpareWords") && text.contains("(%rsp), %rax") {
        return Some("This is the argument: the record's index. Go's assembly gets its arguments on the stack.");
    }
    match function.as_str() {
        "runtime.mcall" => in_mcall(text),
        "runtime.goexit1" if text.starts_with("cmpb") => Some("Is an execution trace being recorded? It is not."),
        "runtime.goexit1" if text.starts_with("lea") => {
            Some("This is the argument of the next call: the function value of runtime.goexit0.")
        }
        _ => None,
    }
}

/// The instructions of `runtime.mcall` in Go 1.22 to 1.27.
fn in_mcall(text: &str) -> Option<&'static str> {
    let has = |begin: &str, end: &str| text.starts_with(begin) && text.ends_with(end);
    if has("mov %", "(%r14)") {
        return Some("mcall keeps in g where the goroutine will go on. This one never will.");
    }
    if has("mov ", "(%r14), %rbx") {
        return Some("This is g.m: the runtime's descriptor of the thread.");
    }
    if has("mov (%rbx)", "%rsi") {
        return Some("This is m.g0: the descriptor of the stack on which the runtime works.");
    }
    if has("cmp %r14", "%rsi") {
        return Some("mcall must not be called on that stack.");
    }
    if has("mov %r14", "%rax") {
        return Some("The goroutine's descriptor becomes the argument of runtime.goexit0.");
    }
    if has("mov %rsi", "%r14") {
        return Some("From now on g is that of the other stack.");
    }
    None
}

/// What the beginnings and the ends of Go's functions have.
fn frame(line: &Line) -> Option<&'static str> {
    let text = line.text.as_str();
    if text.starts_with("sub") && text.ends_with("%rsp") {
        return Some("This is the room of the function's frame.");
    }
    if text.starts_with("mov %rsp") && text.ends_with("%rbp") {
        return Some("This is the frame pointer of the running function.");
    }
    if text.starts_with("add") && text.ends_with("%rsp") {
        return Some("The room of the frame is given up.");
    }
    if text.starts_with("pop") {
        return Some("The caller's frame pointer is back.");
    }
    if text == "nop" {
        return Some("It does nothing. Go's compiler marks the places of inlined calls with such instructions.");
    }
    None
}
