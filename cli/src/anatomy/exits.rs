//! The exit trampolines of a process.
//!
//! The library recognises those of this process by experiments. In another process with the same C
//! library they are at the same places of the same file. With another one the names of its
//! functions are used, and if it has none, the shape of a stack's outermost frames.

use super::objects::{self, Object};
use super::process::Process;
use exeunt::{CodeSite, ExitTrampoline};

/// An exit trampoline, as found on a stack.
#[derive(Clone)]
pub struct Exit {
    pub name: String,
    pub how: How,
    /// The return address into it.
    pub address: usize,
}

/// How it was found.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// The library's experiments found it, in the same file.
    Recognised,
    /// A function has its name.
    ByName,
    /// It is the innermost of the C library's frames at the end of the stack.
    ByShape,
}

/// A stack's foot.
pub struct Foot {
    pub address: usize,
    pub word: usize,
    pub exit: Exit,
    /// Whether it leads to exeunt's trampoline already.
    pub armed: bool,
}

/// What is known of a process's exit trampolines.
pub struct Exits {
    known: Vec<(usize, String)>,
    /// The instructions that code redirect changes, and what to add to their addresses to get those
    /// of the process that is drawn.
    pub sites: Vec<(CodeSite, usize)>,
    pub is_own: bool,
}

/// The names of exit trampolines, here and in C libraries that differ from this program's.
const NAMES: [&str; 5] =
    ["start_thread", "__libc_start_call_main", "__start_context", "runtime.goexit", "runtime.goexit.abi0"];

impl Exits {
    pub fn of(process: &Process, objects: &[Object]) -> Self {
        // That of the main thread is recognised when it is walked.
        let _ = exeunt::Stack::current();
        let survey = exeunt::survey();
        let own: Vec<ExitTrampoline> = survey.map(|survey| survey.trampolines).unwrap_or_default();
        let own_process = Process::own();
        let own_objects = if process.other.is_some() { objects::of(&own_process) } else { Vec::new() };
        // The distance from an address of this process to that of the same code in the other.
        let moved = |address: usize| {
            if process.other.is_none() {
                return Some(0);
            }
            let here = own_objects.iter().find(|object| object.contains(address))?;
            let id = here.build_id()?;
            let there = objects.iter().find(|object| object.build_id() == Some(id))?;
            Some(there.bias.wrapping_sub(here.bias))
        };
        let known = own.iter().filter(|exit| !exit.unwound).filter_map(|exit| {
            let address = exit.return_address;
            Some((address.wrapping_add(moved(address)?), exit.name.clone()))
        });
        let sites = exeunt::code_sites().unwrap_or_default();
        let sites = sites.into_iter().filter_map(|site| moved(site.address).map(|moved| (site, moved)));
        Self { known: known.collect(), sites: sites.collect(), is_own: process.other.is_none() }
    }

    /// Which of the frames is the exit trampoline's.
    pub fn find(&self, objects: &[Object], pcs: &[usize], names: &[String]) -> Option<(usize, Exit)> {
        let known = |&pc: &usize| self.known.iter().find(|(address, _)| *address == pc);
        let outer = |at: &usize| *at > 0;
        if let Some(at) = pcs.iter().position(|pc| known(pc).is_some()).filter(outer) {
            let name = known(&pcs[at])?.1.clone();
            return Some((at, Exit { name, how: How::Recognised, address: pcs[at] }));
        }
        let function =
            |name: &String| name.rsplit_once("+0x").map_or(name.clone(), |(function, _)| function.to_owned());
        let named = |name: &String| NAMES.contains(&function(name).as_str());
        if let Some(at) = names.iter().position(named).filter(outer) {
            return Some((at, Exit { name: function(&names[at]), how: How::ByName, address: pcs[at] }));
        }
        let in_libc = |at: usize| {
            let object = objects.iter().find(|object| object.contains(pcs[at]));
            object.is_some_and(|object| {
                ["libc.", "libc-", "libpthread", "ld-musl"].iter().any(|name| object.name().starts_with(name))
            })
        };
        // The outermost frame of a main thread is `_start`, which is the program's own.
        let last = pcs.len().checked_sub(1)?;
        let last = if in_libc(last) { last } else { last.checked_sub(1)? };
        let first = (0..=last).rev().take_while(|&at| in_libc(at)).last().filter(outer)?;
        Some((first, Exit { name: names[first].clone(), how: How::ByShape, address: pcs[first] }))
    }
}
