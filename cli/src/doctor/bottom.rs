//! The bottom of a stack of each kind: whether unwinding gets there, and whether there are unwind tables.

use crate::fiber::{Fiber, Memory};
use crate::frames::{self, addresses, bottom};
use crate::places::{Places, without_signature};
use exeunt::{Error, FootInfo, Stack};
use serde::Serialize;
use std::ffi::c_void;

/// Arms the running stack, and compares what unwinding finds before and after: the same, and, under slot redirect, one
/// frame for the trampoline where the exit trampoline is called from.
#[inline(never)]
pub fn compare_armed() -> Result<String, Error> {
    let foot = foot()?;
    let before = addresses();
    exeunt::at_exit(|| ())?;
    let found = addresses();
    let word = Stack::current().foot().map_or(0, |foot| without_signature(foot.word));
    let exit = before.iter().position(|&pc| pc == foot.original);
    let mut expected = before;
    if let (Some(exit), Some(&here)) = (exit, found.first()) {
        // Innermost is this function, which looked from two places.
        expected[0] = here;
        if word != foot.original {
            expected.insert(exit, word);
        }
    }
    Ok(if exit.is_some() && found == expected {
        "complete".to_owned()
    } else {
        format!("found {found:x?}, expected {expected:x?}")
    })
}

/// What unwinding found on a stack before it was armed, to be compared with what it finds in a handler.
pub struct Before {
    foot: FootInfo,
    frames: Vec<usize>,
}

impl Before {
    #[inline(never)]
    pub fn arming() -> Result<Self, Error> {
        Ok(Self { foot: foot()?, frames: addresses() })
    }

    /// Compares: beyond the exit trampoline, the frames must be the same.
    #[inline(never)]
    pub fn in_handler(&self) -> String {
        let found = addresses();
        match (bottom(&found, &self.foot), bottom(&self.frames, &self.foot)) {
            (Some(bottom), Some(expected)) if bottom == expected => "complete".to_owned(),
            _ => format!("found {found:x?}, expected the end of {:x?}", self.frames),
        }
    }
}

/// The foot of the running stack, or why there is none.
fn foot() -> Result<FootInfo, Error> {
    let stack = Stack::current();
    stack.foot().cloned().ok_or_else(|| stack.problem().cloned().unwrap_or(Error::Busy))
}

/// Runs `code` on a thread of its own.
pub fn on_a_thread<R: Send + 'static>(code: impl FnOnce() -> R + Send + 'static) -> Result<R, String> {
    let thread = std::thread::Builder::new().spawn(code).map_err(|error| format!("no thread: {error}"))?;
    thread.join().map_err(|_| "the thread panicked".to_owned())
}

/// Runs `code` on a fiber of its own.
pub fn on_a_fiber<R: Send + 'static>(code: impl FnOnce() -> R + Send + 'static) -> Result<R, String> {
    let memory = Memory::map().map_err(|error| format!("no memory for a fiber: {error}"))?;
    let (sender, receiver) = std::sync::mpsc::channel();
    Fiber::on(&memory, move |_| {
        let _ = sender.send(code());
    })
    .resume();
    receiver.recv().map_err(|_| "the fiber did not come to its end".to_owned())
}

/// A frame at the bottom of a stack, from the entry function outwards.
#[derive(Serialize)]
pub struct BottomFrame {
    pub address: String,
    pub name: String,
    /// Whether there is an unwind table for it.
    pub table: bool,
}

/// The bottom of a stack of one kind.
#[derive(Serialize)]
pub struct BottomOfKind {
    pub kind: &'static str,
    pub frames: Vec<BottomFrame>,
    /// Why it was not found.
    pub problem: Option<String>,
}

/// The bottoms of a thread, a fiber where there are any, and the main thread: the last is the one that calls this.
pub fn all() -> Vec<BottomOfKind> {
    let made = |kind, found: Result<Result<Vec<BottomFrame>, String>, String>| match found.and_then(|found| found) {
        Ok(frames) => BottomOfKind { kind, frames, problem: None },
        Err(problem) => BottomOfKind { kind, frames: Vec::new(), problem: Some(problem) },
    };
    let thread = made("thread", on_a_thread(here));
    let fiber = cfg!(target_os = "linux").then(|| made("fiber", on_a_fiber(here)));
    [Some(thread), fiber, Some(made("main", Ok(here())))].into_iter().flatten().collect()
}

/// The bottom of the running stack.
fn here() -> Result<Vec<BottomFrame>, String> {
    let foot = foot().map_err(|error| error.to_string())?;
    let (frames, places) = (addresses(), Places::read());
    let exit = frames.iter().position(|&pc| pc == foot.original);
    let Some(entry) = exit.and_then(|exit| exit.checked_sub(1)) else {
        return Err(format!(
            "unwinding does not get to its exit trampoline, {} at {:#x}",
            foot.trampoline, foot.original
        ));
    };
    let frame = |frame: &frames::Frame| BottomFrame {
        address: format!("{:#x}", frame.pc),
        name: frames::name(frame, &foot, &places),
        table: has_table(frame.pc),
    };
    Ok(frames::named(&frames[entry..]).iter().map(frame).collect())
}

/// `struct dwarf_eh_bases` of libgcc's `unwind-dw2-fde.h`.
#[repr(C)]
struct Bases {
    text: usize,
    data: usize,
    function: usize,
}

unsafe extern "C" {
    /// Finds the unwind table entry for a program counter: libgcc's.
    safe fn _Unwind_Find_FDE(pc: usize, bases: &mut Bases) -> *const c_void;
}

/// Whether there is an unwind table for a return address. Unwinders look one before it: that is still in the call.
fn has_table(return_address: usize) -> bool {
    !_Unwind_Find_FDE(return_address - 1, &mut Bases { text: 0, data: 0, function: 0 }).is_null()
}
