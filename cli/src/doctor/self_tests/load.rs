//! The load that self-tests put on a stack: a value and three handlers, which print lines when the
//! stack ends.

use crate::doctor::child::say;
use exeunt::Error;

pub const THREE: &str = "handler 3, the value is there";
pub const TWO: &str = "handler 2, the value is there";
pub const ONE: &str = "handler 1, the value is there";
pub const DROPPED: &str = "the value is dropped";

/// A value whose drop prints a line.
struct Value;

impl Drop for Value {
    fn drop(&mut self) {
        say(DROPPED);
    }
}

/// Arms the running stack with a value and three handlers. Prints the error if that fails.
pub fn load() {
    let load = || {
        exeunt::set("value", Value)?;
        for number in 1..=3 {
            exeunt::at_exit(move || {
                let there = exeunt::with::<Value, _>(&"value", |value| value.is_some());
                say(&format!("handler {number}, the value is {}", if there { "there" } else { "gone" }));
            })?;
        }
        Ok::<(), Error>(())
    };
    say_error(load());
}

pub fn say_error(result: Result<(), impl std::fmt::Display>) {
    if let Err(error) = result {
        say(&error.to_string());
    }
}
