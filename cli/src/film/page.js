"use strict";
const film = JSON.parse(document.getElementById("film").textContent);
const $ = (id) => document.getElementById(id);
let now = 0, frame = 0, timer = null;

const element = (tag, properties = {}, ...children) => {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "class") made.className = value; else if (name.startsWith("aria-")) made.setAttribute(name, value); else made[name] = value;
  }
  made.append(...children.filter((child) => child !== null));
  return made;
};
const fill = (id, ...children) => $(id).replaceChildren(...children);
// `code` between backquotes.
const prose = (text) => text.split("`").map((part, at) => (at % 2 ? element("code", {}, part) : part));

function words(step) {
  const sp = BigInt(step.registers[1]), register = film.registers[1];
  const rows = [];
  let last = null;
  for (const word of step.words) {
    const at = BigInt(word.at);
    if (last !== null && last - at > 8n) {
      rows.push(element("tr", { class: "gap" }, element("td", { colSpan: 4 }, `⋮ ${last - at - 8n} bytes`)));
    }
    last = at;
    const names = [word.name, at === sp ? `◀ ${register}` : null].filter(Boolean).join(" ");
    const kind = `${word.class}${word.changed ? " changed" : ""}${word.at === film.stack.foot ? " foot" : ""}${at < sp ? " dead" : ""}`;
    rows.push(element("tr", { class: kind }, element("td", { class: "at" }, word.at), element("td", { class: "word" }, word.word.slice(2).padStart(16, "0")),
      element("td", { class: "name" }, names), element("td", { class: "note" }, word.note)));
  }
  fill("words", ...rows);
}

function code(step) {
  list("function", "code", step.listing, step.pc);
  $("other-panel").hidden = !step.other;
  if (step.other) list("other-function", "other", step.other[0], step.other[1]);
}

function list(title, id, number, at) {
  const listing = number === null ? { function: "", lines: [] } : film.listings[number];
  $(title).textContent = listing.function;
  let current = null;
  fill(id, ...listing.lines.map((line) => {
    const item = element("li", { title: line.bytes }, element("span", {}, line.at), element("span", {}, line.text));
    if (line.at === at) { item.setAttribute("aria-current", "true"); current = item; }
    return item;
  }));
  if (current) $(id).scrollTop = current.offsetTop - $(id).offsetTop - $(id).clientHeight / 2;
}

function backtrace(step) {
  fill("trace", ...step.backtrace.map((number, at) => {
    const found = film.frames[number];
    const side = /^exeunt(_|.*\/exeunt\.)/.test(found.name) ? "ours" : found.pc === film.stack.returns_to ? "theirs" : "";
    const button = element("button", { class: side, onclick: () => { frame = at; backtrace(step); } }, `${found.pc}  ${found.name}`);
    button.setAttribute("aria-current", String(at === frame));
    return element("li", {}, button);
  }));
  $("ended").textContent = step.ended;
  const found = film.frames[step.backtrace[Math.min(frame, step.backtrace.length - 1)]];
  const rows = [];
  const line = (name, text, more) => rows.push(element("tr", {}, element("td", {}, name), element("td", {}, text), element("td", {}, more)));
  $("looked").textContent = found.looked_up === found.pc
    ? `Frame ${frame + 1}, ${found.name}. It is running, so its row is looked up at its program counter ${found.pc}.`
    : `Frame ${frame + 1}, ${found.name}. A return address leads there, so its row is looked up one byte before it, at ${found.looked_up}.`;
  if (found.row) {
    const rule = (name, rule) => {
      line(name, rule.rule, rule.numbers);
      rule.expression.forEach(([operation, stack]) => line("", operation, `[ ${stack.join(", ")} ]`));
    };
    line("table", `of ${found.row.function[0]} to ${found.row.function[1]}`, `row from ${found.row.range[0]} to ${found.row.range[1]}`);
    rule("CFA", found.row.cfa);
    rule("return address", found.row.return_address);
    found.row.registers.forEach(([name, its]) => rule(name, its));
  } else line("", "There is no row.", "");
  fill("row", ...rows);
}

function show(number, replaces) {
  now = Math.max(0, Math.min(film.steps.length - 1, number));
  const step = film.steps[now];
  const chapter = film.chapters[step.chapter];
  // The most interesting row is that of the trampoline, where the foot leads there.
  const leadsThere = film.stack.after !== film.stack.before;
  frame = Math.max(0, step.backtrace.findIndex((number) => leadsThere && film.frames[number].pc === film.stack.leads_to));
  document.querySelectorAll("nav button").forEach((button, at) => button.setAttribute("aria-current", String(at === step.chapter)));
  $("slider").value = now;
  $("number").textContent = `${now + 1} of ${film.steps.length}`;
  $("chapter").textContent = chapter.text;
  fill("what", ...prose(step.what));
  fill("why", ...prose(step.why));
  const skipped = step.skipped && step.skipped.functions.length
    ? `Left out, by function: ${step.skipped.functions.map(([name, count]) => `${name} ${count}`).join(", ")}` : "";
  $("skipped").textContent = skipped;
  words(step); code(step); backtrace(step);
  fill("registers", ...film.registers.map((name, at) =>
    element("div", { class: step.changed.includes(at) ? "changed" : "" }, element("b", {}, name), step.registers[at])));
  const record = step.record;
  $("record-panel").hidden = !record;
  if (record) {
    const rows = record.fields.map(([name, value, about]) => element("tr", {}, element("td", {}, name), element("td", {}, value), element("td", {}, about)));
    if (record.entry) rows.unshift(element("tr", {}, element("td", {}, "entry"), element("td", {}, record.entry[0]),
      element("td", {}, `blocks ${record.entry[1]}, record ${record.entry[2]} (the last bit says that the record owns the entry)`)));
    fill("record", ...rows);
    $("record-at").textContent = record.at;
  }
  const hash = `#step-${now + 1}`;
  if (replaces !== false && location.hash !== hash) history.replaceState(null, "", hash);
}

function play() {
  if (timer) { clearInterval(timer); timer = null; } else {
    if (now + 1 === film.steps.length) show(0);
    timer = setInterval(() => { if (now + 1 < film.steps.length) show(now + 1); else play(); }, 1500);
  }
  $("play").textContent = timer ? "pause" : "play";
}
const chapterOf = (by) => {
  const wanted = Math.max(0, Math.min(film.chapters.length - 1, film.steps[now].chapter + by));
  show(film.chapters[wanted].first);
};
const fromHash = () => {
  const [, part, number] = /^#(step|chapter)-(\d+)$/.exec(location.hash) ?? [null, "step", "1"];
  const chapter = film.chapters[number - 1];
  show(part === "step" ? number - 1 : chapter ? chapter.first : 0, false);
};

document.documentElement.classList.add("scripted");
fill("chapters", ...film.chapters.map((chapter) => element("button", { onclick: () => show(chapter.first) }, chapter.title)));
$("slider").max = film.steps.length - 1;
$("slider").addEventListener("input", (event) => show(Number(event.target.value)));
$("back").onclick = () => show(now - 1);
$("on").onclick = () => show(now + 1);
$("play").onclick = play;
addEventListener("hashchange", fromHash);
addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const does = { ArrowRight: () => show(now + 1), ArrowLeft: () => show(now - 1), Home: () => show(0), End: () => show(film.steps.length - 1),
    PageDown: () => chapterOf(1), PageUp: () => chapterOf(-1), p: play }[event.key];
  if (does) { event.preventDefault(); does(); }
});
fromHash();
