//! The anatomy: the classes of words at known places, all threads of a process that goes on
//! unharmed, this process's own stacks, and processes that cannot be read.
#![cfg(target_os = "linux")]

mod common;

use common::{exeunt, text};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

fn anatomy(arguments: &[&str]) -> Output {
    exeunt().arg("anatomy").args(arguments).output().expect("the program starts")
}

fn drawn(arguments: &[&str]) -> String {
    let output = anatomy(arguments);
    assert!(output.status.success(), "{output:?}");
    text(&output).to_owned()
}

/// The message of a command that must fail.
fn refused(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(output.stdout.is_empty(), "{output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Whether a process may trace another here. Emulators and some containers do not allow it. Asked
/// of the kernel, and not of the program under test.
fn has_ptrace() -> bool {
    let mut child = Command::new("sleep").arg("100").spawn().expect("sleep starts");
    let none = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: the child is this test's, and is killed below.
    let seized = unsafe { libc::ptrace(libc::PTRACE_SEIZE, child.id() as libc::pid_t, none, none) } == 0;
    let error = std::io::Error::last_os_error();
    child.kill().expect("a child of this test");
    child.wait().expect("a child to wait for");
    if !seized {
        // Not by `eprintln!`, which the test harness captures.
        let _ = writeln!(std::io::stderr().lock(), "NOT RUN: the anatomy of another process: ptrace: {error}");
    }
    seized
}

/// A word of the picture.
#[derive(Debug, PartialEq)]
struct Word {
    address: usize,
    value: usize,
    class: String,
    meaning: String,
}

fn words(picture: &str) -> Vec<Word> {
    let hexadecimal = |text: &str| usize::from_str_radix(text.trim_start_matches("0x"), 16).ok();
    let word = |line: &str| {
        let line = line.trim_start().trim_start_matches("▸ ");
        let (address, rest) = line.strip_prefix("0x").and(line.split_once(' '))?;
        let (value, rest) = rest.split_once(' ').filter(|(value, _)| value.len() == 16)?;
        let (class, meaning) = (rest.get(..16)?.trim(), rest.get(16..)?.trim());
        Some(Word {
            address: hexadecimal(address)?,
            value: hexadecimal(value)?,
            class: class.to_owned(),
            meaning: meaning.to_owned(),
        })
    };
    picture.lines().filter_map(word).collect()
}

/// The part of a picture about one stack, by a text of its heading.
fn part<'p>(picture: &'p str, heading: &str) -> &'p str {
    let start = picture.find(heading).unwrap_or_else(|| panic!("{heading}: {picture}"));
    picture[start..].split("\n\n").next().expect("split gives one at least")
}

/// The program `waits.c`, which waits.
struct Waiting {
    child: Child,
    output: BufReader<std::process::ChildStdout>,
    /// Of each stack: its thread, the address of its known words, its frame.
    stacks: Vec<[usize; 3]>,
}

fn program() -> PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let program = directory.join(format!("waits-{}-{:?}", std::process::id(), std::thread::current().id()));
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let mut build = cc::Build::new();
    build.target(&target).host(&target).opt_level(0).no_default_flags(true).cargo_metadata(false);
    let mut compiler = build.get_compiler().to_command();
    compiler.args(["-g", "-O0", "-fno-omit-frame-pointer", "-fno-stack-protector", "-Wall", "-Werror", "-pthread"]);
    compiler.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/anatomy/waits.c")).arg("-o").arg(&program);
    assert!(compiler.status().expect("a C compiler").success());
    program
}

impl Waiting {
    fn start() -> Self {
        let program = program();
        let mut command = Command::new(&program);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it starts");
        let mut output = BufReader::new(child.stdout.take().expect("its output was asked for"));
        let mut stack = || {
            let mut line = String::new();
            output.read_line(&mut line).expect("it reports");
            let number = |word: &str| match word.strip_prefix("0x") {
                Some(hexadecimal) => usize::from_str_radix(hexadecimal, 16),
                None => word.parse(),
            };
            let numbers: Vec<_> = line.split_whitespace().map(|word| number(word).expect("a number")).collect();
            numbers.try_into().expect("three numbers")
        };
        let stacks = vec![stack(), stack(), stack()];
        std::fs::remove_file(program).expect("a file of this test");
        Self { child, output, stacks }
    }

    fn number(&self) -> String {
        self.child.id().to_string()
    }

    /// Lets it go on, and checks that it ends as if nothing had been.
    fn goes_on(mut self) {
        self.child.stdin.take().expect("its input was asked for").write_all(b"x").expect("it reads");
        let status = self.child.wait().expect("a child to wait for");
        let mut rest = String::new();
        self.output.read_line(&mut rest).expect("it reports");
        assert!(status.success() && rest == "went on\n", "{status}, {rest:?}");
    }
}

#[test]
fn every_thread_of_another_process_is_drawn_with_the_classes_of_its_words_and_goes_on() {
    if !has_ptrace() {
        return;
    }
    let waiting = Waiting::start();
    let picture = drawn(&[&waiting.number(), "--all"]);
    for (at, &[thread, known, frame]) in waiting.stacks.iter().enumerate() {
        let is_main = at == 2;
        let part = part(&picture, &format!("thread {thread}, "));
        let words = words(part);
        let at = |address: usize| {
            let found = words.iter().find(|word| word.address == address);
            found.unwrap_or_else(|| panic!("no word at {address:#x}: {part}"))
        };
        let classes: Vec<_> = (0..8).map(|index| at(known + 8 * index).class.as_str()).collect();
        let expected = ["other", "zero", "zero", "zero", "this stack", "heap", "code", "data"];
        assert_eq!(classes, expected, "{part}");
        assert_eq!(at(known).value, 0x8877665544332211);
        assert_eq!(at(known + 48).meaning, "wait_here");
        let caller = if is_main { "main" } else { "worker" };
        assert_eq!(
            (at(frame).class.as_str(), at(frame).meaning.as_str()),
            ("saved register", &*format!("rbp of {caller}"))
        );
        let back = at(frame + 8);
        assert!(back.class == "return address" && back.meaning.starts_with(&format!("to {caller}+0x")), "{back:?}");

        let (foot, exit) = (words.first().expect("words"), if is_main { "__libc_start_" } else { "start_thread" });
        assert!(foot.class == "foot" && foot.meaning.starts_with(&format!("to {exit}")), "{foot:?}");
        assert_eq!(words.iter().filter(|word| word.class == "foot").count(), 1);
        assert!(words.windows(2).all(|pair| pair[0].address == pair[1].address + 8), "each word once: {part}");
        let pointer = words.last().expect("words").address;
        assert!(part.contains(&format!("{pointer:#014x} ◂ stack pointer")), "{part}");
        assert!(part.contains(&format!("─ {caller}+0x")) && part.contains("◂ entry function"), "{part}");
        assert!(part.contains("CFA = rbp+0x10, return address at CFA-0x8, rbp at CFA-0x10"), "{part}");
        for redirect in ["slot redirect  yes: exeunt would write one word", "code redirect  yes: the instruction at 0x"]
        {
            assert!(part.contains(redirect), "{redirect}: {part}");
        }
    }
    waiting.goes_on();
}

#[test]
fn words_that_say_nothing_are_folded_and_one_stack_can_be_chosen() {
    if !has_ptrace() {
        return;
    }
    let waiting = Waiting::start();
    let [thread, known, _] = waiting.stacks[0];
    let picture = drawn(&[&waiting.number(), "--only", &thread.to_string()]);
    assert_eq!(picture.matches("◂ stack pointer").count(), 1, "{picture}");
    assert!(picture.contains(" ⋮ ") && words(&picture).iter().all(|word| word.address != known + 8), "{picture}");
    let outermost = drawn(&[&waiting.number(), "--only", &thread.to_string(), "--frames", "1"]);
    assert!(outermost.contains("─ worker+0x") && !outermost.contains("─ wait_here+0x"), "{outermost}");
    assert!(refused(&anatomy(&[&waiting.number(), "--only", "1"])).contains(&thread.to_string()));
    waiting.goes_on();
}

#[test]
fn a_stack_that_exeunt_has_armed_is_drawn_with_its_trampoline() {
    if !has_ptrace() {
        return;
    }
    // SAFETY: lets any process of this user read this one, also where Yama forbids it.
    unsafe { libc::prctl(libc::PR_SET_PTRACER, libc::PR_SET_PTRACER_ANY) };
    let (tells, told) = std::sync::mpsc::channel();
    let (goes_on, waits) = std::sync::mpsc::channel::<()>();
    // Not the thread that draws: that one may still be in the call that has started the program.
    let thread = std::thread::spawn(move || {
        exeunt::at_exit(|| ()).expect("a thread can be armed");
        let foot = exeunt::Stack::current().foot().cloned().expect("it has a foot");
        // SAFETY: a query.
        tells.send((unsafe { libc::gettid() }, foot)).expect("the test receives it");
        waits.recv().expect("the test lets it go on");
    });
    let (number, foot) = told.recv().expect("the thread is armed");
    let picture = drawn(&[&std::process::id().to_string(), "--only", &number.to_string()]);
    goes_on.send(()).expect("the thread waits");
    thread.join().expect("the thread ends");
    let word = words(&picture).into_iter().find(|word| word.class == "foot");
    let word = word.unwrap_or_else(|| panic!("no foot: {picture}"));
    assert_eq!((word.address, word.value), (foot.address, foot.word), "{picture}");
    if std::env::var("EXEUNT_REDIRECT").is_ok_and(|redirect| redirect == "code") {
        assert_eq!(foot.word, foot.original);
        return;
    }
    assert!(word.meaning.starts_with("to exeunt_trampoline"), "{word:?}");
    assert!(picture.contains("◂ trampoline of exeunt") && picture.contains("slot redirect  yes: armed"), "{picture}");
    // By the trampoline's unwind table the walk goes on to where the foot led before.
    let trampoline = picture.find("◂ trampoline of exeunt").expect("just found");
    let exit = picture[..trampoline].lines().rev().nth(2).expect("frames behind it");
    assert!(exit.contains("start_thread+0x") && exit.ends_with("◂ exit trampoline"), "{picture}");
}

#[test]
fn the_stacks_of_this_process_are_drawn_with_what_was_written() {
    let picture = drawn(&["--self"]);
    let code = std::env::var("EXEUNT_REDIRECT").is_ok_and(|redirect| redirect == "code");
    for (stack, exit) in
        [("a thread", "start_thread"), ("a makecontext fiber", "__start_context"), ("the main thread", "__libc_start_")]
    {
        let part = part(&picture, &format!("{stack} of this process"));
        let words = words(part);
        let feet: Vec<_> = words.iter().filter(|word| word.class == "foot").collect();
        assert!(feet.len() == 1 && feet[0].meaning.starts_with(&format!("to {exit}")), "{feet:?} in {part}");
        assert!(words.iter().filter(|word| word.class == "return address").count() >= 3, "{part}");
        assert!(part.contains("◂ entry function") && part.contains("with_registers"), "{part}");
        let done = part.lines().find_map(|line| line.trim_start().strip_prefix("slot redirect  ")).expect("a verdict");
        if code {
            assert_eq!(done, "open: not used: this process uses code redirect");
        } else {
            let (_, after) = done.split_once("the foot then held 0x").expect("what was written");
            let after = usize::from_str_radix(&after[..16], 16).expect("a word");
            assert!(after != feet[0].value && done.starts_with("yes: "), "{done}");
        }
    }
}

#[test]
fn the_page_and_the_picture_have_every_stack_and_quote_what_is_no_markup() {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let files = ["html", "svg"].map(|kind| directory.join(format!("anatomy-{}.{kind}", std::process::id())));
    let [html, svg] = files.each_ref().map(|file| file.to_str().expect("a path of text"));
    assert_eq!(drawn(&["--self", "--html", html, "--svg", svg]), "");
    let [page, picture] = files.each_ref().map(|file| std::fs::read_to_string(file).expect("it was written"));
    for text in [&page, &picture] {
        for heading in ["a thread of this process", "the main thread of this process"] {
            assert!(text.contains(heading), "{heading}");
        }
        // The names of Rust's functions have them.
        assert!(text.contains("&lt;") && !text.contains("<impl") && !text.contains("<std::"));
        assert!(
            !text.contains("http")
                || text.matches("http").count() == text.matches("http://www.w3.org/2000/svg").count()
        );
        assert!(text.contains("@media (prefers-color-scheme: dark)"));
    }
    let feet = if cfg!(target_env = "gnu") { 3 } else { 2 };
    assert_eq!(page.matches("<span class=\"chip c-foot\">").count(), feet);
    assert_eq!(picture.matches("<rect class=\"b-foot\"").count(), feet);
    files.iter().for_each(|file| std::fs::remove_file(file).expect("a file of this test"));
}

/// What a picture has on every machine: its style, the roles of frames, and its sentences, without
/// numbers.
#[cfg(target_arch = "x86_64")]
fn shape(picture: &str) -> (String, Vec<String>) {
    let style = picture.split_once("<style>").and_then(|(_, rest)| rest.split_once("</style>"));
    let texts =
        picture.lines().filter_map(|line| line.strip_prefix("<text ")?.strip_suffix("</text>")?.split_once('>'));
    let same_everywhere = texts.filter_map(|(_, text)| {
        let role = text.split_once("◂").map(|(_, role)| role.to_owned());
        let is_note =
            ["armed", "inner frames", "redirect", "done after this picture"].iter().any(|word| text.contains(word));
        role.or_else(|| is_note.then(|| text.split(|it: char| it.is_ascii_digit()).collect::<Vec<_>>().join("#")))
    });
    let without_digits = |text: String| {
        let words = text.split_whitespace().filter(|word| !word.contains('#')).collect::<Vec<_>>();
        words.join(" ")
    };
    (style.expect("a style").0.to_owned(), same_everywhere.map(without_digits).collect())
}

/// The command that made the picture is the one below.
#[test]
#[cfg(all(target_arch = "x86_64", target_env = "gnu"))]
fn the_picture_in_the_guide_is_one_that_this_program_makes() {
    let saved = Path::new(env!("CARGO_MANIFEST_DIR")).join("../book/anatomy.svg");
    let Ok(saved) = std::fs::read_to_string(saved) else {
        // The package of the command line alone has no guide.
        assert!(!Path::new(env!("CARGO_MANIFEST_DIR")).join("../book").exists());
        return;
    };
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("picture-{}.svg", std::process::id()));
    let mut command = exeunt();
    command.args(["anatomy", "--self", "--only", "thread", "--frames", "2", "--svg"]).arg(&file);
    let output = command.env("EXEUNT_REDIRECT", "slot").output().expect("the program starts");
    assert!(output.status.success(), "{output:?}");
    let made = std::fs::read_to_string(&file).expect("it was written");
    std::fs::remove_file(file).expect("a file of this test");
    assert_eq!(
        shape(&saved),
        shape(&made),
        "make the picture anew: exeunt anatomy --self --only thread --frames 2 --svg"
    );
    assert!(saved.len() <= 40 << 10 && shape(&saved).1.len() >= 8, "{:?}", shape(&saved).1);
}

#[test]
fn a_process_that_does_not_exist_is_refused_with_what_helps() {
    // The kernel's numbers are smaller than this.
    let problem = refused(&anatomy(&["2147483647"]));
    assert!(problem.contains("There is no process 2147483647. `ps -e` lists"), "{problem}");
    let none = anatomy(&[]);
    assert_eq!(none.status.code(), Some(2), "a process or --self is needed: {none:?}");
}

#[test]
fn another_users_process_is_refused_with_what_helps() {
    if !has_ptrace() {
        return;
    }
    // SAFETY: a query.
    let is_root = unsafe { libc::geteuid() } == 0;
    let mut command = exeunt();
    // The first process is root's.
    let mut other = is_root.then(|| Command::new("sleep").arg("100").spawn().expect("sleep starts"));
    let number = other.as_ref().map_or(1, Child::id).to_string();
    command.args(["anatomy", &number]);
    let copy = std::env::temp_dir().join(format!("exeunt-anatomy-{}", std::process::id()));
    if is_root {
        // Where this program lies, another user may have no right to read.
        std::fs::copy(env!("CARGO_BIN_EXE_exeunt"), &copy).expect("a copy");
        let (arguments, nobody) = (command.get_args().map(ToOwned::to_owned).collect::<Vec<_>>(), 65534);
        command = Command::new(&copy);
        command.args(arguments).uid(nobody).gid(nobody);
    }
    let output = command.output();
    if let Some(other) = &mut other {
        std::fs::remove_file(&copy).expect("a file of this test");
        other.kill().expect("a child of this test");
        other.wait().expect("a child to wait for");
    }
    let problem = refused(&output.expect("the program starts"));
    assert!(problem.contains(&format!("Process {number} may not be read: it belongs to another user")), "{problem}");
    assert!(problem.contains("Run exeunt as that user, or as root."), "{problem}");
}

#[test]
fn without_arguments_the_error_names_both_ways_to_call_it() {
    let output = anatomy(&[]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("anatomy [OPTIONS] <PID>") && said.contains("anatomy [OPTIONS] --self"), "{said}");
}
