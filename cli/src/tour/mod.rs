//! The tour arms three stacks, shows them, and lets them end. A child process shows a fourth stack
//! under code redirect.
//!
//! The main thread comes last, because it really ends: its handlers print the last part after
//! `main` has returned.

mod code_redirect;
mod picture;

use crate::fiber::{Fiber, Memory, Suspender};
use crate::frames;
use crate::machine::{self, thread};
use crate::memory_map::MemoryMap;
use crate::paint::{BAD, FAINT, GOOD, MARK, OURS, THEIRS, TITLE, paint};
use anstream::println;
use exeunt::{Builder, Error, FootInfo, Redirect, Stack};
use picture::{Words, draw};
use std::process::ExitCode;

/// Runs the tour on the main thread. Its last part runs after `main` has returned.
pub fn run() -> ExitCode {
    let code_redirect_part = code_redirect::ChildOutput::collect();
    // The other parts show slot redirect.
    if let Err(error) = Builder::new().redirect(Redirect::Slot).install() {
        anstream::eprintln!("{error}");
        return ExitCode::FAILURE;
    }
    let (kernel, libc) = (machine::kernel(), machine::libc());
    println!(
        "{}: the tour    {}",
        paint(TITLE, "exeunt"),
        paint(
            FAINT,
            format!(
                "{}, {} {}, {} {}, process {}",
                std::env::consts::ARCH,
                libc.name,
                libc.version,
                kernel.system,
                kernel.release,
                std::process::id()
            )
        )
    );
    println!(
        "\nA stack ends when its {entry} returns into the {exit}. The word of the stack\n\
         that holds this return address is its {foot}. exeunt writes the address of a {ours}\n\
         there, which runs the stack's handlers and then continues to the exit trampoline. With code\n\
         redirect, it changes a call in the exit trampoline instead (part 3).\n\
         All addresses, words and names below are from this process.",
        entry = paint(MARK, "entry function"),
        exit = paint(THEIRS, "exit trampoline"),
        foot = paint(MARK, "foot"),
        ours = paint(OURS, "trampoline of its own"),
    );
    let shown = [show_a_thread(), show_a_fiber(), show_code_redirect(code_redirect_part), show_main()];
    let mut status = ExitCode::SUCCESS;
    for problem in shown.into_iter().filter_map(Result::err) {
        anstream::eprintln!("{}: {problem}", paint(BAD, "this stack could not be shown"));
        status = ExitCode::FAILURE;
    }
    status
}

type Shown = Result<(), Box<dyn std::error::Error + Send + Sync>>;

fn show_a_thread() -> Shown {
    title(1, "A thread, which std::thread::spawn started");
    let there = std::thread::spawn(|| show_and_arm(|| ()).map(|()| "its result")).join();
    let result = there.map_err(|_| "the thread panicked")??;
    println!("   {} Joined; {result:?} arrived unchanged.", paint(GOOD, "✓"));
    Ok(())
}

fn show_a_fiber() -> Shown {
    title(2, "A makecontext fiber, which changes threads");
    if !cfg!(target_env = "gnu") {
        println!("   exeunt supports no fibers of this system. Run the fibers of libraries in exeunt::enter.");
        return Ok(());
    }
    let memory = Memory::map()?;
    let (sender, receiver) = std::sync::mpsc::channel();
    let mut fiber = Fiber::on(&memory, move |suspender| {
        let result = show_and_arm(|| ());
        change_threads(suspender);
        let _ = sender.send(result);
        println!("   Thread {} resumed it.", thread());
    });
    let resume = |fiber: Fiber| {
        let mut fiber = fiber;
        std::thread::spawn(move || (fiber.resume(), fiber).1).join().map_err(|_| "the thread panicked")
    };
    fiber = resume(fiber)?;
    fiber = resume(fiber)?;
    drop(fiber);
    receiver.recv()??;
    println!("   {} At its end it returned to the thread that resumed it last.", paint(GOOD, "✓"));
    Ok(())
}

/// Never inlined, because the compiler must not keep addresses of thread-locals across the switch.
#[inline(never)]
fn change_threads(suspender: &Suspender) {
    println!("   It suspends itself, and thread {} ends.", thread());
    suspender.suspend();
}

fn show_code_redirect(output: code_redirect::ChildOutput) -> Shown {
    title(3, "Code redirect (EXEUNT_REDIRECT=code), in a child process");
    output.print()
}

fn show_main() -> Shown {
    title(4, "The main thread");
    show_and_arm(|| {
        println!("   {} The handlers ran after main had returned; the process exits now.\n", paint(GOOD, "✓"));
        // Cargo sets this for the programs that it runs. Without it, this program is installed and
        // the sources may be elsewhere.
        let doctor = if std::env::var_os("CARGO").is_some() {
            println!(
                "Read on in {}, and in the documentation: {}.",
                paint(MARK, "README.md"),
                paint(MARK, "cargo doc -p exeunt --open")
            );
            "cargo run -- doctor"
        } else {
            "exeunt doctor"
        };
        println!("To see what this machine allows, and to test every kind of stack and end: {}.", paint(MARK, doctor));
    })?;
    println!("   main returns.");
    Ok(())
}

fn title(number: u32, text: &str) {
    const WIDTH: usize = 92;
    let rule = "━".repeat(WIDTH.saturating_sub(text.chars().count()));
    println!("\n{}  {} {}", paint(TITLE, number), paint(TITLE, text), paint(FAINT, rule));
}

/// Shows the running stack, arms it with three handlers, and shows it again. The last handler calls
/// `last` at its end.
#[inline(never)]
fn show_and_arm(last: impl FnOnce() + 'static) -> Result<(), Error> {
    let before = Stack::current();
    let Some(foot) = before.foot().cloned() else {
        return Err(before.problem().cloned().unwrap_or(Error::Busy));
    };
    let bare = frames::addresses();
    println!("   On thread {}, unarmed. Unwinding finds, innermost first:", thread());
    frames::print(&frames::named(&bare), &foot, false);

    let words = Words::around(&foot);
    let armed_on = thread();
    exeunt::at_exit(move || first_handler(last))?;
    let then = Words::around(&foot);
    let (foot_then, bare_then) = (foot.clone(), bare.clone());
    exeunt::at_exit(move || second_handler(&foot_then, &bare_then))?;
    exeunt::at_exit(move || third_handler(armed_on))?;
    exeunt::set("ink", "black")?;

    let armed = frames::addresses();
    let after = Stack::current();
    println!("   The foot, before and after exeunt::at_exit:");
    draw(&after, &words, &then);
    println!(
        "   Armed: stack {}. Unwinding finds {} frames, {} before. {}",
        after.id().map_or(0, exeunt::StackId::get),
        armed.len(),
        bare.len(),
        difference(&bare, &armed, &foot),
    );
    Ok(())
}

/// Describes the frames that arming added to a stack.
fn difference(bare: &[usize], armed: &[usize], foot: &FootInfo) -> String {
    let map = MemoryMap::read();
    let name =
        |pc: &usize| frames::named(&[*pc]).first().map_or_else(String::new, |frame| frames::name(frame, foot, &map));
    // The innermost frame is the function that took the backtrace, at another address each time.
    let new = armed.iter().skip(1).filter(|pc| !bare.contains(pc));
    let new: Vec<_> = new.map(|pc| paint(OURS, name(pc)).to_string()).collect();
    format!("New: {}. Outermost: {}.", new.join(", "), armed.last().map_or("none".to_owned(), name))
}

fn third_handler(armed_on: i32) {
    let here = thread();
    println!("   The entry function has returned. The handlers run, last in first out:");
    let moved = if here == armed_on { "where it was armed".to_owned() } else { format!("armed on {armed_on}") };
    let ink = exeunt::get::<&str>(&"ink").map_or("gone".to_owned(), |ink| format!("still there, {ink:?}"));
    println!("   {} on thread {here}, {moved}. The value of \"ink\" is {ink}.", handler(3));
}

fn second_handler(foot: &FootInfo, bare: &[usize]) {
    let frames = frames::addresses();
    let outer = frames::beyond_exit_trampoline(&frames, foot);
    let complete = outer.is_some() && outer == frames::beyond_exit_trampoline(bare, foot);
    let verdict = if complete { "complete to the outermost frame" } else { "and it is NOT complete" };
    println!("   {} its backtrace, {verdict}:", handler(2));
    frames::print(&frames::named(&frames), foot, true);
}

fn first_handler(last: impl FnOnce()) {
    let stack = Stack::current();
    let state = if stack.is_draining() { "draining" } else { "not draining" };
    println!(
        "   {} on stack {}, {state}. Registered first, it runs last.",
        handler(1),
        stack.id().map_or(0, |id| id.get())
    );
    last();
}

fn handler(number: u32) -> impl std::fmt::Display {
    paint(OURS, format!("handler {number}:"))
}
