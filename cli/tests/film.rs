//! Films: the facts in their recordings, and the page.
//!
//! Where ptrace is forbidden, nothing can be filmed. Then each test checks that the command says
//! so, and prints `NOT RUN`. So do the tests of the goroutine's film where Go is not installed;
//! with EXEUNT_NEEDS_GO=1 they fail there.
#![cfg(all(target_os = "linux", target_env = "gnu"))]

mod common;

use common::text;
use serde_json::Value;
use std::collections::HashMap;
use std::process::{Command, Output};
use std::sync::{Mutex, OnceLock};

/// What is filmed, and the chapters of its film.
const SLOT_ENDS: [&str; 5] =
    ["The entry function returns", "The trampoline", "The drain", "The result comes back", "The real exit"];

/// The exit handler of all films but the goroutine's.
const HANDLER: &str = "exeunt::film::actor::on_exit";

/// All that is filmed.
const KINDS: [&str; 7] = ["thread", "main", "fiber", "enter", "pthread_exit", "code", "goroutine"];

/// `exeunt film` with these arguments. Variables name another processor's program with what runs it,
/// and the emulator that it films by (`.ci/film`).
fn exeunt_film(arguments: &[&str]) -> Command {
    let mut command = match std::env::var("EXEUNT_TEST_FILM_PROGRAM") {
        Ok(words) => {
            let mut words = words.split_whitespace();
            let mut command = Command::new(words.next().expect("a program"));
            command.args(words);
            command
        }
        Err(_) => common::exeunt(),
    };
    command.arg("film");
    if let Ok(emulator) = std::env::var("EXEUNT_TEST_FILM_EMULATOR") {
        command.args(["--emulator", &emulator]);
    }
    command.args(arguments);
    command
}

/// A film of this kind; each kind is filmed once. `None` if this system forbids it.
fn film(kind: &str) -> Option<Value> {
    film_and_page(kind).map(|(film, _)| film)
}

/// Films by their kinds: the recording, and the page that has it.
type Films = HashMap<String, Option<(Value, String)>>;

/// The recording, and the page that has it.
fn film_and_page(kind: &str) -> Option<(Value, String)> {
    static FILMS: OnceLock<Mutex<Films>> = OnceLock::new();
    let mut films = FILMS.get_or_init(Mutex::default).lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    films.entry(kind.to_owned()).or_insert_with(|| record(kind)).clone()
}

fn record(kind: &str) -> Option<(Value, String)> {
    let file = std::env::temp_dir().join(format!("exeunt-film-{kind}-{}.html", std::process::id()));
    let output = exeunt_film(&[kind, "-o"]).arg(&file).output().expect("the program starts");
    if !is_allowed(kind, &output) {
        return None;
    }
    let page = std::fs::read_to_string(&file).expect("the page");
    std::fs::remove_file(&file).expect("it was written");
    let (_, json) = page.split_once("id=\"film\">").expect("a recording");
    let (json, _) = json.split_once("</script>").expect("its end");
    Some((serde_json::from_str(json).expect("JSON"), page))
}

/// Whether something was filmed: not where this system forbids it.
fn is_allowed(kind: &str, output: &Output) -> bool {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() || said.contains("nothing can be filmed here: this"), "film {kind}: {output:?}");
    if !output.status.success() {
        assert!(kind != "goroutine" || std::env::var_os("EXEUNT_NEEDS_GO").is_none(), "EXEUNT_NEEDS_GO is set: {said}");
        eprintln!("NOT RUN: nothing was filmed, because {said}");
    }
    output.status.success()
}

fn is_x86_64(film: &Value) -> bool {
    film["machine"]["processor"] == "x86_64"
}

fn number(value: &Value) -> u64 {
    let text = value.as_str().unwrap_or_else(|| panic!("{value}"));
    u64::from_str_radix(text.strip_prefix("0x").expect(text), 16).expect(text)
}

fn steps(film: &Value) -> &Vec<Value> {
    film["steps"].as_array().expect("steps")
}

fn chapters(film: &Value) -> Vec<&str> {
    film["chapters"].as_array().expect("chapters").iter().filter_map(|chapter| chapter["title"].as_str()).collect()
}

fn register(film: &Value, step: &Value, name: &str) -> u64 {
    let names = film["registers"].as_array().expect("names");
    number(&step["registers"][names.iter().position(|found| found == name).expect(name)])
}

/// The register in which Go code keeps the running goroutine's descriptor.
fn g(film: &Value, step: &Value) -> u64 {
    register(film, step, if is_x86_64(film) { "r14" } else { "x28" })
}

fn sp(step: &Value) -> u64 {
    number(&step["registers"][1])
}

/// The words that hold something: not those below the stack pointer.
fn word_at(step: &Value, at: u64) -> Option<u64> {
    let words = step["words"].as_array().expect("words");
    let word = words.iter().find(|word| number(&word["at"]) == at && at >= sp(step))?;
    Some(number(&word["word"]))
}

fn name(film: &Value, step: &Value, frame: usize) -> String {
    let number = step["backtrace"][frame].as_u64().expect("a frame") as usize;
    film["frames"][number]["name"].as_str().expect("a name").to_owned()
}

/// Checks what holds for each film with slot redirect.
fn check_slot(film: &Value, begins: [&str; 2]) {
    let mut expected = begins.to_vec();
    expected.extend(SLOT_ENDS);
    assert_eq!(chapters(film), expected);
    let stack = &film["stack"];
    let (foot, before, after) = (number(&stack["foot"]), number(&stack["before"]), number(&stack["after"]));
    assert_ne!(before, after, "the foot was redirected");
    check_foot(film, foot, before, after);
    for (at, step) in steps(film).iter().enumerate() {
        assert_eq!(step["complete"], true, "step {}: {}", at + 1, step["ended"]);
    }
}

/// The foot holds its first word, then its second one, until the entry function has returned.
fn check_foot(film: &Value, foot: u64, before: u64, after: u64) {
    let words: Vec<u64> = steps(film)
        .iter()
        .skip_while(|step| word_at(step, foot) != Some(before))
        .map_while(|step| word_at(step, foot))
        .collect();
    let mut different = words.clone();
    different.dedup();
    let expected = if before == after { vec![before] } else { vec![before, after] };
    assert_eq!(different, expected, "the foot's words while the entry function runs");
}

fn step_in<'a>(film: &'a Value, function: &str) -> &'a Value {
    let found = steps(film).iter().find(|step| name(film, step, 0) == function);
    found.unwrap_or_else(|| panic!("no step in {function}"))
}

/// The handler runs inside of the drain, and the exit trampoline is still an outer frame of it.
fn check_handler(film: &Value, drain: &str, code: &str, exit: &str, handler: &str) {
    let step = step_in(film, handler);
    let frames = step["backtrace"].as_array().expect("a backtrace").len();
    let names: Vec<String> = (0..frames).map(|frame| name(film, step, frame)).collect();
    let place =
        |name: &str| names.iter().position(|found| found == name).unwrap_or_else(|| panic!("{name}: {names:?}"));
    assert!(place(drain) < place(code) && place(code) < place(exit), "{names:?}");
}

#[test]
fn a_thread_s_film_shows_the_foot_before_and_after_and_the_real_exit() {
    let Some(film) = film("thread") else { return };
    check_slot(&film, ["The stack begins", "Arming"]);
    check_handler(&film, "exeunt_drain", "exeunt_trampoline_body", "start_thread", HANDLER);
    let stack = &film["stack"];
    assert_eq!(stack["exit_trampoline"], "start_thread");
    // The call writes the foot: the address behind it.
    let (call, entry) = (&steps(&film)[0], &steps(&film)[1]);
    let behind = number(&stack["returns_to"]);
    assert!((1..16).contains(&(behind - number(&call["pc"]))), "the film begins with the call of the entry function");
    if is_x86_64(&film) {
        assert_eq!(sp(entry), number(&stack["foot"]));
        assert_eq!(sp(call), sp(entry) + 8);
    }
    // The first step of the last chapter is back in libc, with the result that the function left.
    let first = film["chapters"].as_array().and_then(|chapters| chapters.last()).expect("chapters")["first"].as_u64();
    let last = &steps(&film)[first.expect("a number") as usize];
    assert_eq!(number(&last["pc"]), behind);
    let result = if is_x86_64(&film) { "rax" } else { "x0" };
    let register = film["registers"].as_array().expect("names").iter().position(|name| name == result).expect(result);
    assert_eq!(number(&last["registers"][register]), 0x5ee);
}

#[test]
fn a_signed_foot_gets_a_signed_address_that_passes_the_check() {
    if std::env::var("EXEUNT_TEST_FILM_EMULATOR").is_err() {
        eprintln!("NOT RUN: this program does not sign return addresses. `.ci/film` films one that does.");
        return;
    }
    let film = film("thread").expect("an emulator can be filmed");
    let stack = &film["stack"];
    for (signed, plain) in [("before", "returns_to"), ("after", "leads_to")] {
        let (signed, plain) = (number(&stack[signed]), number(&stack[plain]));
        assert_ne!(signed, plain, "no signature");
        assert_eq!(signed & 0xffff_ffff_ffff, plain, "a signature is above the address");
    }
    // The entry function checks exeunt's signature, and the trampoline its own.
    let checks: Vec<&str> = steps(&film)
        .iter()
        .filter_map(|step| step["what"].as_str())
        .filter_map(|what| what.strip_prefix("`autiasp` changed x30 to "))
        .collect();
    assert_eq!(checks.len(), 2, "{checks:?}");
    assert!(checks[0].starts_with(stack["leads_to"].as_str().expect("an address")), "{checks:?}");
    assert!(checks[1].starts_with(stack["returns_to"].as_str().expect("an address")), "{checks:?}");
}

#[test]
fn unwinders_find_the_original_address_before_the_foot_leads_to_the_trampoline() {
    let Some(film) = film("thread") else { return };
    let stack = &film["stack"];
    let (foot, original, after) = (number(&stack["foot"]), number(&stack["returns_to"]), number(&stack["after"]));
    let spare = steps(&film)
        .iter()
        .flat_map(|step| step["words"].as_array().expect("words"))
        .find(|word| word["name"] == "spare word")
        .map(|word| number(&word["at"]))
        .expect("a spare word");
    let first = |at: u64, wanted: u64| steps(&film).iter().position(|step| word_at(step, at) == Some(wanted));
    assert!(first(spare, original).expect("kept") < first(foot, after).expect("redirected"));
}

#[test]
fn the_record_and_its_entry_are_those_of_the_stack() {
    let Some(film) = film("thread") else { return };
    let stack = &film["stack"];
    let shown: Vec<_> = steps(&film).iter().filter(|step| !step["record"].is_null()).collect();
    let field = |step: &Value, wanted: &str| {
        let fields = step["record"]["fields"].as_array().expect("fields");
        fields.iter().find(|field| field[0] == wanted).expect(wanted).clone()
    };
    let armed = shown.iter().find(|step| field(step, "phase")[2] == "armed").expect("an armed step");
    assert_eq!(field(armed, "canary_at")[1], stack["foot"]);
    assert_eq!(field(armed, "canary_word")[1], stack["after"]);
    // On aarch64 the entry function chooses where in its frame the foot is.
    let above = number(&field(armed, "base")[1]) - number(&stack["foot"]);
    assert!(if is_x86_64(&film) { above == 8 } else { above >= 8 }, "the base is {above} bytes above the foot");
    assert_ne!(number(&field(armed, "id")[1]), 0);
    let entry = &armed["record"]["entry"];
    assert_eq!(number(&entry[2]), number(&armed["record"]["at"]) | 1, "the record owns the entry: {entry}");
    assert_eq!(field(step_in(&film, HANDLER), "phase")[2], "draining");
}

#[test]
fn main_s_film_ends_in_the_c_library() {
    let Some(film) = film("main") else { return };
    check_slot(&film, ["A function on the stack", "Arming"]);
    check_handler(
        &film,
        "exeunt_drain",
        "exeunt_trampoline_body",
        film["stack"]["exit_trampoline"].as_str().expect("a name"),
        HANDLER,
    );
}

#[test]
fn enter_s_film_ends_in_exeunt_s_own_frame() {
    let Some(film) = film("enter") else { return };
    check_slot(&film, ["A function on the stack", "Arming"]);
    check_handler(&film, "exeunt_drain", "exeunt_trampoline_body", "exeunt_call_entry", HANDLER);
}

#[test]
fn a_fiber_s_trampoline_has_an_expression_that_gives_the_original_address() {
    let Some(film) = film("fiber") else { return };
    check_slot(&film, ["A function on the stack", "Arming"]);
    let (original, trampoline) = (&film["stack"]["returns_to"], &film["stack"]["leads_to"]);
    // An armed stack, before its end: the trampoline is a frame, looked up one byte before.
    let frames = film["frames"].as_array().expect("frames");
    let frame = frames
        .iter()
        .find(|frame| frame["pc"] == *trampoline && frame["looked_up"] != *trampoline)
        .expect("that frame");
    let rule = &frame["row"]["return_address"];
    let expression = rule["expression"].as_array().expect("an expression");
    assert!(expression.len() > 3, "{rule}");
    assert_eq!(rule["value"], *original);
    assert_eq!(expression.last().expect("operations")[1].as_array().and_then(|stack| stack.last()), Some(original));
}

#[test]
fn pthread_exit_s_film_lands_in_a_trampoline_and_not_by_the_foot() {
    let Some(film) = film("pthread_exit") else { return };
    let titles = chapters(&film);
    assert_eq!(titles[..2], ["The stack begins", "Arming"]);
    assert_eq!(titles[2..4], ["pthread_exit unwinds the stack", "The landing leads to a trampoline"]);
    assert_eq!(titles[4..], SLOT_ENDS[2..]);
    check_handler(&film, "exeunt_drain", "exeunt_trampoline_body", "start_thread", HANDLER);
    let stack = &film["stack"];
    let trampoline =
        steps(&film).iter().find(|step| name(&film, step, 0) == "exeunt_trampoline").expect("a trampoline");
    assert_ne!(trampoline["pc"], stack["leads_to"], "another trampoline than the foot's stands for the landing");
    for (at, step) in steps(&film).iter().enumerate() {
        // libc's longjmp changes registers one by one.
        let name = name(&film, step, 0);
        assert!(step["complete"] == true || name.contains("longjmp"), "step {} in {name}: {}", at + 1, step["ended"]);
    }
}

#[test]
fn code_redirect_s_film_has_a_foot_that_stays_and_a_call_that_changes() {
    let Some(film) = film("code") else { return };
    assert_eq!(
        chapters(&film),
        [
            "The stack begins",
            "Arming patches code",
            "The entry function returns",
            "The exit trampoline",
            "The hook",
            "The drain",
            "The result comes back",
            "The function that was called"
        ]
    );
    let stack = &film["stack"];
    assert_eq!(stack["before"], stack["after"]);
    check_foot(&film, number(&stack["foot"]), number(&stack["before"]), number(&stack["before"]));
    check_handler(&film, "exeunt_hook", "exeunt_exit_hook_body", "start_thread", HANDLER);
    // The patched instruction, before and after.
    let bytes: Vec<&Value> = steps(&film)
        .iter()
        .filter(|step| !step["other"].is_null())
        .map(|step| {
            let lines = film["listings"][step["other"][0].as_u64().expect("a number") as usize]["lines"].as_array();
            &lines.expect("lines").iter().find(|line| line["at"] == step["other"][1]).expect("the site")["bytes"]
        })
        .collect();
    assert_eq!(bytes.len(), 2);
    assert_ne!(bytes[0], bytes[1]);
    for (at, step) in steps(&film).iter().enumerate() {
        let is_named = step["why"].as_str().expect("a reason").contains("no unwind table");
        assert!(step["complete"] == true || is_named, "step {}: {}", at + 1, step["ended"]);
    }
}

fn recorded_as_json(kind: &str) -> Option<Value> {
    let output = exeunt_film(&[kind, "--json"]).output().expect("the program starts");
    is_allowed(kind, &output).then(|| serde_json::from_slice(&output.stdout).expect("one JSON object"))
}

#[test]
fn a_goroutine_s_film_has_a_foot_that_stays_and_a_complete_backtrace_at_each_step() {
    let Some(film) = film("goroutine") else { return };
    assert_eq!(
        chapters(&film),
        [
            "The goroutine begins",
            "The first use changes code",
            "The spare words lead to the record",
            "The entry function returns",
            "runtime.goexit",
            "The hook",
            "The drain",
            "runtime.goexit1 ends the goroutine"
        ]
    );
    let stack = &film["stack"];
    assert_eq!(stack["before"], stack["after"]);
    assert_eq!(stack["exit_trampoline"], "runtime.goexit");
    let (foot, word) = (number(&stack["foot"]), number(&stack["before"]));
    check_foot(&film, foot, word, word);
    // aarch64's runtime.mcall calls a function and keeps its own return address on no stack. Its
    // unwind table is wrong from there on, and the film says so.
    let whole = steps(&film).iter().position(|step| name(&film, step, 0) == "runtime.save_g");
    assert_eq!(whole.is_none(), is_x86_64(&film));
    let (whole, rest) = steps(&film).split_at(whole.unwrap_or(steps(&film).len()));
    for (at, step) in whole.iter().enumerate() {
        let last = step["backtrace"].as_array().expect("a backtrace").len() - 1;
        assert!(step["complete"] == true && name(&film, step, last) == "runtime.goexit", "step {}: {step}", at + 1);
    }
    for (at, step) in rest.iter().enumerate() {
        let ended = step["ended"].as_str().expect("a reason");
        assert!(ended.starts_with("It ends at runtime.mcall:"), "step {} of these: {ended}", at + 1);
        assert!(at > 0 || step["why"].as_str().expect("a reason").contains("finds no caller of mcall"), "{step}");
    }
    // The film begins with a jump to the entry function, which finds the stack pointer at the foot.
    let entry = &steps(&film)[1];
    assert_eq!(name(&film, entry, 0), "main.entry");
    // The entry function's return leads to what the foot holds: behind runtime.goexit's first
    // instruction, with the stack pointer of before.
    let place = steps(&film).iter().position(|step| number(&step["pc"]) == word).expect("a return");
    let returned = &steps(&film)[place];
    if is_x86_64(&film) {
        assert_eq!(returned["place"], "runtime.goexit+0x1");
        assert_eq!((sp(entry), sp(returned)), (foot, foot + 8));
    } else {
        assert_eq!(returned["place"], "runtime.goexit+0x4");
        assert_eq!((register(&film, entry, "x30"), sp(entry)), (word, sp(returned)));
        assert!(sp(entry) > foot, "the entry function stores it in its frame");
        assert!(word_at(entry, foot).is_none() && word_at(&steps(&film)[2], foot).is_none());
    }
    check_handler(
        &film,
        "exeunt.invalid/exeunt.drainGoroutine",
        "exeunt.invalid/exeunt.returnHookSlow",
        "runtime.goexit",
        "main.onExit",
    );
}

#[test]
fn a_goroutine_s_film_shows_the_call_in_goexit_before_and_after() {
    let Some(film) = film("goroutine") else { return };
    let texts: Vec<&str> = steps(&film)
        .iter()
        .filter(|step| !step["other"].is_null())
        .map(|step| {
            assert_eq!(step["other"][1], film["stack"]["before"], "the foot leads to the call that is changed");
            let listing = &film["listings"][step["other"][0].as_u64().expect("a number") as usize];
            assert_eq!(listing["function"], "runtime.goexit");
            let lines = listing["lines"].as_array().expect("lines");
            lines.iter().find(|line| line["at"] == step["other"][1]).expect("the call")["text"].as_str().expect("text")
        })
        .collect();
    assert_eq!(texts.len(), 2);
    let call = if is_x86_64(&film) { "call " } else { "bl " };
    assert!(texts[0].starts_with(call) && texts[0].ends_with("runtime.goexit1"), "{texts:?}");
    assert!(texts[1].starts_with(call) && texts[1].ends_with("exeunt.returnHook"), "{texts:?}");
}

#[test]
fn a_goroutine_s_record_belongs_to_it_from_the_second_word_to_the_drain_s_end() {
    let Some(film) = film("goroutine") else { return };
    let foot = number(&film["stack"]["foot"]);
    // The base is where the stack pointer was before the call that the foot stands for, and the
    // words that the runtime leaves free.
    let begin = sp(&steps(&film)[0]);
    let base = if is_x86_64(&film) { begin + 40 } else { begin + 48 };
    assert!(foot < base && base.is_multiple_of(512), "{base:#x} is no stack's base");
    let (check, index) = (base - 16, base - 8);
    let words = |at: u64| steps(&film).iter().map(move |step| word_at(step, at).expect("a word of the base"));
    let changes = |at: u64| {
        let words: Vec<u64> = words(at).collect();
        (1..words.len()).filter(|&step| words[step] != words[step - 1]).collect::<Vec<_>>()
    };
    let (checks, indices) = (changes(check), changes(index));
    assert_eq!((checks.len(), indices.len()), (2, 2), "written once, and cleared");
    let [armed, drained] = checks[..] else { panic!("{checks:?}") };
    let is_before = if is_x86_64(&film) { indices[0] < armed } else { indices[0] == armed };
    assert!(is_before && indices[1] == drained, "the index is written before the check word, or with it");
    // Arming writes more words before it returns, and then the handler is registered.
    let returned = (armed..drained).find(|&at| name(&film, &steps(&film)[at], 0) == "main.entry");
    let returned = returned.expect("the entry function goes on");
    for (at, step) in steps(&film).iter().enumerate() {
        assert_eq!(step["record"].is_null(), !(armed..drained).contains(&at), "step {}", at + 1);
        let fields = step["record"]["fields"].as_array().into_iter().flatten();
        for field in fields {
            let value = number(&field[1]);
            match field[0].as_str() {
                Some("owner") => assert_eq!(value, g(&film, step)),
                Some("index") => assert_eq!(Some(value), word_at(step, index)),
                Some("check word") => assert_eq!(Some(value), word_at(step, check)),
                // The drain has taken the handler before it calls it.
                Some("handlers") => {
                    let is_registered = name(&film, step, 0) != "main.onExit" && at >= returned;
                    assert_eq!(value, u64::from(is_registered), "step {}", at + 1);
                }
                Some("chunk") => assert_ne!(value, 0),
                _ => panic!("{field}"),
            }
        }
    }
    // It ends with the instruction that leaves the goroutine's stack. The runtime has put another
    // descriptor into its register.
    let last = steps(&film).last().expect("steps");
    assert_eq!(name(&film, last, 0), "runtime.mcall");
    assert_ne!(g(&film, last), g(&film, &steps(&film)[armed]));
}

#[test]
fn a_goroutine_s_film_leaves_no_files_behind() {
    if film("goroutine").is_none() {
        return;
    }
    let folder = std::env::temp_dir().join(format!("exeunt-film-go-{}", std::process::id()));
    std::fs::create_dir(&folder).expect("a new folder");
    let output = exeunt_film(&["goroutine", "--text"]).env("TMPDIR", &folder).output();
    let output = output.expect("the program starts");
    assert!(output.status.success(), "{output:?}");
    let steps = text(&output).lines().filter(|line| line.starts_with("step ")).count();
    assert!(steps > 60, "{steps} steps");
    // The folder can be removed only if it is empty.
    std::fs::remove_dir(&folder).expect("nothing is left in the folder");
}

#[test]
fn without_go_the_film_of_a_goroutine_says_what_to_install() {
    let nowhere = std::env::temp_dir().join("exeunt-film-nowhere");
    let output = exeunt_film(&["goroutine"]).env("PATH", nowhere).env_remove("GOROOT").output();
    let output = output.expect("the program starts");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("install Go 1.22 or later") && said.lines().count() == 1, "{said}");
}

#[test]
fn each_step_says_what_happened_with_numbers_of_this_recording() {
    let (Some(one), Some(other)) = (film("thread"), recorded_as_json("thread")) else { return };
    for step in steps(&one) {
        assert!(!step["what"].as_str().expect("a sentence").is_empty(), "{step}");
    }
    assert_eq!(steps(&one).len(), steps(&other).len(), "the same instructions");
    assert_ne!(one["stack"]["before"], other["stack"]["before"], "two processes have other addresses");
}

#[test]
fn the_page_stands_alone_and_has_the_recording_and_pictures() {
    let Some((film, page)) = film_and_page("thread") else { return };
    assert!(page.len() < 2_000_000, "{} bytes", page.len());
    for outside in ["http://", "https://", "src=", "@import", "url("] {
        assert!(!page.contains(outside), "the page refers to something else: {outside}");
    }
    let pictures = page.matches("<figure id=\"picture-").count();
    assert_eq!(pictures, steps(&film).iter().filter(|step| step["key"] == true).count());
    assert!(pictures >= chapters(&film).len(), "each chapter has a picture");
    assert!(page.contains(&format!("{:016x}", number(&film["stack"]["after"]))), "pictures show the foot's word");
}

#[test]
fn the_animated_picture_has_a_scene_for_each_chapter_and_the_foot_in_each() {
    let Some(film) = film("enter") else { return };
    let file = std::env::temp_dir().join(format!("exeunt-film-{}.svg", std::process::id()));
    let output = exeunt_film(&["enter", "-o"]).arg(&file).output().expect("the program starts");
    assert!(output.status.success(), "{output:?}");
    let picture = std::fs::read_to_string(&file).expect("the picture");
    std::fs::remove_file(&file).expect("it was written");
    let chapters = chapters(&film);
    let scenes: Vec<&str> = picture.split("<g class=\"scene").skip(1).collect();
    assert_eq!(scenes.len(), chapters.len());
    for (number, (scene, chapter)) in scenes.iter().zip(&chapters).enumerate() {
        assert!(scene.contains(&format!("{} of {}: {chapter}<", number + 1, chapters.len())), "{scene}");
        assert_eq!(scene.matches("class=\"foot\"").count(), 1, "{scene}");
        assert_eq!(scene.matches("</g>").count(), 1, "{scene}");
    }
    assert!(picture.starts_with("<svg xmlns=") && picture.ends_with("</svg>\n"));
    assert_eq!(picture.matches("http").count(), 1, "it refers to nothing else");
    assert!(!picture.replace("&amp;", "").replace("&lt;", "").replace("&gt;", "").replace("&quot;", "").contains('&'));
}

#[test]
fn the_film_as_text_has_every_step() {
    if film("enter").is_none() {
        return;
    }
    let output = exeunt_film(&["enter", "--text"]).output().expect("the program starts");
    let text = text(&output);
    for chapter in SLOT_ENDS {
        assert!(text.contains(&format!("\n{chapter}  ")), "{chapter}: {text}");
    }
    let steps = text.lines().filter(|line| line.starts_with("step ")).count();
    assert_eq!(text.lines().filter(|line| line.trim_start().starts_with("backtrace:")).count(), steps);
    assert!(steps > 20, "{text}");
}

#[test]
fn a_kind_that_does_not_exist_is_refused_with_the_list() {
    let output = exeunt_film(&["coroutine"]).output().expect("the program starts");
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("thread") && said.contains("pthread_exit"), "{said}");
}

#[test]
fn an_emulator_that_does_not_exist_is_named_as_the_problem() {
    let output = exeunt_film(&["thread", "--emulator", "/nonexistent/emulator"]).output().expect("the program starts");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("the emulator cannot be started") && !said.contains("--emulator"), "{said}");
}

/// Goes through all steps of the page and compares what it shows with the recording.
const WALK: &str = r##"<script>
const faults = [];
addEventListener("error", (event) => faults.push(event.message));
const text = (id) => document.getElementById(id).textContent;
const marked = (id) => document.querySelector(`#${id} [aria-current="true"]`);
film.steps.forEach((step, number) => {
  const expect = (what, found, wanted) => { if (found !== wanted) faults.push(`step ${number + 1}: ${what} ${found}, not ${wanted}`); };
  document.getElementById("on").click();
  if (number === 0) document.getElementById("back").click();
  expect("number", text("number"), `${number + 1} of ${film.steps.length}`);
  expect("hash", location.hash, `#step-${number + 1}`);
  expect("sentence", text("what"), step.what.replaceAll("`", ""));
  expect("words", document.querySelectorAll("#words td.word").length, step.words.length);
  expect("frames", document.querySelectorAll("#trace li").length, step.backtrace.length);
  expect("line", marked("code").firstChild.textContent, step.pc);
  expect("chapter", marked("chapters").textContent, film.chapters[step.chapter].title);
  expect("width", document.documentElement.scrollWidth > innerWidth, false);
});
location.hash = "#step-3";
fromHash();
if (text("number") !== `3 of ${film.steps.length}`) faults.push("the link to step 3 does not lead there");
dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowLeft" }));
if (text("number") !== `2 of ${film.steps.length}`) faults.push("the left arrow does not go back");
// A telephone shows the buttons' shorter labels.
const labels = [...document.querySelectorAll(".controls button")].map((button) => button.innerText.trim());
if (new Set(labels).size !== labels.length) faults.push(`two buttons look alike: ${labels}`);
for (const wanted of ["pause", "play"]) {
  dispatchEvent(new KeyboardEvent("keydown", { key: "p" }));
  if (text("play") !== wanted) faults.push(`the key p leaves ${text("play")}, not ${wanted}`);
}
parent.postMessage({ name: window.name, said: faults.length ? `FAULTS: ${faults.join("; ")}` : `WALKED ${film.steps.length}` }, "*");
</script>"##;

/// The widths at which each page is looked at: a screen's, and a telephone's.
const WIDTHS: [u32; 2] = [1280, 390];

#[test]
fn in_a_browser_each_step_of_each_film_shows_what_the_recording_says() {
    let Some(chromium) =
        ["/usr/bin/chromium", "/usr/bin/google-chrome"].into_iter().find(|path| std::path::Path::new(path).exists())
    else {
        eprintln!("NOT RUN: no page was looked at, since there is no /usr/bin/chromium.");
        return;
    };
    let folder = std::env::temp_dir().join(format!("exeunt-film-browser-{}", std::process::id()));
    std::fs::create_dir(&folder).expect("a new folder");
    // One page has all films, in frames, and shows what their scripts tell it.
    let mut frames = String::new();
    let mut expected = Vec::new();
    let kinds = std::env::var("EXEUNT_TEST_FILM_KINDS").unwrap_or_else(|_| KINDS.join(" "));
    for kind in kinds.split_whitespace() {
        let Some((film, page)) = film_and_page(kind) else { continue };
        assert!(page.len() < 2_000_000, "{kind}: {} bytes", page.len());
        std::fs::write(folder.join(format!("{kind}.html")), page.replace("</body>", &format!("{WALK}</body>")))
            .expect("the page");
        for width in WIDTHS {
            frames +=
                &format!("<iframe name=\"{kind}-{width}\" src=\"{kind}.html\" width={width} height=1500></iframe>\n");
            expected.push(format!("<li>{kind}-{width} WALKED {}</li>", steps(&film).len()));
        }
    }
    let page = folder.join("all.html");
    let script = "addEventListener('message', ({ data }) => { const item = document.createElement('li'); \
                  item.textContent = `${data.name} ${data.said}`; document.getElementById('said').append(item); });";
    if expected.is_empty() {
        return;
    }
    std::fs::write(&page, format!("<ul id=\"said\" hidden></ul>\n<script>{script}</script>\n{frames}"))
        .expect("the page");
    // What it looked like stays, for people.
    let picture = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("films.png");
    let output = Command::new("timeout")
        .args(["120", chromium, "--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"])
        .args(["--dump-dom", "--virtual-time-budget=5000", "--hide-scrollbars"])
        .arg(format!("--window-size=1740,{}", 1510 * kinds.split_whitespace().count()))
        .arg(format!("--screenshot={}", picture.display()))
        .arg(format!("--user-data-dir={}", folder.join("profile").display()))
        .arg(format!("file://{}", page.display()))
        .output()
        .expect("the browser starts");
    let said = String::from_utf8_lossy(&output.stderr);
    let console: Vec<&str> = said.lines().filter(|line| line.contains("CONSOLE")).collect();
    assert!(console.is_empty(), "in the console: {console:?}");
    let shown = String::from_utf8_lossy(&output.stdout);
    let shown = shown.split("</ul>").next().unwrap_or_default();
    for item in expected {
        assert!(shown.contains(&item), "{item}: {shown} {said}");
    }
    assert!(picture.is_file(), "no screenshot: {said}");
    std::fs::remove_dir_all(&folder).expect("it was made above");
}
