//! The film as an animated picture: one scene for each chapter, with the words around the foot and
//! the backtrace. It needs no script, so it works where an image does.

use super::page::{escaped, next_line};
use super::recording::{Recording, StackWord, Step};
use crate::paint::shortened;
use std::fmt::Write;

const WIDTH: usize = 960;
const HEIGHT: usize = 470;
const MARGIN: usize = 24;
const ROW: usize = 20;
/// Where the backtrace begins.
const RIGHT: usize = 640;
/// For how many seconds a scene is shown.
const SECONDS: usize = 6;
/// How many words are shown on each side of the foot.
const NEAR: u64 = 3;
/// How many frames of a long backtrace are shown, from each end.
const INNER: usize = 2;
const OUTER: usize = 3;
/// Characters of a line of prose.
const LINE: usize = 118;

/// The scene that stands still where a reader wants no motion: the redirect.
const STILL: &str = "Arming";

const STYLE: &str = "\
text{font:14px system-ui,\"DejaVu Sans\",sans-serif;white-space:pre}
.m{font:12px ui-monospace,\"DejaVu Sans Mono\",Menlo,Consolas,monospace}
.h{font-size:19px}.h,.b{font-weight:600}
.page{fill:#fff}.text{fill:#1c1e22}.faint{fill:#5f6570}.now{fill:#1b5fc0}
.foot{fill:#ffe08a}.changed{fill:#651a7c;font-weight:600}.line{stroke:#d5d8de}
.scene{opacity:0}
@media (prefers-color-scheme:dark){
.page{fill:#15171c}.text{fill:#e8e9ec}.faint{fill:#a0a6b2}.now{fill:#8ab8ff}
.foot{fill:#5a4600}.changed{fill:#f0c4ff}.line{stroke:#3a3f4a}
}
";

pub fn picture(recording: &Recording) -> String {
    let scenes = scenes(recording);
    let total = scenes.len() * SECONDS;
    let shown = 100.0 / scenes.len() as f64;
    let mut text = String::new();
    for (number, step) in scenes.iter().enumerate() {
        let still = if recording.chapters[step.chapter].title.starts_with(STILL) { " still" } else { "" };
        let delay = number * SECONDS;
        let _ = writeln!(text, "<g class=\"scene{still}\" style=\"animation-delay:{delay}s\">");
        scene(&mut text, recording, step);
        text += "</g>\n";
    }
    let title = escaped(&recording.title);
    let about = escaped(&format!(
        "Recorded by `exeunt film {}` on {}, {}: {} of {} steps",
        recording.kind,
        recording.machine.processor,
        recording.machine.libc,
        scenes.len(),
        recording.steps.len()
    ));
    format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" role="img">
<title>{title}</title>
<style>
{STYLE}@keyframes show{{0%,{shown:.2}%{{opacity:1}}{after:.2}%,100%{{opacity:0}}}}
.scene{{animation:show {total}s infinite}}
@media (prefers-reduced-motion:reduce){{.scene{{animation:none}}.still{{opacity:1}}}}
</style>
<rect class="page" width="{WIDTH}" height="{HEIGHT}" rx="10"/>
<text x="{MARGIN}" y="38" class="text h">{title}</text>
<text x="{MARGIN}" y="{bottom}" class="faint">{about}</text>
{text}</svg>
"#,
        after = shown + 0.1,
        bottom = HEIGHT - 16
    )
}

/// The last key step of each chapter, and the first one of the last chapter.
fn scenes(recording: &Recording) -> Vec<&Step> {
    let keys = |chapter: usize| recording.steps.iter().filter(move |step| step.key && step.chapter == chapter);
    let last = recording.chapters.len().saturating_sub(1);
    (0..=last)
        .filter_map(|chapter| if chapter == last { keys(chapter).next() } else { keys(chapter).next_back() })
        .collect()
}

fn scene(text: &mut String, recording: &Recording, step: &Step) {
    let chapter = recording.chapters[step.chapter].title;
    let number = format!("{} of {}: {chapter}", step.chapter + 1, recording.chapters.len());
    put(text, MARGIN, 66, "now b", &number);
    let mut y = 96;
    let what = step.what.replace('`', "");
    for (class, part, most) in [("text b", &what, 2), ("text", &step.why, 3)] {
        for line in lines(part, most) {
            put(text, MARGIN, y, class, &line);
            y += ROW;
        }
    }
    let top = 216;
    put(text, MARGIN, top, "faint", "The stack, outer frames at the top");
    put(text, RIGHT, top, "faint", "The backtrace at this instruction");
    let mut y = top + 26;
    for row in rows(recording, step) {
        match row {
            Shown::Word(word) => {
                if word.at == recording.stack.foot {
                    let (x, y, width) = (MARGIN - 6, y - 15, RIGHT - MARGIN - 12);
                    let _ = writeln!(text, r#"<rect class="foot" x="{x}" y="{y}" width="{width}" height="{ROW}"/>"#);
                }
                let pointer = if step.registers.get(1) == Some(&word.at) { "◀ " } else { "" };
                let name = word.name.as_deref().unwrap_or_default();
                let space = if name.is_empty() { "" } else { ": " };
                put(text, MARGIN, y, "faint m", &word.at.to_string());
                put(
                    text,
                    MARGIN + 118,
                    y,
                    if word.changed { "changed m" } else { "text m" },
                    &format!("{:016x}", word.word.0),
                );
                put(text, MARGIN + 248, y, "text m", &shortened(&format!("{pointer}{name}{space}{}", word.note), 48));
            }
            Shown::Gap(bytes) => put(text, MARGIN, y, "faint m", &format!("⋮ {bytes} bytes")),
        }
        y += ROW;
    }
    let mut y = top + 26;
    // Where there are more, the innermost ones and the outermost ones.
    let (all, left_out) = (&step.backtrace, step.backtrace.len().saturating_sub(INNER + OUTER));
    for (number, &frame) in all.iter().enumerate() {
        let is_left_out = left_out > 1 && (INNER..INNER + left_out).contains(&number);
        if is_left_out && number > INNER {
            continue;
        }
        let name = if is_left_out { format!("⋮ {left_out} frames") } else { recording.frames[frame].name.clone() };
        put(text, RIGHT, y, if is_left_out { "faint m" } else { "text m" }, &shortened(&name, 40));
        y += ROW;
    }
    put(text, RIGHT, y + 8, "faint", "Next instruction");
    put(text, RIGHT, y + 8 + ROW, "text m", &shortened(&next_line(recording, step), 40));
}

enum Shown<'a> {
    Word(&'a StackWord),
    Gap(u64),
}

/// The words around the foot, and the one at the stack pointer.
fn rows<'a>(recording: &Recording, step: &'a Step) -> Vec<Shown<'a>> {
    let foot = recording.stack.foot.0;
    let sp = step.registers.get(1).map(|sp| sp.0);
    let is_shown = |word: &&StackWord| word.at.0.abs_diff(foot) <= 8 * NEAR || Some(word.at.0) == sp;
    let mut rows = Vec::new();
    let mut last: Option<u64> = None;
    for word in step.words.iter().filter(is_shown) {
        if let Some(gap) = last.map(|last| last - word.at.0).filter(|gap| *gap > 8) {
            rows.push(Shown::Gap(gap - 8));
        }
        last = Some(word.at.0);
        rows.push(Shown::Word(word));
    }
    rows
}

fn put(text: &mut String, x: usize, y: usize, class: &str, line: &str) {
    let _ = writeln!(text, r#"<text x="{x}" y="{y}" class="{class}">{}</text>"#, escaped(line));
}

/// The text in at most `most` lines. What does not fit is left out at the end of a sentence or, in
/// the middle of one, replaced by «…».
fn lines(text: &str, most: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let line = lines.last_mut().expect("there is one");
        if line.chars().count() + word.chars().count() < LINE {
            *line += if line.is_empty() { "" } else { " " };
            *line += word;
        } else {
            lines.push(word.to_owned());
        }
    }
    if lines.len() > most {
        lines.truncate(most);
        let whole = lines.join(" ");
        match whole.rfind(". ") {
            Some(end) => return self::lines(&whole[..=end], most),
            None => *lines.last_mut().expect("at least one") += " …",
        }
    }
    lines.retain(|line| !line.is_empty());
    lines
}
