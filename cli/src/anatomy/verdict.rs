//! What exeunt would write on a stack, whether it could, and why not.

use super::exits::{Exits, Foot, How};
use super::objects::Object;
use super::snapshot::Snapshot;
use crate::memory_map::without_signature;

/// The verdict for one stack.
pub struct Verdict {
    pub slot: Redirect,
    pub code: Redirect,
}

/// One redirect.
pub struct Redirect {
    pub possible: Option<bool>,
    /// What it would write, or why it cannot.
    pub text: String,
    /// The word of the foot once the stack was armed, if it was.
    pub after: Option<usize>,
}

impl Redirect {
    fn no(text: impl Into<String>) -> Self {
        Self { possible: Some(false), text: text.into(), after: None }
    }
}

pub fn verdict(snapshot: &Snapshot, foot: Option<&Foot>, objects: &[Object], exits: &Exits, end: &str) -> Verdict {
    if let Some(own) = &snapshot.own
        && let Err(problem) = &own.foot
    {
        return Verdict { slot: Redirect::no(problem), code: Redirect::no(problem) };
    }
    let Some(foot) = foot else {
        let text = format!(
            "no foot was found, so exeunt would write nothing. The walk ended: {end}. A fiber whose function never \
             returns to a known exit trampoline runs in `exeunt::enter`"
        );
        return Verdict { slot: Redirect::no(text.clone()), code: Redirect::no(text) };
    };
    Verdict { slot: slot(snapshot, foot, objects), code: code(foot, exits) }
}

fn slot(snapshot: &Snapshot, foot: &Foot, objects: &[Object]) -> Redirect {
    if foot.armed {
        return Redirect {
            possible: Some(true),
            text: format!("armed: the foot leads to exeunt's trampoline, which goes on to {}", foot.exit.name),
            after: None,
        };
    }
    if snapshot.shadow_stack {
        return Redirect::no("this thread has a shadow stack: a rewritten return address would be a fault");
    }
    if without_signature(foot.word) != foot.exit.address {
        return Redirect::no("the foot's word is not the return address that the walk found");
    }
    if foot.exit.name.starts_with("runtime.goexit") {
        return Redirect::no(
            "a goroutine's stack moves, and Go's runtime checks it: the Go module patches code instead",
        );
    }
    if let Some(own) = &snapshot.own {
        return match &own.armed {
            // Under code redirect the word stays.
            Ok(after) if *after == foot.word => {
                Redirect { possible: None, text: "not used: this process uses code redirect".to_owned(), after: None }
            }
            Ok(after) => Redirect {
                possible: Some(true),
                text: format!(
                    "done after this picture: the foot then held {after:#018x}, the address of exeunt's trampoline"
                ),
                after: Some(*after),
            },
            Err(problem) => Redirect::no(problem),
        };
    }
    let ours = objects.iter().find(|object| object.address_of("exeunt_trampoline").is_some());
    let whose = match ours {
        Some(object) => format!("one of exeunt's trampolines, which are in {}", object.name()),
        None => "exeunt's trampoline, once exeunt is loaded there (it is not, or its symbols are stripped)".to_owned(),
    };
    let text = format!("exeunt would write one word, the foot at {:#x}: the address of {whose}", foot.address);
    match foot.exit.how {
        How::Recognised => Redirect { possible: Some(true), text, after: None },
        How::ByName | How::ByShape => Redirect {
            possible: None,
            text: format!(
                "{text}. The process has another C library than this program, and the exit trampoline was found by \
                 its {} alone: exeunt's experiments in that process decide",
                if foot.exit.how == How::ByName { "name" } else { "place" }
            ),
            after: None,
        },
    }
}

fn code(foot: &Foot, exits: &Exits) -> Redirect {
    let mut sites = exits.sites.iter().filter(|(site, _)| site.trampoline == foot.exit.name).peekable();
    if foot.exit.how != How::Recognised || sites.peek().is_none() {
        let text =
            "exeunt looks for the instruction in the process itself; from here its C library is not known".to_owned();
        return Redirect { possible: None, text, after: None };
    }
    let mut texts = Vec::new();
    for (site, moved) in sites {
        if let Some(problem) = &site.problem {
            return Redirect::no(problem.to_string());
        }
        let address = site.address.wrapping_add(*moved);
        texts.push(if exits.is_own {
            format!("{}  becomes  {}", site.before, site.after)
        } else {
            format!("the instruction at {address:#x} would lead to exeunt's hook")
        });
    }
    Redirect { possible: Some(true), text: texts.join("; "), after: None }
}
