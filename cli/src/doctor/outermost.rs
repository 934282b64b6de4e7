//! The outermost frames of a stack of each kind: whether unwinding reaches them, and whether they
//! have unwind tables.

use crate::frames::{self, addresses};
use crate::memory_map::MemoryMap;
use crate::stacks::{HAS_FIBERS, foot, on_a_fiber, on_a_thread};
use serde::Serialize;
use std::ffi::c_void;

/// The entry function's frame or an outer one.
#[derive(Serialize)]
pub struct OutermostFrame {
    pub address: String,
    pub name: String,
    /// Whether an unwind table covers it.
    pub table: bool,
}

/// The frames from the entry function to the outermost one, on a stack of one kind.
#[derive(Serialize)]
pub struct OutermostFrames {
    pub kind: &'static str,
    pub frames: Vec<OutermostFrame>,
    /// Why they were not found.
    pub problem: Option<String>,
}

/// The outermost frames of a thread, a fiber (where the system has them), and the main thread,
/// which must call this.
pub fn all() -> Vec<OutermostFrames> {
    let made = |kind, found: Result<Result<Vec<OutermostFrame>, String>, String>| match found.and_then(|found| found) {
        Ok(frames) => OutermostFrames { kind, frames, problem: None },
        Err(problem) => OutermostFrames { kind, frames: Vec::new(), problem: Some(problem) },
    };
    let thread = made("thread", on_a_thread(here));
    let fiber = HAS_FIBERS.then(|| made("fiber", on_a_fiber(here)));
    [Some(thread), fiber, Some(made("main", Ok(here())))].into_iter().flatten().collect()
}

/// The outermost frames of the running stack.
fn here() -> Result<Vec<OutermostFrame>, String> {
    let foot = foot().map_err(|error| error.to_string())?;
    let (frames, map) = (addresses(), MemoryMap::read());
    let exit = frames.iter().position(|&pc| pc == foot.original);
    let Some(entry) = exit.and_then(|exit| exit.checked_sub(1)) else {
        return Err(format!(
            "unwinding does not reach its exit trampoline, {} at {:#x}",
            foot.trampoline, foot.original
        ));
    };
    let frame = |frame: &frames::Frame| OutermostFrame {
        address: format!("{:#x}", frame.pc),
        name: frames::name(frame, &foot, &map),
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
    /// Finds the unwind table entry for a program counter: the system's unwinder.
    safe fn _Unwind_Find_FDE(pc: usize, bases: &mut Bases) -> *const c_void;
}

/// Whether an unwind table covers a return address. Unwinders use the byte before it, which is
/// still part of the call.
fn has_table(return_address: usize) -> bool {
    !_Unwind_Find_FDE(return_address - 1, &mut Bases { text: 0, data: 0, function: 0 }).is_null()
}
