//! The picture as SVG: all stacks, one below the other.

use super::fold::{Extent, Line, lines, summary};
use super::model::{Anatomy, Class, Frame, Word};
use super::style::{quoted, sheet};
use super::verdict::Redirect;
use crate::paint::shortened;
use std::fmt::Write;

const WIDTH: usize = 960;
const MARGIN: usize = 24;
const ROW: usize = 20;
/// The width of a character, with the widest of the fonts that the style names.
const CHARACTER: f32 = 7.3;
/// The same for a row of an unwind table, which can be long.
const SMALL_CHARACTER: f32 = 6.7;

struct Picture {
    text: String,
    y: usize,
}

/// Draws stacks.
pub fn picture(about: &str, stacks: &[Anatomy], extent: Extent) -> String {
    let mut picture = Picture { text: String::new(), y: MARGIN };
    for stack in stacks {
        picture.stack(stack, extent);
    }
    let height = picture.y + MARGIN / 2;
    let colours = sheet(|name, back, front| match name {
        "page" | "frame" => format!(".{name}{{fill:{front}}}\n"),
        "line" => format!(".{name}{{stroke:{front}}}\n"),
        "text" | "faint" | "good" | "bad" => format!(".{name}{{fill:{front}}}\n"),
        class => format!(".b-{class}{{fill:{back}}}.t-{class}{{fill:{front}}}\n"),
    });
    format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" role="img">
<title>The anatomy of {about}</title>
<!-- Made by `exeunt anatomy`. -->
<style>
text{{font:12px ui-monospace,"DejaVu Sans Mono",Menlo,Consolas,monospace;white-space:pre}}
.h{{font:600 17px system-ui,"DejaVu Sans",sans-serif}}
.n{{font-weight:600}}
.s{{font-size:11px}}
{colours}</style>
<rect class="page" width="{WIDTH}" height="{height}" rx="10"/>
{text}</svg>
"#,
        about = quoted(about),
        text = picture.text
    )
}

impl Picture {
    fn words(&mut self, x: usize, y: usize, style: &str, text: &str) {
        let character = if style.contains("s ") { SMALL_CHARACTER } else { CHARACTER };
        let room = ((WIDTH - MARGIN - x) as f32 / character) as usize;
        let text = quoted(&shortened(text, room));
        let _ = writeln!(self.text, r#"<text x="{x}" y="{y}" class="{style}">{text}</text>"#);
    }

    fn stack(&mut self, stack: &Anatomy, extent: Extent) {
        self.y += 14;
        self.words(MARGIN, self.y, "h text", &stack.title);
        self.y += 14;
        for frame in stack.outer.iter().rev() {
            self.frame(frame, None, extent);
        }
        let (frames, left_out) = extent.frames(stack);
        for frame in frames.iter().rev() {
            self.frame(frame, stack.verdict.slot.after, extent);
        }
        if let Some(left_out) = left_out {
            self.y += ROW;
            self.words(MARGIN + 16, self.y, "faint", &format!("⋮  {left_out}"));
        }
        self.y += ROW;
        self.words(MARGIN + 16, self.y, "faint", &format!("{:#014x}  ◂ stack pointer", stack.stack_pointer));
        self.y += 8;
        match &stack.foot {
            Some(foot) => self.note("foot", None, &format!("{:#x}, leads to {}", foot.address, foot.exit.name)),
            None => self.note("foot", Some(false), &format!("not found: {}", stack.end)),
        }
        self.redirect("slot redirect", &stack.verdict.slot);
        self.redirect("code redirect", &stack.verdict.code);
        self.y += MARGIN;
    }

    fn redirect(&mut self, name: &str, redirect: &Redirect) {
        let verdict = match redirect.possible {
            Some(true) => "yes: ",
            Some(false) => "no: ",
            None => "open: ",
        };
        self.note(name, redirect.possible, &format!("{verdict}{}", redirect.text));
    }

    /// A line below a stack, in as many lines as it needs.
    fn note(&mut self, name: &str, good: Option<bool>, text: &str) {
        const X: usize = MARGIN + 120;
        let room = ((WIDTH - MARGIN - X) as f32 / CHARACTER) as usize;
        let style = match good {
            Some(true) => "good",
            Some(false) => "bad",
            None => "text",
        };
        self.words(MARGIN, self.y + ROW, "n text", name);
        let mut line = String::new();
        for word in text.split_whitespace() {
            if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > room {
                self.y += ROW - 3;
                let full = std::mem::take(&mut line);
                self.words(X, self.y + 3, style, &full);
            }
            let space = if line.is_empty() { "" } else { " " };
            line += &format!("{space}{word}");
        }
        self.y += ROW - 3;
        self.words(X, self.y + 3, style, &line);
        self.y += 4;
    }

    fn frame(&mut self, frame: &Frame, after: Option<usize>, extent: Extent) {
        let drawn = lines(&frame.words, extent);
        let extra = usize::from(after.is_some() && frame.words.iter().any(|word| word.class == Class::Foot));
        let height = 40 + ROW * (drawn.len() + extra) + if drawn.is_empty() { 0 } else { 4 };
        let (x, y, width) = (MARGIN, self.y + 4, WIDTH - 2 * MARGIN);
        let _ = writeln!(
            self.text,
            r#"<rect class="frame line" x="{x}" y="{y}" width="{width}" height="{height}" rx="6"/>"#
        );
        let role = frame.role.map(|role| format!("   ◂ {role}")).unwrap_or_default();
        self.words(x + 12, y + 18, "n text", &format!("{}{role}", shortened(&frame.name, 78)));
        self.words(x + 12, y + 33, "s faint", &frame.row);
        self.y = y + 38;
        for line in drawn {
            match line {
                Line::Word(word) => self.word(word, after),
                Line::Folded(words) => {
                    self.y += ROW;
                    self.words(x + 16, self.y - 5, "faint", &format!("⋮  {}", summary(&words)));
                }
            }
        }
        self.y = y + height;
    }

    fn word(&mut self, word: &Word, after: Option<usize>) {
        self.y += ROW;
        let (y, id) = (self.y - 5, word.class.id());
        self.words(MARGIN + 16, y, "faint", &format!("{:#014x}", word.address));
        let (x, top) = (MARGIN + 128, self.y - ROW + 2);
        let _ = writeln!(self.text, r#"<rect class="b-{id}" x="{x}" y="{top}" width="140" height="17" rx="4"/>"#);
        self.words(x + 8, y, &format!("t-{id}"), &format!("{:016x}", word.value));
        self.words(x + 154, y, &format!("t-{id}"), word.class.name());
        self.words(x + 276, y, "text", &word.meaning);
        if let (Class::Foot, Some(after)) = (word.class, after) {
            self.y += ROW;
            let (y, top) = (self.y - 5, self.y - ROW + 2);
            let _ = writeln!(self.text, r#"<rect class="b-heap" x="{x}" y="{top}" width="140" height="17" rx="4"/>"#);
            self.words(x - 66, y, "faint", "armed ▸");
            self.words(x + 8, y, "t-heap", &format!("{after:016x}"));
            self.words(x + 154, y, "good", "once armed: exeunt's trampoline, which goes on to the word above");
        }
    }
}
