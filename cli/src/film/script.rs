//! What is filmed of each kind of stack, and in which order.

use super::camera::{Camera, Heading, Last};
use super::kind::Kind;
use super::processor;
use super::recording::Flow;
use super::result::Result;

/// Instructions of one function that a film shows at most.
pub const LONGEST: usize = 400;

/// What is shown of the exit trampoline after the entry function's return.
const LAST: usize = 5;

const BEGINS: Heading = Heading {
    title: "The stack begins",
    text: "The system's code calls the entry function. The call writes the word that decides where the stack goes at \
           its end.",
};
const FOUND: Heading = Heading {
    title: "A function on the stack",
    text: "The stack has been running for a while when the film begins. Its foot is found by unwinding: it is the word \
           with the return address into the exit trampoline.",
};
const ARMING: Heading = Heading {
    title: "Arming",
    text: "The entry function calls exeunt::at_exit. Most of what happens in there is left out: exeunt unwinds the stack \
           to its foot, and prepares a record. Each instruction that changes a word from the foot on is shown.",
};
const RETURNS: Heading = Heading {
    title: "The entry function returns",
    text: "The rest of the entry function, up to its last instruction.",
};
const UNWINDS: Heading = Heading {
    title: "pthread_exit unwinds the stack",
    text: "pthread_exit runs the cleanups of each frame, from inside outwards, and then jumps to the landing. Most of \
           this is left out.",
};
const LANDS: Heading = Heading {
    title: "The landing leads to a trampoline",
    text: "The jump goes to a trampoline that stands for the landing, with the stack pointer at the base, as after a \
           return. It rebuilds a frame, and the common part is the same.",
};
const PATCHING: Heading = Heading {
    title: "Arming patches code",
    text: "The entry function calls exeunt::at_exit. The thread runs through it at full speed: stopping other processors \
           while code changes takes long. Before and after, the patched function is shown beside the running one.",
};
const GOES_ON: Heading = Heading {
    title: "The exit trampoline",
    text: "The entry function returns to where it would have returned without exeunt.",
};
const HOOK: Heading = Heading {
    title: "The hook",
    text: "The patched call leads to exeunt's hook, through a jump in its reach. The hook keeps all registers that \
           arguments can be in.",
};
const CALLED: Heading = Heading {
    title: "The function that was called",
    text: "The hook goes on to the function that the call led to before, by a jump. That function returns behind the call.",
};
const TRAMPOLINE: Heading = Heading {
    title: "The trampoline",
    text: "exeunt's own code: it rebuilds what the return has taken from the stack, and keeps the result.",
};
const DRAIN: Heading = Heading {
    title: "The drain",
    text: "The handlers of the stack run, and its values are dropped. The inside of the drain is fast-forwarded: the \
           thread runs at full speed to the handler, and from there to the drain's return.",
};
const RESULT: Heading = Heading {
    title: "The result comes back",
    text: "The trampoline puts everything back as it was when the entry function returned.",
};
const EXIT: Heading = Heading {
    title: "The real exit",
    text: "The trampoline returns into the exit trampoline, which ends the stack as if nothing had happened.",
};

pub fn film(kind: Kind, camera: &mut Camera) -> Result<()> {
    match kind {
        Kind::Thread => {
            camera.chapter(BEGINS);
            begin_with_call(camera)?;
            arm(camera)?;
            return_from_entry(camera)?;
        }
        Kind::Code => {
            camera.chapter(BEGINS);
            begin_with_call(camera)?;
            return code(camera);
        }
        Kind::Goroutine => return Err("a goroutine's film has a script of its own".into()),
        Kind::PthreadExit => {
            camera.chapter(BEGINS);
            begin_with_call(camera)?;
            arm(camera)?;
            leave_by(camera, UNWINDS, LANDS)?;
        }
        Kind::Main | Kind::Enter | Kind::Fiber => {
            camera.chapter(FOUND);
            begin_inside(camera)?;
            arm(camera)?;
            leave_by(camera, RETURNS, TRAMPOLINE)?;
        }
    }
    trampoline(camera)
}

/// Code redirect: the patch, the return into the exit trampoline, the patched call, the hook.
fn code(camera: &mut Camera) -> Result<()> {
    let site = camera.facts.sites.first().ok_or("this exit trampoline cannot be patched")?.address;
    to_call(camera)?;
    let sp = camera.registers()?.sp();
    let behind = behind_line(camera)?;
    camera.chapter(PATCHING);
    camera.look_at(Some(site));
    camera.step()?;
    camera.run_to(behind, sp)?;
    camera.look_at(None);
    camera.chapter(RETURNS);
    for _ in 0..LONGEST {
        let flow = camera.line()?.flow;
        if flow == Flow::Return {
            break;
        }
        if flow == Flow::Call { step_over(camera)? } else { camera.step()? }
    }
    camera.chapter(GOES_ON);
    camera.step()?;
    for _ in 0..LAST {
        if camera.registers()?.pc() != site {
            camera.step()?;
        }
    }
    if camera.registers()?.pc() != site {
        camera.silently(Last::LeftOut, |registers| registers.pc() == site)?;
        camera.shoot()?;
    }
    camera.chapter(HOOK);
    camera.step()?;
    drain(camera)?;
    for _ in 0..LONGEST {
        let flow = camera.line()?.flow;
        if flow == Flow::Jump {
            camera.chapter(CALLED);
        }
        camera.step()?;
        if flow == Flow::Jump {
            return Ok(());
        }
    }
    Err("the hook does not go on to the function that was called before".into())
}

/// Begins inside of an inner function.
fn begin_inside(camera: &mut Camera) -> Result<()> {
    let begin = camera.facts.begin;
    camera.go_to(begin, 0)?;
    if camera.find_foot()?.is_none() {
        return Err("the foot was not found".into());
    }
    camera.shoot()
}

/// Leaves the running function and its callers, until the stack pointer is at the base. Only the
/// last instruction is shown.
fn leave_by(camera: &mut Camera, on_the_way: Heading, there: Heading) -> Result<()> {
    camera.chapter(on_the_way);
    let foot = camera.foot.ok_or("the foot is not known")?;
    camera.step()?;
    camera.silently(Last::Shown, |registers| registers.sp() > foot)?;
    if processor::LINK_REGISTER.is_none() {
        camera.chapter(there);
        return camera.shoot();
    }
    // The stack pointer is at the base before the function returns, or longjmp jumps.
    camera.shoot()?;
    for _ in 0..LONGEST {
        let leaves = camera.line()?.flow != Flow::On;
        if leaves {
            camera.chapter(there);
        }
        camera.step()?;
        if leaves {
            return Ok(());
        }
    }
    Err("the entry function does not end".into())
}

/// Begins with the exit trampoline's call of the entry function.
fn begin_with_call(camera: &mut Camera) -> Result<()> {
    let returns_to = camera.facts.trampolines.iter().find(|(name, _, unwound)| name == "start_thread" && !unwound);
    let returns_to = returns_to.ok_or("start_thread was not recognised")?.1;
    match camera.call_before(returns_to) {
        Some(call) => {
            camera.go_to(call, 0)?;
            camera.shoot()?;
            camera.step()?;
        }
        None => {
            let begin = camera.facts.begin;
            camera.go_to(begin, 0)?;
            camera.shoot()?;
        }
    }
    // Some processors keep the return address in a register until the function stores it.
    for _ in 0..8 {
        if camera.find_foot()?.is_some() {
            return Ok(());
        }
        camera.step()?;
    }
    Err("the entry function stores its return address nowhere".into())
}

/// Steps through the running function until it calls another one, and through that one silently.
/// What it changes from the foot on is shown.
fn arm(camera: &mut Camera) -> Result<()> {
    for _ in 0..LONGEST {
        if camera.line()?.flow == Flow::Call {
            camera.chapter(ARMING);
            return step_over(camera);
        }
        camera.step()?;
    }
    Err("the filmed function arms nothing".into())
}

/// A call: its first instruction is shown, and the one that it returns to.
fn step_over(camera: &mut Camera) -> Result<()> {
    let sp = camera.registers()?.sp();
    let behind = behind_line(camera)?;
    camera.step()?;
    camera.silently(Last::LeftOut, |registers| registers.pc() == behind && registers.sp() >= sp)?;
    camera.shoot()
}

/// The address behind the next instruction.
pub fn behind_line(camera: &Camera) -> Result<u64> {
    let line = camera.line()?;
    Ok(line.at.0 + line.bytes.split(' ').count() as u64)
}

/// Steps to the return of the entry function, and through it.
fn return_from_entry(camera: &mut Camera) -> Result<()> {
    camera.chapter(RETURNS);
    for _ in 0..LONGEST {
        let line = camera.line()?;
        match line.flow {
            Flow::Return => {
                camera.chapter(TRAMPOLINE);
                return camera.step();
            }
            Flow::Call => step_over(camera)?,
            Flow::On | Flow::Jump => camera.step()?,
        }
    }
    Err("the entry function does not return".into())
}

/// From a trampoline or a hook through the drain that it calls, to the instruction behind that call.
fn drain(camera: &mut Camera) -> Result<()> {
    to_call(camera)?;
    let sp = camera.registers()?.sp();
    let behind = behind_line(camera)?;
    camera.chapter(DRAIN);
    camera.step()?;
    let handler = camera.facts.handler;
    camera.run_to(handler, 0)?;
    camera.chapter(RESULT);
    camera.run_to(behind, sp)
}

/// The trampoline, from its label to its return, and what comes then.
fn trampoline(camera: &mut Camera) -> Result<()> {
    drain(camera)?;
    for _ in 0..LONGEST {
        if camera.line()?.flow == Flow::Return {
            camera.chapter(EXIT);
            camera.step()?;
            return exit_trampoline(camera);
        }
        camera.step()?;
    }
    Err("the trampoline does not return".into())
}

pub fn to_call(camera: &mut Camera) -> Result<()> {
    for _ in 0..LONGEST {
        if camera.line()?.flow == Flow::Call {
            return Ok(());
        }
        camera.step()?;
    }
    Err("this function calls nothing".into())
}

/// A few instructions of the exit trampoline, up to its next call or return.
fn exit_trampoline(camera: &mut Camera) -> Result<()> {
    for _ in 0..LAST {
        if matches!(camera.line()?.flow, Flow::Call | Flow::Return) {
            break;
        }
        camera.step()?;
    }
    Ok(())
}
