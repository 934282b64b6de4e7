//! The bottom of a stack of each kind: whether unwinding gets there, and whether there are unwind tables.

use crate::fiber::{Fiber, Memory};
use crate::frames::{self, addresses};
use crate::places::{Places, without_signature};
use exeunt::{Error, FootInfo, Stack};
use serde::Serialize;
use std::ffi::c_void;

/// What unwinding found on a stack before it was armed, to be compared with what it finds later.
pub struct Completeness {
    foot: FootInfo,
    /// Return addresses, innermost first.
    frames: Vec<usize>,
}

impl Completeness {
    /// To be called by the function that calls `armed` later.
    #[inline(never)]
    pub fn before() -> Result<Self, Error> {
        let stack = Stack::current();
        let Some(foot) = stack.foot().cloned() else { return Err(stack.problem().cloned().unwrap_or(Error::Busy)) };
        Ok(Self { foot, frames: addresses(&frames::walk()) })
    }

    /// From the exit trampoline on: what is the same in the whole life of a stack.
    fn bottom<'f>(&self, frames: &'f [usize]) -> Option<&'f [usize]> {
        frames.iter().position(|&pc| pc == self.foot.original).map(|exit| &frames[exit..])
    }

    /// Compares the frames of this stack, which is armed by now: the same, and one for the trampoline in between.
    #[inline(never)]
    pub fn armed(&self) -> String {
        let frames = addresses(&frames::walk());
        let word = Stack::current().foot().map_or(0, |foot| without_signature(foot.word));
        let (Some(bottom), Some(bottom_before)) = (self.bottom(&frames), self.bottom(&self.frames)) else {
            return format!("the exit trampoline {:#x} is not in it: {frames:x?}", self.foot.original);
        };
        let inner = &frames[..frames.len() - bottom.len()];
        let inner_before = &self.frames[..self.frames.len() - bottom_before.len()];
        let Some((&trampoline, entry)) = inner.split_last() else { return format!("it is too short: {frames:x?}") };
        // The frames of the two functions that looked, and of closures between them, differ.
        let entry_function = (entry.last(), inner_before.last());
        if trampoline != word {
            format!("{trampoline:#x} is where the trampoline {word:#x} was expected: {frames:x?}")
        } else if entry_function.0 != entry_function.1 || bottom != bottom_before {
            format!("it is {frames:x?}, and was {:x?}", self.frames)
        } else {
            "complete".to_owned()
        }
    }

    /// Compares the frames in a handler: from the exit trampoline on they must be the same.
    #[inline(never)]
    pub fn in_handler(&self) -> String {
        let frames = addresses(&frames::walk());
        match self.bottom(&frames) {
            Some(bottom) if Some(bottom) == self.bottom(&self.frames) => "complete".to_owned(),
            _ => format!("it is {frames:x?}, and was {:x?}", self.frames),
        }
    }
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

/// The bottoms of a thread, a fiber and the main thread, which has to be the one that calls this.
pub fn all() -> [BottomOfKind; 3] {
    let made = |kind, found: Result<Result<Vec<BottomFrame>, String>, String>| match found.and_then(|found| found) {
        Ok(frames) => BottomOfKind { kind, frames, problem: None },
        Err(problem) => BottomOfKind { kind, frames: Vec::new(), problem: Some(problem) },
    };
    [made("thread", on_a_thread(here)), made("fiber", on_a_fiber(here)), made("main", Ok(here()))]
}

/// The bottom of the running stack.
fn here() -> Result<Vec<BottomFrame>, String> {
    let stack = Stack::current();
    let Some(foot) = stack.foot() else {
        return Err(stack.problem().map_or("no foot was found".to_owned(), Error::to_string));
    };
    let (frames, places) = (frames::walk(), Places::read());
    let exit = frames.iter().position(|frame| frame.pc == foot.original);
    let Some(entry) = exit.and_then(|exit| exit.checked_sub(1)) else {
        return Err(format!(
            "unwinding does not get to its exit trampoline, {} at {:#x}",
            foot.trampoline, foot.original
        ));
    };
    let frame = |frame: &frames::Frame| BottomFrame {
        address: format!("{:#x}", frame.pc),
        name: frames::name(frame, foot, &places),
        table: has_table(frame.pc),
    };
    Ok(frames[entry..].iter().map(frame).collect())
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
