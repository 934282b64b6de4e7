//! The page: one file, with the recording, a script that shows it, and pictures of its key steps
//! for readers without scripts and for paper.

use super::kind::Kind;
use super::recording::{Recording, Step, Word};
use std::fmt::Write;

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

pub fn page(recording: &Recording) -> Result<String, serde_json::Error> {
    // Inside of a script element only `</` could end it.
    let json = serde_json::to_string(recording)?.replace("</", "<\\/");
    let (title, about) = (escaped(&recording.title), escaped(&recording.about));
    let machine = &recording.machine;
    let machine = escaped(&format!(
        "Recorded on {}, {}, {}, exeunt {}, {}. {} steps.",
        machine.processor,
        machine.system,
        machine.libc,
        machine.exeunt,
        machine.redirect,
        recording.steps.len()
    ));
    let leads_to_record = if recording.kind == Kind::Goroutine.name() {
        "the spare words that lead to it"
    } else {
        "the stack map's entry for the base's page"
    };
    let pictures = pictures(recording);
    Ok(format!(
        r#"<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}: a film by exeunt</title>
<link rel="icon" href="data:,">
<style>
{STYLE}</style>
</head>
<body>
<header>
<h1>{title}</h1>
<p>{about}</p>
<p class="faint">{machine}</p>
</header>
<main id="player">
<nav id="chapters" aria-label="Chapters"></nav>
<div class="controls">
<button id="back" title="one step back (left arrow)">◀<span> back</span></button>
<button id="on" title="one step on (right arrow)"><span>on </span>▶</button>
<input id="slider" type="range" min="0" value="0" aria-label="Step">
<output id="number"></output>
<button id="play" title="play and pause (p)">play</button>
</div>
<p class="faint" id="chapter"></p>
<div class="said" aria-live="polite"><p class="what" id="what"></p><p id="why"></p><p class="faint" id="skipped"></p></div>
<div class="grid">
<section class="panel"><h2>The stack, outer frames at the top</h2><div class="scroll"><table class="words"><tbody id="words"></tbody></table></div></section>
<div style="display: grid; gap: 1rem; min-width: 0">
<section class="panel"><h2>The code: <span id="function"></span></h2><ol class="code" id="code"></ol></section>
<section class="panel" id="other-panel" hidden><h2>Meanwhile, the exit trampoline: <span id="other-function"></span></h2><ol class="code" id="other"></ol></section>
<section class="panel"><h2>The backtrace at this instruction</h2><ol class="trace" id="trace"></ol><p class="faint" id="ended"></p></section>
</div>
<section class="panel" style="grid-column: 1 / -1"><h2>The row of the unwind table that leads to the next frame</h2>
<p class="faint" id="looked"></p><div class="scroll"><table class="row"><tbody id="row"></tbody></table></div></section>
<section class="panel" style="grid-column: 1 / -1"><h2>Registers, before the marked line is executed</h2><div class="registers" id="registers"></div></section>
<section class="panel" id="record-panel" style="grid-column: 1 / -1"><h2>The stack's record, at <span id="record-at"></span>, and {leads_to_record}</h2>
<div class="scroll"><table class="row"><tbody id="record"></tbody></table></div></section>
</div>
<p class="faint">Keys: left and right arrow, Home, End; Page Up and Page Down for chapters; p plays. A step's address ends with #step-N, a chapter's with #chapter-N.
Click a frame of the backtrace to see its row.</p>
</main>
<div id="pictures">
<h2>The key steps</h2>
{pictures}</div>
<script type="application/json" id="film">{json}</script>
<script>
{SCRIPT}</script>
</body>
</html>
"#
    ))
}

pub fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// The text with what is between backquotes as code.
fn prose(text: &str) -> String {
    let parts = text.split('`').enumerate();
    parts
        .map(|(at, part)| if at % 2 == 1 { format!("<code>{}</code>", escaped(part)) } else { escaped(part) })
        .collect()
}

fn pictures(recording: &Recording) -> String {
    let mut pictures = String::new();
    let mut chapter = None;
    for (number, step) in recording.steps.iter().enumerate().filter(|(_, step)| step.key) {
        if chapter != Some(step.chapter) {
            chapter = Some(step.chapter);
            let its = &recording.chapters[step.chapter];
            let _ = writeln!(
                pictures,
                "<h3 id=\"chapter-{}\">{}</h3>\n<p>{}</p>",
                step.chapter + 1,
                escaped(its.title),
                escaped(its.text)
            );
        }
        pictures += &picture(recording, number, step);
    }
    pictures
}

fn picture(recording: &Recording, number: usize, step: &Step) -> String {
    let mut rows = String::new();
    let mut last: Option<u64> = None;
    let sp = step.registers.get(1).map_or(0, |sp| sp.0);
    for word in &step.words {
        if let Some(gap) = last.map(|last| last - word.at.0).filter(|gap| *gap > 8) {
            let _ = writeln!(rows, "<tr class=\"gap\"><td colspan=\"4\">⋮ {} bytes</td></tr>", gap - 8);
        }
        last = Some(word.at.0);
        let mut class = word.class.to_owned();
        for (is, more) in
            [(word.changed, " changed"), (word.at == recording.stack.foot, " foot"), (word.at.0 < sp, " dead")]
        {
            class += if is { more } else { "" };
        }
        let pointer = if word.at.0 == sp { format!(" ◀ {}", recording.registers[1]) } else { String::new() };
        let name = word.name.clone().unwrap_or_default() + &pointer;
        let _ = writeln!(
            rows,
            "<tr class=\"{class}\"><td class=\"at\">{}</td><td class=\"word\">{:016x}</td><td class=\"name\">{}</td><td class=\"note\">{}</td></tr>",
            word.at,
            word.word.0,
            escaped(&name),
            escaped(&word.note)
        );
    }
    let next = next_line(recording, step);
    let names: Vec<_> = step.backtrace.iter().map(|&frame| escaped(&recording.frames[frame].name)).collect();
    format!(
        "<figure id=\"picture-{}\">\n<figcaption><b>Step {}.</b> {} {}</figcaption>\n<table class=\"words\"><tbody>\n{rows}</tbody></table>\n\
         <p>Next: <code>{}</code> at {}</p>\n<p class=\"faint\">Backtrace: {}</p>\n</figure>\n",
        number + 1,
        number + 1,
        prose(&step.what),
        prose(&step.why),
        escaped(&next),
        escaped(&step.place),
        names.join(" ← ")
    )
}

/// The instruction that is executed next.
pub fn next_line(recording: &Recording, step: &Step) -> String {
    let listing = step.listing.map(|listing| &recording.listings[listing]);
    let line = listing.and_then(|listing| listing.lines.iter().find(|line| line.at == Word(step.pc.0)));
    line.map(|line| line.text.clone()).unwrap_or_default()
}
