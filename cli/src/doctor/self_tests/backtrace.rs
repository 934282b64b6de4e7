//! Backtraces of an armed stack and in its handlers are complete.

use super::load::say_error;
use crate::doctor::child::{SelfTest, say};
use crate::frames::{addresses, beyond_exit_trampoline};
use crate::memory_map::without_signature;
use crate::stacks::{HAS_FIBERS, foot, on_a_fiber, on_a_thread};
use exeunt::{Error, FootInfo, Stack};
use std::process::ExitCode;

pub const SELF_TESTS: [SelfTest; 2] = [
    SelfTest {
        name: "backtrace-armed",
        about: "a backtrace of an armed stack is complete",
        expected: EACH_KIND,
        status: 0,
        body: backtraces_of_armed_stacks,
    },
    SelfTest {
        name: "backtrace-in-handler",
        about: "a backtrace in a handler is complete",
        expected: EACH_KIND,
        status: 0,
        body: backtraces_in_handlers,
    },
];

const EACH_KIND: &[&str] = if HAS_FIBERS {
    &["thread: complete", "fiber: complete", "main: complete"]
} else {
    &["thread: complete", "main: complete"]
};

/// Runs `check` on a thread, on a fiber, and here on the main thread.
fn on_each_kind(check: fn(&'static str)) -> ExitCode {
    say_error(on_a_thread(move || check("thread")));
    if HAS_FIBERS {
        say_error(on_a_fiber(move || check("fiber")));
    }
    check("main");
    ExitCode::SUCCESS
}

fn backtraces_of_armed_stacks() -> ExitCode {
    on_each_kind(|kind| {
        let found = compare_armed().unwrap_or_else(|error| error.to_string());
        say(&format!("{kind}: {found}"));
    })
}

fn backtraces_in_handlers() -> ExitCode {
    on_each_kind(|kind| {
        let arm = |before: Before| exeunt::at_exit(move || say(&format!("{kind}: {}", before.in_handler())));
        if let Err(error) = Before::arming().and_then(arm) {
            say(&format!("{kind}: {error}"));
        }
    })
}

/// Arms the running stack and compares the backtraces before and after. They must be the same;
/// under slot redirect the second one has an additional frame for exeunt's trampoline, inside the
/// exit trampoline's.
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
        // The innermost frame is this function, at another address each time.
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

/// The backtrace of a stack before it was armed, to compare it with the backtrace in a handler.
pub struct Before {
    foot: FootInfo,
    frames: Vec<usize>,
}

impl Before {
    #[inline(never)]
    pub fn arming() -> Result<Self, Error> {
        Ok(Self { foot: foot()?, frames: addresses() })
    }

    /// Compares the backtraces. The frames beyond the exit trampoline must be the same.
    #[inline(never)]
    pub fn in_handler(&self) -> String {
        let found = addresses();
        match (beyond_exit_trampoline(&found, &self.foot), beyond_exit_trampoline(&self.frames, &self.foot)) {
            (Some(outer), Some(expected)) if outer == expected => "complete".to_owned(),
            _ => format!("found {found:x?}, expected the end of {:x?}", self.frames),
        }
    }
}
