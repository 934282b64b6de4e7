//! The lines of a picture: words, and runs of words that say nothing.

use super::model::{Anatomy, Class, Frame, Word};

/// How much of a stack is drawn.
#[derive(Clone, Copy)]
pub struct Extent {
    /// All words, also long runs of words that say nothing.
    pub all: bool,
    /// Only this many frames, from the entry function on.
    pub frames: usize,
}

impl Extent {
    /// The frames that are drawn, innermost first, and a line about those that are not.
    pub fn frames(self, anatomy: &Anatomy) -> (&[Frame], Option<String>) {
        let left_out = anatomy.frames.len().saturating_sub(self.frames);
        let (inner, drawn) = anatomy.frames.split_at(left_out);
        let words: usize = inner.iter().map(|frame| frame.words.len()).sum();
        (drawn, (left_out > 0).then(|| format!("{left_out} inner frames with {words} words are not drawn")))
    }
}

/// One line of a picture.
pub enum Line<'a> {
    Word(&'a Word),
    /// Words that say nothing, highest address first.
    Folded(Vec<&'a Word>),
}

/// As few words as this are not folded.
const FEW: usize = 2;

/// The lines for a frame's words, highest address first, as a stack is drawn.
pub fn lines(words: &[Word], extent: Extent) -> Vec<Line<'_>> {
    let mut lines = Vec::new();
    for run in words.chunk_by(|a, b| a.class.says_nothing() == b.class.says_nothing()).rev() {
        if !extent.all && run.len() > FEW && run[0].class.says_nothing() {
            lines.push(Line::Folded(run.iter().rev().collect()));
        } else {
            lines.extend(run.iter().rev().map(Line::Word));
        }
    }
    lines
}

/// A description of folded words.
pub fn summary(words: &[&Word]) -> String {
    let zero = words.iter().filter(|word| word.class == Class::Zero).count();
    match (zero, words.len() - zero) {
        (zero, 0) => format!("{zero} words, all zero"),
        (0, other) => format!("{other} words that lead nowhere"),
        (zero, other) => format!("{} words: {zero} zero, {other} that lead nowhere", zero + other),
    }
}
