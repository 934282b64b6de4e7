//! The frames of the running stack, as libgcc's unwinder finds them by way of the `backtrace` crate.

use crate::paint::{FAINT, MARK, OURS, THEIRS, padded, paint, shortened};
use crate::places::Places;
use anstream::println;
use exeunt::FootInfo;
use std::ffi::c_void;

/// One frame.
#[derive(Clone, Debug)]
pub struct Frame {
    /// The return address into it.
    pub pc: usize,
    /// Functions with their names, those that were inlined first. Empty if nothing is known.
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
            // Frames of the unwinding itself, up to this function.
            inside = frame.symbol_address() != this_function();
        } else if pc != 0 {
            // (libgcc reports the end of a stack as a frame at zero, where the outermost return address is zero.)
            addresses.push(pc);
        }
        true
    });
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

/// The return addresses in the exit trampoline of the stack with this foot: that of the entry function, and, under code
/// redirect, those of its hooks.
pub fn exits(foot: &FootInfo) -> Vec<usize> {
    let mut exits = vec![foot.original];
    if exeunt::survey().is_ok_and(|survey| survey.redirect == exeunt::Redirect::Code) {
        let sites = exeunt::code_sites().unwrap_or_default();
        exits.extend(sites.iter().filter(|site| site.trampoline == foot.trampoline).map(|site| site.behind));
    }
    exits
}

/// The addresses beyond the exit trampoline, which has to be there: what is the same in the whole life of a stack.
pub fn bottom<'f>(addresses: &'f [usize], foot: &FootInfo) -> Option<&'f [usize]> {
    let exits = exits(foot);
    addresses.iter().position(|pc| exits.contains(pc)).map(|exit| &addresses[exit + 1..])
}

/// A name to call a frame by, from whatever is known of it.
pub fn name(frame: &Frame, foot: &FootInfo, places: &Places) -> String {
    let own = frame.names.last().cloned();
    own.or_else(|| exits(foot).contains(&frame.pc).then(|| foot.trampoline.clone()))
        .or_else(|| places.in_short(frame.pc))
        .unwrap_or_else(|| "no name".to_owned())
}

/// Whether this is code of Rust's own libraries.
fn of_the_standard_library(name: &str) -> bool {
    let path = name.trim_start_matches(['<', '&', '(']);
    let path = path.strip_prefix("dyn ").unwrap_or(path);
    ["std::", "core::", "alloc::", "__rust_try"].iter().any(|crates| path.starts_with(crates))
}

/// The frames of code redirect.
const OUR_HOOKS: [&str; 2] = ["exeunt_exit_hook_body", "exeunt_context_hook"];

/// What a frame is in the words of the documentation.
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

/// Prints all frames, innermost first. Successive ones of Rust's standard library share a line that counts them.
///
/// The entry function is the one that the exit trampoline called; in a handler it has returned.
pub fn print(frames: &[Frame], foot: &FootInfo, entry_has_returned: bool) {
    const NAME: usize = 58;
    let places = Places::read();
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
        // What was inlined into the frame's function has no frame of its own, but it is where the code came from.
        let inlined = frame.names.iter().take(frame.names.len().saturating_sub(1));
        for inlined in inlined.filter(|name| !of_the_standard_library(name)) {
            println!("     {} {}", padded(FAINT, "(inlined)", 14), shortened(inlined, NAME));
        }
        let name = shortened(&name(frame, foot, &places), NAME);
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
