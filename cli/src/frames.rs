//! The frames of the running stack, found by the system's unwinder through the `backtrace` crate.

use crate::memory_map::MemoryMap;
use crate::paint::{FAINT, MARK, OURS, THEIRS, padded, paint, shortened};
use anstream::println;
use exeunt::FootInfo;
use std::ffi::c_void;

/// One frame.
#[derive(Clone, Debug)]
pub struct Frame {
    /// The return address into it.
    pub pc: usize,
    /// The names of its functions, inlined ones first. Empty if no name is known.
    pub names: Vec<String>,
}

/// The return addresses of the function that calls this, and of its callers.
#[inline(never)]
pub fn addresses() -> Vec<usize> {
    let mut addresses = Vec::new();
    let mut inside = true;
    backtrace::trace(|frame| {
        let pc = frame.ip() as usize;
        if inside {
            // Frames of the unwinder itself, up to this function.
            inside = frame.symbol_address() != this_function();
        } else if pc != 0 {
            // (Where the outermost return address is zero, libgcc reports a frame at zero.)
            addresses.push(pc);
        }
        true
    });
    // LLVM's unwinder stops before the first function without an unwind table: musl's exit
    // trampolines have none.
    if cfg!(target_env = "musl") {
        let stack = exeunt::Stack::current();
        addresses.extend(stack.foot().map(|foot| foot.original).filter(|original| addresses.last() != Some(original)));
    }
    addresses
}

fn this_function() -> *mut c_void {
    addresses as *const () as *mut c_void
}

/// Names for return addresses.
pub fn named(addresses: &[usize]) -> Vec<Frame> {
    let frame = |&pc: &usize| {
        let mut names = Vec::new();
        backtrace::resolve(pc as *mut c_void, |symbol| names.extend(symbol.name().map(|name| format!("{name:#}"))));
        Frame { pc, names }
    };
    addresses.iter().map(frame).collect()
}

/// The return addresses in the exit trampoline of the stack with this foot: the entry function's,
/// and, under code redirect, those of the hooks.
pub fn exits(foot: &FootInfo) -> Vec<usize> {
    let mut exits = vec![foot.original];
    if exeunt::survey().is_ok_and(|survey| survey.redirect == exeunt::Redirect::Code) {
        let sites = exeunt::code_sites().unwrap_or_default();
        exits.extend(sites.iter().filter(|site| site.trampoline == foot.trampoline).map(|site| site.behind));
    }
    exits
}

/// The return addresses beyond the exit trampoline, which are the same from the stack's start to
/// its end. `None` without an exit trampoline.
pub fn beyond_exit_trampoline<'f>(addresses: &'f [usize], foot: &FootInfo) -> Option<&'f [usize]> {
    let exits = exits(foot);
    addresses.iter().position(|pc| exits.contains(pc)).map(|exit| &addresses[exit + 1..])
}

/// A name for a frame: of its function, else of the exit trampoline, else of its place in a file.
pub fn name(frame: &Frame, foot: &FootInfo, map: &MemoryMap) -> String {
    let own = frame.names.last().cloned();
    own.or_else(|| exits(foot).contains(&frame.pc).then(|| foot.trampoline.clone()))
        .or_else(|| map.in_short(frame.pc))
        .unwrap_or_else(|| "no name".to_owned())
}

/// Whether a name belongs to Rust's standard library.
fn of_the_standard_library(name: &str) -> bool {
    let path = name.trim_start_matches(['<', '&', '(']);
    let path = path.strip_prefix("dyn ").unwrap_or(path);
    ["std::", "core::", "alloc::", "__rust_try"].iter().any(|crates| path.starts_with(crates))
}

/// The functions whose frames code redirect adds.
const OUR_HOOKS: [&str; 2] = ["exeunt_exit_hook_body", "exeunt_context_hook"];

/// The documentation's term for a frame, if it has one.
fn role(frames: &[Frame], at: usize, foot: &FootInfo, entry: Option<usize>) -> Option<(&'static str, anstyle::Style)> {
    if exits(foot).contains(&frames[at].pc) {
        Some(("exit trampoline", THEIRS))
    } else if Some(at) == entry {
        Some(("entry function", MARK))
    } else if frames[at].names.last().is_some_and(|name| name.starts_with("exeunt_trampoline")) {
        Some(("trampoline of exeunt", OURS))
    } else if frames[at].names.last().is_some_and(|name| OUR_HOOKS.contains(&name.as_str())) {
        Some(("hook of exeunt", OURS))
    } else {
        None
    }
}

/// Prints all frames, innermost first. One line counts successive frames of Rust's standard
/// library.
///
/// The entry function is the function that the exit trampoline called. In a handler it has
/// returned.
pub fn print(frames: &[Frame], foot: &FootInfo, entry_has_returned: bool) {
    const NAME: usize = 58;
    let map = MemoryMap::read();
    let exit = frames.iter().position(|frame| frame.pc == foot.original);
    let entry = exit.filter(|_| !entry_has_returned).and_then(|exit| exit.checked_sub(1));
    let mut folded = 0;
    let unfold = |folded: &mut usize| {
        if *folded > 0 {
            let s = if *folded == 1 { "" } else { "s" };
            println!("     {}", paint(FAINT, format!("… {folded} frame{s} of Rust's standard library")));
        }
        *folded = 0;
    };
    for (at, frame) in frames.iter().enumerate() {
        let role = role(frames, at, foot, entry);
        if role.is_none() && !frame.names.is_empty() && frame.names.iter().all(|name| of_the_standard_library(name)) {
            folded += 1;
            continue;
        }
        unfold(&mut folded);
        // A function that was inlined into the frame's function has no frame, but the code comes
        // from it.
        let inlined = frame.names.iter().take(frame.names.len().saturating_sub(1));
        for inlined in inlined.filter(|name| !of_the_standard_library(name)) {
            println!("     {} {}", padded(FAINT, "(inlined)", 14), shortened(inlined, NAME));
        }
        let name = shortened(&name(frame, foot, &map), NAME);
        let address = paint(FAINT, format!("{:#014x}", frame.pc));
        match role {
            Some((role, style)) => {
                println!("     {address} {} {}", padded(style, &name, NAME), paint(style, format!("◂ {role}")));
            }
            None => println!("     {address} {name}"),
        }
    }
    unfold(&mut folded);
}
