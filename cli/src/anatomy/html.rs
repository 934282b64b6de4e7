//! The picture as a page that needs no other file and no script.

use super::fold::{Extent, Line, lines, summary};
use super::model::{Anatomy, Class, Frame, Word};
use super::style::{quoted, sheet};
use super::verdict::Redirect;
use std::fmt::Write;

const STYLE: &str = r#"
:root{color-scheme:light dark}
*{box-sizing:border-box}
body{margin:0 auto;max-width:70rem;padding:1rem;background:var(--page);color:var(--text);
 font:16px/1.45 system-ui,sans-serif}
h1{font-size:1.4rem;margin:.4rem 0}
h2{font-size:1.15rem;margin:2rem 0 .5rem}
code,.mono{font-family:ui-monospace,"DejaVu Sans Mono",Menlo,Consolas,monospace;font-size:.82rem}
.faint{color:var(--faint)}
nav a{display:inline-block;margin:.15rem .7rem .15rem 0;color:inherit}
dl.legend{display:grid;grid-template-columns:max-content 1fr;gap:.25rem .7rem;margin:.5rem 0;font-size:.9rem}
dl.legend dd{margin:0}
.chip{border-radius:4px;padding:.05rem .4rem;white-space:nowrap}
.frame{border:1px solid var(--line);border-radius:6px;background:var(--frame);margin:.4rem 0;padding:.5rem .7rem}
.frame h3{font-size:.95rem;margin:0;overflow-wrap:anywhere}
.role{border:1px solid currentColor;border-radius:4px;padding:0 .35rem;font-size:.78rem;font-weight:400;margin-left:.4rem;
 white-space:nowrap}
.row{margin:.1rem 0 .3rem;font-size:.78rem;overflow-wrap:anywhere}
.word{display:grid;grid-template-columns:8.6rem 10.6rem 8rem 1fr;gap:.15rem .6rem;padding:.12rem 0;align-items:baseline}
.word .meaning{overflow-wrap:anywhere}
summary{cursor:pointer;color:var(--faint);font-size:.85rem;padding:.15rem 0}
.after{margin:.1rem 0 .3rem 9.2rem}
table{border-collapse:collapse;margin:.6rem 0}
th,td{text-align:left;vertical-align:top;padding:.2rem .8rem .2rem 0;font-weight:400}
td{overflow-wrap:anywhere}
th{white-space:nowrap}
.good{color:var(--good)}.bad{color:var(--bad)}
@media (max-width:46rem){
 body{padding:.7rem}
 .word{grid-template-columns:max-content 1fr;border-top:1px solid var(--line);padding:.25rem 0}
 .word .meaning:empty{display:none}
 .after{margin-left:0}
 .folded-line{margin:0}
 dl.legend{grid-template-columns:1fr}dl.legend dd{margin-bottom:.4rem}
 th,td{display:block;padding-right:0}th{padding-bottom:0}
}
@media print{details>*{display:block}}
"#;

/// A page about stacks.
pub fn page(about: &str, stacks: &[Anatomy], extent: Extent) -> String {
    let colours = sheet(|name, back, front| match name {
        "page" | "frame" | "line" | "text" | "faint" | "good" | "bad" => format!(":root{{--{name}:{front}}}\n"),
        class => {
            let back = if back == "none" { "transparent" } else { back };
            format!(".c-{class}{{background:{back};color:{front}}}\n")
        }
    });
    let about = quoted(about);
    let mut text = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n\
         <title>The anatomy of {about}</title>\n<style>{colours}{STYLE}</style></head><body>\n\
         <h1>The anatomy of {about}</h1>\n\
         <p class=\"faint\">Each stack is drawn with its highest address first. Frames that were called later are \
         below. Made by <code>exeunt anatomy</code>.</p>\n"
    );
    if stacks.len() > 1 {
        text += "<nav>";
        for (at, stack) in stacks.iter().enumerate() {
            let _ = write!(text, "<a href=\"#stack-{at}\">{}</a> ", quoted(&stack.title));
        }
        text += "</nav>\n";
    }
    text += "<details open><summary>What the colours say</summary><dl class=\"legend\">\n";
    for class in Class::ALL {
        let _ = writeln!(
            text,
            "<dt><span class=\"chip mono c-{}\">{}</span></dt><dd>{}</dd>",
            class.id(),
            class.name(),
            quoted(class.about())
        );
    }
    text += "</dl></details>\n";
    for (at, stack) in stacks.iter().enumerate() {
        section(&mut text, at, stack, extent);
    }
    text += "</body></html>\n";
    text
}

fn section(text: &mut String, at: usize, stack: &Anatomy, extent: Extent) {
    let _ = writeln!(text, "<section id=\"stack-{at}\"><h2>{}</h2>", quoted(&stack.title));
    let foot = match &stack.foot {
        Some(foot) => format!("{:#x}, leads to {}", foot.address, foot.exit.name),
        None => format!("not found: {}", stack.end),
    };
    let _ = writeln!(text, "<table><tr><th>foot<td class=\"mono\">{}", quoted(&foot));
    redirect(text, "slot redirect", &stack.verdict.slot);
    redirect(text, "code redirect", &stack.verdict.code);
    *text += "</table>\n";
    for frame in stack.outer.iter().rev() {
        draw_frame(text, frame, None, extent);
    }
    let (frames, left_out) = extent.frames(stack);
    for frame in frames.iter().rev() {
        draw_frame(text, frame, stack.verdict.slot.after, extent);
    }
    if let Some(left_out) = left_out {
        let _ = writeln!(text, "<p class=\"faint\">⋮ {left_out}</p>");
    }
    let _ = writeln!(text, "<p class=\"mono faint\">{:#014x} ◂ stack pointer</p></section>", stack.stack_pointer);
}

fn redirect(text: &mut String, name: &str, redirect: &Redirect) {
    let (style, verdict) = match redirect.possible {
        Some(true) => ("good", "yes"),
        Some(false) => ("bad", "no"),
        None => ("text", "open"),
    };
    let _ = writeln!(text, "<tr><th>{name}<td><b class=\"{style}\">{verdict}</b>: {}", quoted(&redirect.text));
}

fn draw_frame(text: &mut String, frame: &Frame, after: Option<usize>, extent: Extent) {
    let role = frame.role.map(|role| format!("<span class=\"role\">{role}</span>")).unwrap_or_default();
    let _ = writeln!(
        text,
        "<div class=\"frame\"><h3><code>{}</code>{role}</h3><div class=\"row mono faint\">{}</div>",
        quoted(&frame.name),
        quoted(&frame.row)
    );
    for line in lines(&frame.words, extent) {
        match line {
            Line::Word(word) => draw_word(text, word, after),
            Line::Folded(words) => {
                let _ = writeln!(text, "<details><summary>{}</summary>", summary(&words));
                words.iter().for_each(|word| draw_word(text, word, None));
                *text += "</details>\n";
            }
        }
    }
    *text += "</div>\n";
}

fn draw_word(text: &mut String, word: &Word, after: Option<usize>) {
    let id = word.class.id();
    let _ = writeln!(
        text,
        "<div class=\"word mono\"><span class=\"faint\">{:#014x}</span><span><span class=\"chip c-{id}\">{:016x}</span>\
         </span><span class=\"t-{id}\">{}</span><span class=\"meaning\">{}</span></div>",
        word.address,
        word.value,
        word.class.name(),
        quoted(&word.meaning)
    );
    if let (Class::Foot, Some(after)) = (word.class, after) {
        let _ = writeln!(
            text,
            "<div class=\"after mono good\"><span class=\"chip c-heap\">{after:016x}</span> once armed: \
             exeunt's trampoline, which goes on to the word above</div>"
        );
    }
}
