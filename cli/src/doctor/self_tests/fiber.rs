//! How a fiber ends: it returns, on the thread that armed it or on another, or is abandoned.

use super::load::{DROPPED, ONE, THREE, TWO, load, say_error};
use crate::doctor::child::{SelfTest, say};
use crate::fiber::{Fiber, Memory};
use crate::machine::thread;
use std::process::ExitCode;
use std::sync::atomic::{AtomicI32, Ordering};

pub const SELF_TESTS: [SelfTest; 3] = [
    SelfTest {
        name: "fiber-return",
        about: "a makecontext fiber returns",
        expected: &["it returns", THREE, TWO, ONE, DROPPED, "resumer: it has ended"],
        status: 0,
        body: fiber_returns,
    },
    SelfTest {
        name: "fiber-moved",
        about: "a fiber is armed on one thread and returns on another",
        expected: &[
            "first thread: it is suspended",
            "its stack is the same",
            "its handlers are on the second thread",
            THREE,
            TWO,
            ONE,
            DROPPED,
            "second thread: it has ended",
        ],
        status: 0,
        body: fiber_moves,
    },
    SelfTest {
        name: "fiber-abandoned",
        about: "a fiber is abandoned, and the next one on its memory starts empty",
        expected: &[
            "the first one is suspended",
            "the next one finds nothing",
            "its stack is another one",
            THREE,
            TWO,
            ONE,
            DROPPED,
            "the next one has ended",
        ],
        status: 0,
        body: fiber_is_abandoned,
    },
];

/// Runs `code` with memory for a fiber, or prints why there is none.
fn with_memory(code: impl FnOnce(Memory)) -> ExitCode {
    match Memory::map() {
        Ok(memory) => code(memory),
        Err(error) => say(&format!("no memory for a fiber: {error}")),
    }
    ExitCode::SUCCESS
}

fn state(has_ended: bool) -> &'static str {
    if has_ended { "has ended" } else { "is suspended" }
}

fn fiber_returns() -> ExitCode {
    with_memory(|memory| {
        let mut fiber = Fiber::on(&memory, |_| {
            load();
            say("it returns");
        });
        say(&format!("resumer: it {}", state(fiber.resume())));
    })
}

/// The thread that resumed the fiber last.
static SECOND: AtomicI32 = AtomicI32::new(0);

fn fiber_moves() -> ExitCode {
    with_memory(|memory| {
        let mut fiber = Fiber::on(&memory, |suspender| {
            load();
            let before = exeunt::id();
            suspender.suspend();
            say(if exeunt::id() == before { "its stack is the same" } else { "its stack is another one" });
            say_error(exeunt::at_exit(|| {
                let second = thread() == SECOND.load(Ordering::Relaxed);
                say(if second { "its handlers are on the second thread" } else { "its handlers are elsewhere" });
            }));
        });
        for name in ["first", "second"] {
            let resumed = std::thread::Builder::new().spawn(move || {
                SECOND.store(thread(), Ordering::Relaxed);
                say(&format!("{name} thread: it {}", state(fiber.resume())));
                fiber
            });
            match resumed.map(std::thread::JoinHandle::join) {
                Ok(Ok(back)) => fiber = back,
                Ok(Err(_)) => return say("a thread panicked"),
                Err(error) => return say(&format!("no thread: {error}")),
            }
        }
    })
}

fn fiber_is_abandoned() -> ExitCode {
    with_memory(|memory| {
        let (sender, receiver) = std::sync::mpsc::channel();
        let mut first = Fiber::on(&memory, move |suspender| {
            say_error(exeunt::set("legacy", 1));
            let _ = sender.send(exeunt::id());
            suspender.suspend();
            say("the first one goes on");
        });
        say(&format!("the first one {}", state(first.resume())));
        let first_id = receiver.recv();
        let mut next = Fiber::on(&memory, move |_| {
            let found = exeunt::get::<i32>(&"legacy");
            say(&found.map_or("the next one finds nothing".to_owned(), |found| format!("the next one finds {found}")));
            let same = first_id == Ok(exeunt::id());
            say(if same { "its stack is the same" } else { "its stack is another one" });
            load();
        });
        say(&format!("the next one {}", state(next.resume())));
    })
}
