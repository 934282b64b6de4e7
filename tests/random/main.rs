//! Stacks that do random acts, beside a model of the expected result: threads, scopes, and fibers
//! that move between threads, end, are abandoned and discarded. Each line that is logged must be
//! the one that the model expects.
//!
//! A failure prints its seed and the acts. `EXEUNT_RANDOM=SEED` runs that one case,
//! `EXEUNT_RANDOM=FROM..TO` many.
#![cfg(target_env = "gnu")]

#[path = "../common/mod.rs"]
mod common;

mod acts;
mod memory;
mod model;
mod world;

use acts::{Command, MEMORIES, Source};
use common::{on_a_thread, process, scaled};
use memory::Memory;
use model::{Expected, Stack};
use std::fmt::Write;
use std::ops::Range;
use world::World;

/// A case: the world, and the model of it.
struct Case {
    world: World,
    /// The stack of the thread that runs it.
    own: Stack,
    expected: Expected,
    /// The acts so far, and their seed, for the reader of a failure.
    done: String,
}

impl Case {
    fn new(seed: u64) -> Self {
        let done = format!("seed {seed}; left: what happened, right: what must; done so far:\n");
        Self { world: World::new(), own: Stack::default(), expected: Expected::default(), done }
    }

    /// Ends the case, after the thread that ran it.
    fn end(mut self) {
        std::mem::take(&mut self.own).end(&mut self.expected);
        assert_eq!(self.world.log.take(), self.expected.log, "{}", self.done);
        self.world.end();
        assert_eq!(exeunt::survey().unwrap().armed, 0, "{}", self.done);
    }
}

/// Runs a case on the running thread, and compares after each command.
fn run(seed: u64) -> Case {
    let mut case = Case::new(seed);
    let Case { world, own, expected, done } = &mut case;
    let mut source = Source::new(seed);
    let mut memories: Vec<_> = (0..MEMORIES).map(|_| Memory::new()).collect();
    // In the end no fiber is left on memory that is freed.
    let last = (0..MEMORIES).map(Command::Discard);
    let commands: Vec<_> = (0..80).map(|_| source.command()).chain(last).collect();
    for command in commands {
        _ = writeln!(done, "{command:?}");
        match command {
            Command::Here(act) => {
                world.perform(&act);
                _ = own.perform(&act, expected);
            }
            Command::On(number, act, elsewhere) => {
                let memory = &mut memories[number];
                memory.ensure_fiber(world);
                memory.order(Some(act.clone()), elsewhere);
                if memory.stack.perform(&act, expected).is_break() {
                    memory.abandon();
                }
            }
            Command::End(number, elsewhere) => {
                let memory = &mut memories[number];
                if memory.fiber.is_some() {
                    memory.order(None, elsewhere);
                    memory.stack = Stack::fiber(std::mem::take(&mut memory.stack).end(expected));
                }
            }
            Command::Abandon(number) => memories[number].abandon(),
            Command::Discard(number) => {
                let memory = &mut memories[number];
                memory.abandon();
                // SAFETY: the fiber on that memory is not resumed any more.
                let count = unsafe { exeunt::discard(memory.pages.range()) };
                let gone = memory.stack.below.take();
                assert_eq!(count, usize::from(gone.is_some()), "{done}");
                if let Some(mut gone) = gone {
                    _ = gone.drain_on(Some(own), expected);
                }
            }
            Command::Thread(acts) => {
                let (world, theirs) = (world.clone(), acts.clone());
                on_a_thread(move || world.perform_all(&theirs));
                let mut stack = Stack::default();
                _ = stack.perform_all(&acts, expected);
                stack.end(expected);
            }
            Command::Scopes(scopes) => {
                let (world, theirs) = (world.clone(), scopes.clone());
                on_a_thread(move || theirs.iter().for_each(|acts| exeunt::enter(|| world.perform_all(acts)).unwrap()));
                for acts in scopes {
                    let mut stack = Stack::default();
                    _ = stack.perform_all(&acts, expected);
                    stack.end(expected);
                }
            }
        }
        world.is_stopped();
        let lines = std::mem::take(&mut expected.log);
        assert_eq!(world.log.take(), lines, "{done}");
    }
    case
}

fn cases() -> Range<u64> {
    let Ok(asked) = std::env::var("EXEUNT_RANDOM") else { return 0..scaled(500, 25) as u64 };
    let number =
        |word: &str| word.parse().unwrap_or_else(|_| panic!("EXEUNT_RANDOM is {asked:?}, not SEED or FROM..TO"));
    match asked.split_once("..") {
        Some((from, to)) => number(from)..number(to),
        None => number(&asked)..number(&asked) + 1,
    }
}

#[test]
fn stacks_do_what_the_model_expects() {
    process::alone("stacks_do_what_the_model_expects", || {
        for seed in cases() {
            on_a_thread(move || run(seed)).end();
        }
    });
}
