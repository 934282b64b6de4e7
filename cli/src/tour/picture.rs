//! A drawing of a stack's foot and the words around it, before and after.

use crate::memory_map::MemoryMap;
use crate::paint::{FAINT, MARK, OURS, THEIRS, padded, paint};
use anstream::println;
use exeunt::{FootInfo, Stack};

/// The number of words drawn on either side of the foot.
const AROUND: usize = 2;
const WORD: usize = size_of::<usize>();

/// The words around a foot, highest address first, as a stack is drawn.
pub struct Words(Vec<(usize, usize)>);

impl Words {
    /// Reads the words. `foot` must belong to the running stack, because the words of other stacks
    /// change while they run.
    pub fn around(foot: &FootInfo) -> Self {
        let map = MemoryMap::read();
        let mapping = map.mapping(foot.address).map(|mapping| mapping.range.clone()).unwrap_or_default();
        let (low, high) = (foot.address - AROUND * WORD, foot.address + AROUND * WORD);
        let addresses = (low..=high).rev().step_by(WORD).filter(|&at| mapping.contains(&at));
        // SAFETY: aligned words of the running stack's mapping, which is readable and stays while
        // it runs. No other code writes there during the read.
        Self(addresses.map(|at| (at, unsafe { (at as *const usize).read_volatile() })).collect())
    }
}

/// Draws the same words before and after, describes what they point to, and marks the bytes that
/// differ.
pub fn draw(stack: &Stack, before: &Words, after: &Words) {
    let map = MemoryMap::read();
    let foot = stack.foot().map_or(0, |foot| foot.address);
    let gap = " ".repeat(23);
    let (side, both) = (paint(FAINT, "│"), paint(FAINT, "│ │"));
    println!("{gap}{}", paint(FAINT, "┌──── before ──────┐ ┌───── after ──────┐ points to"));
    for (&(address, was), &(_, now)) in before.0.iter().zip(&after.0) {
        let (label, style) = if address == foot { ("foot ▸", MARK) } else { ("", FAINT) };
        let margin = format!("  {} {}", paint(MARK, format!("{label:6}")), paint(style, format!("{address:#014x}")));
        if was == now {
            println!("{margin} {side} {was:016x} {both} {now:016x} {side} {}", map.pointed_to(was, stack));
            continue;
        }
        let (then, what) = (format!("{was:016x}"), map.pointed_to(was, stack));
        let (digits, carets, changed) = marked(was, now);
        println!("{margin} {side} {} {both} {digits} {side} {}", paint(THEIRS, then), paint(THEIRS, what));
        let (note, what) = (format!("{changed} bytes changed:"), map.pointed_to(now, stack));
        println!("{gap}{side} {} {both} {carets} {side} now {}", padded(FAINT, &note, 16), paint(OURS, what));
    }
    println!("{gap}{}", paint(FAINT, "└──────────────────┘ └──────────────────┘"));
}

/// The digits of `now`, with the bytes that differ from `was` in colour; carets to print below
/// these; and the number of such bytes.
fn marked(was: usize, now: usize) -> (String, String, usize) {
    let (mut digits, mut carets, mut changed) = (String::new(), String::new(), 0);
    for (was, now) in was.to_be_bytes().into_iter().zip(now.to_be_bytes()) {
        let digit = format!("{now:02x}");
        if was == now {
            digits += &digit;
            carets += "  ";
        } else {
            digits += &paint(OURS, digit).to_string();
            carets += &paint(OURS, "^^").to_string();
            changed += 1;
        }
    }
    (digits, carets, changed)
}
