//! Recognises the exit trampolines of all threads and of `main` without a walk of their stacks:
//! `recognise`, and `recognise_threads`. Arming recognises each of them on its first stack (`recognition.rs`); code that is
//! called at every end needs them before.

use crate::base::cancellation::Uncancelled;
use crate::base::error::Error;
use crate::base::kind::Kind;
use crate::exit::process_lock::Experiment;
use crate::exit::{recognition, trampoline, walk};
use crate::machine::arch::{self, Registers};
use crate::machine::clib;
use crate::unwind::tables::function_at;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

/// Recognises them. What was learnt stays, also after an error.
///
/// # Errors
/// [`Error::NoCodeSite`] where main's is not found, and the errors of the experiments.
pub(crate) fn recognise() -> Result<(), Error> {
    recognise_threads()?;
    let _uncancelled = Uncancelled::new();
    let is_known = || (0..trampoline::known()).any(|number| trampoline::kind(number) == Kind::Main);
    if is_known() {
        return Ok(());
    }
    match main_exit()? {
        Ok(address) => recognition::add_main(address, clib::main_exit_name()),
        Err(found) => {
            // On main's own stack a walk finds it.
            // SAFETY: registers of this function.
            let _ = unsafe { walk::walk_to_foot(Registers::here()) };
            if is_known() { Ok(()) } else { Err(Error::NoCodeSite(found.into())) }
        }
    }
}

/// Recognises those of all threads.
///
/// # Errors
/// Those of the experiments.
pub(crate) fn recognise_threads() -> Result<(), Error> {
    recognition::probe()?;
    let _uncancelled = Uncancelled::new();
    recognise_c11()
}

/// Recognises where C11's threads return to, if the program can have any. Runs its experiment once.
fn recognise_c11() -> Result<(), Error> {
    static DONE: AtomicBool = AtomicBool::new(false);
    if DONE.load(Ordering::Acquire) {
        return Ok(());
    }
    let found = {
        let _experiment = Experiment::begin()?;
        clib::probe_c11()?
    };
    let is_thread = |number: &usize| trampoline::kind(*number) == Kind::Thread;
    let Some(thread) = (0..trampoline::known()).find(is_thread) else { return Ok(()) };
    let function = function_at(trampoline::original(thread) - 1);
    match found {
        // Another place would be in a wrapper, which is a frame like any other.
        Some(address) if function.is_some() && function_at(address - 1) == function => recognition::add_c11(address)?,
        _ => {}
    }
    DONE.store(true, Ordering::Release);
    Ok(())
}

/// Where `main` returns to: behind a call by a pointer, in `__libc_start_main` or in a function that
/// it calls by name, where the result is passed to `exit`. What was found instead, if there is no
/// such place or more than one.
fn main_exit() -> Result<Result<usize, String>, Error> {
    let Some([start, exit]) = clib::start_and_exit()? else {
        return Ok(Err("the program has no dynamic linker, and main's stack has not been armed: do this on the \
                       main thread"
            .to_owned()));
    };
    let Some(code) = function(start) else {
        return Ok(Err(format!("__libc_start_main at {start:#x} has no unwind table")));
    };
    let mut functions = vec![code.clone()];
    for call in places(&code) {
        // SAFETY: the bytes before it are of this function. A place in the middle of an instruction
        // leads to the start of no function, or to one that has no such place.
        let called = unsafe { arch::called_directly(call) };
        if let Some(called) = called.filter(|&called| function_at(called) == Some(called)).and_then(function) {
            if !functions.contains(&called) {
                functions.push(called);
            }
        }
    }
    let mut found: Vec<usize> = Vec::new();
    for code in &functions {
        // SAFETY: these bytes are of this function, as `places` says.
        found.extend(places(code).filter(|&at| unsafe { arch::ends_in_exit(at, exit) && arch::called_indirectly(at) }));
    }
    Ok(match found[..] {
        [address] => Ok(address),
        _ => Err(format!(
            "in __libc_start_main at {start:#x} and the {} functions that it calls, there are {} places behind a call \
             by a pointer that pass the result to exit, and one was expected",
            functions.len() - 1,
            found.len()
        )),
    })
}

/// How instructions are aligned.
const ALIGNMENT: usize = if cfg!(target_arch = "aarch64") { 4 } else { 1 };
/// More bytes than the instructions that are recognised, before a place and behind it.
const REACH: usize = 8;

/// The code from the start of a function to the last multiple of 16 bytes that its unwind table
/// still covers, and the bytes up to there.
fn function(start: usize) -> Option<Range<usize>> {
    /// No function that starts `main` is longer.
    const LONGEST: usize = 8192;
    if function_at(start) != Some(start) {
        return None;
    }
    let is_inside = |end: &usize| function_at(end - 1) == Some(start);
    let end = (1..=LONGEST).map(|length| start + length).take_while(is_inside).last()?;
    Some(start..end)
}

/// The places in a function that have [`REACH`] bytes of it before and behind them.
fn places(code: &Range<usize>) -> impl Iterator<Item = usize> + use<> {
    (code.start + REACH..(code.end + 1).saturating_sub(REACH)).step_by(ALIGNMENT)
}
