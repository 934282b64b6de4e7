//! The stacks of this process: a thread, a fiber, the main thread. Each copies itself, and is armed
//! then, so that the picture can show what was really written.

use super::process::{Process, WORD};
use super::registers::with_registers;
use super::snapshot::{Own, Snapshot};
use crate::stacks::{HAS_FIBERS, foot, on_a_fiber, on_a_thread};
use exeunt::Stack;

/// Copies the stacks of this process, which must have one thread that runs `main`.
pub fn all() -> Result<Vec<Snapshot>, String> {
    // Before the copies, so that recognition does not leave its words on them.
    let survey = exeunt::survey().map_err(|error| error.to_string())?;
    let of_this = move |title: &'static str, key: &'static str| move || here(title, key, survey.shadow_stack);
    let mut snapshots = vec![on_a_thread(of_this("a thread of this process", "thread"))??];
    if HAS_FIBERS {
        snapshots.push(on_a_fiber(of_this("a makecontext fiber of this process", "fiber"))??);
    }
    snapshots.push(of_this("the main thread of this process", "main")()?);
    Ok(snapshots)
}

/// Copies the running stack, and arms it.
#[inline(never)]
fn here(title: &str, key: &str, shadow_stack: bool) -> Result<Snapshot, String> {
    // Unwinding is learned here, and not between the copy and the arming.
    let foot = foot().map_err(|error| error.to_string());
    let copied = with_registers(|registers| {
        let process = Process::own();
        let start = registers.stack_pointer() & !(WORD - 1);
        let mapping = process.map.mapping(start).ok_or("the stack is in no mapping")?;
        // The frames behind the foot are small; a fiber's memory can have anything behind its base.
        let end = foot.as_ref().map_or(mapping.range.end, |foot| foot.address + 4096).min(mapping.range.end);
        let words = process.words(start..end).ok_or("the stack cannot be read")?;
        Ok::<_, &str>((registers, start, words))
    });
    let (registers, start, words) = copied?;
    let armed = exeunt::at_exit(|| ()).map_err(|error| error.to_string());
    let armed = armed.and_then(|()| match Stack::current().foot() {
        Some(foot) => Ok(foot.word),
        None => Err("the armed stack's foot was not found".to_owned()),
    });
    let own = Some(Own { foot, armed });
    Ok(Snapshot { title: title.to_owned(), key: key.to_owned(), registers, start, words, shadow_stack, own })
}
