//! What is filmed of a goroutine, and in which order.

use super::processor;
use crate::film::camera::{Camera, Heading};
use crate::film::recording::Flow;
use crate::film::result::Result;
use crate::film::script::{LONGEST, behind_line, to_call};
use std::time::Duration;

/// Goroutines that begin or go on before the filmed one.
const OTHERS: usize = 1000;

/// Instructions of the entry function until it has stored its return address, where calls keep it
/// in a register.
const PROLOGUE: usize = 16;

/// Milliseconds in which a lock of the runtime is free for a moment.
const LOCKING: usize = 2000;

const BEGINS: Heading = Heading { title: "The goroutine begins", text: processor::BEGINS };
const USES: Heading = Heading {
    title: "The first use changes code",
    text: "The entry function calls exeunt.AtExit, whose inner part, register, is the call here. It is the first use of \
           the module in this program, so it redirects the exits of all goroutines. The thread runs through that at \
           full speed. Before and after, runtime.goexit is shown beside the running function.",
};
const WORDS: Heading = Heading {
    title: "The spare words lead to the record",
    text: "The goroutine gets a record, and a function in assembly writes where it is into two words that the runtime \
           leaves free between the foot and the base.",
};
const RETURNS: Heading = Heading {
    title: "The entry function returns",
    text: "The handler is registered. The rest of the entry function follows, up to its last instruction.",
};
const GOEXIT: Heading = Heading {
    title: "runtime.goexit",
    text: "The entry function returns to where every goroutine's entry function returns.",
};
const HOOK: Heading = Heading {
    title: "The hook",
    text: "The changed call leads to the module's hook. It compares the check word. A goroutine without a record would \
           go on from here at once.",
};
const DRAIN: Heading = Heading {
    title: "The drain",
    text: "The handlers of the goroutine run, and its values are closed. The inside of the drain is fast-forwarded: the \
           thread runs at full speed to the handler, and from there to the drain's return.",
};
const ENDS: Heading = Heading {
    title: "runtime.goexit1 ends the goroutine",
    text: "The hook calls the function that runtime.goexit called before. From here on the runtime's code does what it \
           does at the end of every goroutine.",
};

/// Films it. Returns false if the goroutine was to be preempted at its beginning, or could be
/// later.
pub fn film(camera: &mut Camera) -> Result<bool> {
    let filmed = scenes(camera);
    if camera.is_emulated() && camera.word(part(camera)?.lock) == Some(0) {
        return Ok(false);
    }
    filmed
}

fn scenes(camera: &mut Camera) -> Result<bool> {
    let site = camera.facts.sites.first().ok_or("runtime.goexit has no call")?.address;
    camera.chapter(BEGINS);
    if !begin(camera)? {
        return Ok(false);
    }
    to_call(camera)?;

    let sp = camera.registers()?.sp();
    let behind = behind_line(camera)?;
    camera.chapter(USES);
    camera.look_at(Some(site));
    camera.step()?;
    let set_words = part(camera)?.set_words;
    camera.run_to(set_words, 0)?;
    if !on_stack(camera)? {
        return Err("the stack was moved while the module was installed, and this film follows no move".into());
    }
    camera.look_at(None);
    camera.chapter(WORDS);
    to_return(camera)?;
    camera.step()?;

    camera.chapter(RETURNS);
    camera.run_to(behind, sp)?;
    to_return(camera)?;
    camera.chapter(GOEXIT);
    camera.step()?;
    if camera.registers()?.pc() != site {
        return Err("the entry function does not return to the call in runtime.goexit".into());
    }
    camera.chapter(HOOK);
    camera.step()?;
    to_call(camera)?;

    let sp = camera.registers()?.sp();
    let behind = behind_line(camera)?;
    camera.chapter(DRAIN);
    camera.step()?;
    let handler = camera.facts.handler;
    camera.run_to(handler, 0)?;
    camera.run_to(behind, sp)?;
    camera.chapter(ENDS);
    for _ in 0..LONGEST {
        camera.step()?;
        if leaves(camera)? {
            return Ok(true);
        }
    }
    Err("the goroutine does not end".into())
}

/// Runs to the jump to the entry function, and stops all other threads there.
fn begin(camera: &mut Camera) -> Result<bool> {
    let entry = camera.facts.begin;
    match jump_of_gogo(camera)? {
        // All goroutines begin and go on by this jump.
        Some(jump) => {
            let mut is_filmed = false;
            for _ in 0..OTHERS {
                camera.go_to(jump, 0)?;
                is_filmed = camera.registers()?.columns().contains(&Some(entry));
                if is_filmed {
                    break;
                }
                camera.pass()?;
            }
            if !is_filmed {
                return Err("the goroutine does not begin".into());
            }
        }
        None => camera.go_to(entry, 0)?,
    }
    if camera.is_emulated() {
        hold_monitor(camera)?;
    } else {
        camera.freeze_others()?;
    }
    let registers = camera.registers()?;
    let mut goroutine = camera.goroutine.take().ok_or("no goroutine is filmed")?;
    let is_free = goroutine.begin(&registers, &|at| camera.word(at)).is_some();
    camera.goroutine = Some(goroutine);
    if !is_free {
        return Ok(false);
    }
    let is_stored = camera.find_foot()?.is_some();
    camera.shoot()?;
    camera.step()?;
    for _ in 0..PROLOGUE {
        if is_stored || camera.find_foot()?.is_some() {
            return Ok(true);
        }
        camera.step()?;
    }
    Err("the foot was not found".into())
}

/// Takes a lock that the runtime's thread sysmon needs to preempt goroutines, and never gives it
/// back. Compiled code takes it only to change the number of processors. If sysmon takes it in the
/// same moment, it unlocks it; [`film`] checks that.
fn hold_monitor(camera: &Camera) -> Result<()> {
    let lock = part(camera)?.lock;
    for _ in 0..LOCKING {
        if camera.word(lock) == Some(0) {
            return camera.set_word(lock, 1);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Err("the runtime's lock of processors is never free".into())
}

/// The last instruction of the runtime's `gogo`, if it is a jump.
fn jump_of_gogo(camera: &Camera) -> Result<Option<u64>> {
    let Some(range) = part(camera)?.gogo.clone() else { return Ok(None) };
    let lines = camera.lines(range);
    Ok(lines.iter().rfind(|line| line.flow == Flow::Jump).map(|line| line.at.0))
}

fn part(camera: &Camera) -> Result<&super::stack::Goroutine> {
    Ok(camera.goroutine.as_ref().ok_or("no goroutine is filmed")?)
}

fn on_stack(camera: &Camera) -> Result<bool> {
    Ok(part(camera)?.stack.contains(&camera.registers()?.sp()))
}

/// Whether the next instruction loads the stack pointer of another stack.
fn leaves(camera: &Camera) -> Result<bool> {
    let goroutine = part(camera)?;
    let is_other = goroutine.running(&camera.registers()?) != Some(goroutine.g);
    Ok(is_other && processor::leaves(&camera.line()?.text))
}

/// Steps to the return of the running function.
fn to_return(camera: &mut Camera) -> Result<()> {
    for _ in 0..LONGEST {
        match camera.line()?.flow {
            Flow::Return => return Ok(()),
            Flow::Call => return Err("this function calls another one".into()),
            Flow::On | Flow::Jump => camera.step()?,
        }
    }
    Err("this function does not return".into())
}
