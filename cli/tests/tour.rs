//! The tour: its numbers fit together; its output is in colour on a terminal and plain elsewhere.

mod common;

use common::{exeunt, text};
use std::io::Read;
use std::os::fd::{FromRawFd, OwnedFd};
use std::process::{Command, Output};
use std::sync::OnceLock;

fn take_the_tour() -> Output {
    let output = exeunt().output().expect("the program starts");
    assert!(output.status.success(), "{output:?}");
    output
}

/// One tour, for the tests that check different parts of it.
fn tour() -> &'static Output {
    static TOUR: OnceLock<Output> = OnceLock::new();
    TOUR.get_or_init(take_the_tour)
}

/// The part of the tour about one stack, by its number.
fn part(tour: &str, number: usize) -> &str {
    let start = tour.find(&format!("\n{number}  ")).expect("a heading");
    let end = tour.find(&format!("\n{}  ", number + 1)).unwrap_or(tour.len());
    &tour[start..end]
}

/// The first hexadecimal number of a line, and the text behind it.
fn numbered(line: &str) -> Option<(usize, &str)> {
    let (number, rest) = line.trim_start().split_once(' ')?;
    Some((usize::from_str_radix(number.strip_prefix("0x")?, 16).ok()?, rest))
}

/// A row of the drawing: address, word before, word after, and the text beside it.
fn rows(part: &str) -> Vec<(usize, usize, usize, &str)> {
    part.lines()
        .filter_map(|line| {
            let mut cells = line.split('│').map(str::trim);
            let address = cells.next()?.trim_start_matches("foot ▸").trim();
            let word = |cell: &str| usize::from_str_radix(cell, 16).ok();
            let address = usize::from_str_radix(address.strip_prefix("0x")?, 16).ok()?;
            let was = word(cells.next()?)?;
            let now = word(cells.nth(1)?)?;
            Some((address, was, now, cells.next()?))
        })
        .collect()
}

fn plain(word: usize) -> usize {
    // On aarch64 the word may have a signature, in the bits that addresses do not use.
    if cfg!(target_arch = "aarch64") { word & ((1 << 48) - 1) } else { word }
}

/// Checks that the numbers in one part of the tour fit together.
fn check(part: &str, exit_trampoline: &str) {
    let (unarmed, _) = part.split_once("The foot, before and after").expect("a drawing behind the frames");
    let unarmed: Vec<_> = unarmed.lines().filter_map(numbered).collect();
    let (exit, _) = *unarmed.iter().find(|(_, rest)| rest.ends_with("◂ exit trampoline")).expect("an exit trampoline");
    let rows = rows(part);
    let foot = part.lines().find_map(|line| line.trim_start().strip_prefix("foot ▸ ")).expect("a foot");
    let (foot, _) = numbered(foot).expect("its address");
    let changed: Vec<_> = rows.iter().filter(|(_, was, now, _)| was != now).collect();
    assert_eq!(changed.len(), 1, "one word of the stack changed, the foot: {part}");
    let &&(address, was, now, beside) = changed.first().expect("it is one");
    assert_eq!(address, foot);
    assert_eq!(plain(was), exit, "before, the foot holds the address that unwinding found");
    assert!(beside.starts_with(exit_trampoline), "{beside}");
    assert!(rows.windows(2).all(|pair| pair[0].0 == pair[1].0 + 8), "words in a row, highest first");

    let (_, below) = part.split_once(beside).expect("the row is there");
    let caption = below.lines().nth(1).expect("a line below the foot");
    assert!(caption.contains("now exeunt_trampoline ("), "{caption}");
    let differ = was.to_ne_bytes().iter().zip(now.to_ne_bytes()).filter(|(was, now)| **was != *now).count();
    assert!(caption.contains(&format!("{differ} bytes changed:")), "{caption}");
    assert_eq!(caption.matches("^^").count(), differ, "two carets for each byte: {caption}");

    assert!(part.contains("New: exeunt_trampoline."), "armed, unwinding finds one frame more: {part}");
    let order = ["handler 3:", "handler 2:", "handler 1:"].map(|handler| part.find(handler).expect(handler));
    assert!(order.is_sorted(), "handlers run last in first out: {part}");
    assert!(part.contains("is still there, \"black\""), "a handler finds the stack's values: {part}");

    let in_handler = &part[order[1]..order[2]];
    assert!(in_handler.contains("complete to the outermost frame"), "{in_handler}");
    let in_handler: Vec<_> = in_handler.lines().filter_map(numbered).collect();
    let at = |frames: &[(usize, &str)]| frames.iter().position(|&(pc, _)| pc == exit).expect("the exit trampoline");
    assert_eq!(
        in_handler[at(&in_handler)..],
        unarmed[at(&unarmed)..],
        "from the exit trampoline on, a backtrace in a handler is what it was before the stack was armed"
    );
    assert!(in_handler[..at(&in_handler)].last().is_some_and(|(_, rest)| rest.contains("◂ trampoline of exeunt")));
}

#[test]
fn a_thread_is_shown_unarmed_armed_and_ending() {
    let tour = tour();
    let part = part(text(tour), 1);
    check(part, "start_thread (");
    assert!(part.contains("Joined; \"its result\" arrived unchanged."), "{part}");
}

#[test]
fn a_fiber_is_armed_on_one_thread_and_its_handlers_run_on_another() {
    let tour = tour();
    let part = part(text(tour), 2);
    check(part, "__start_context (");
    let word_after = |before: &str| part.split(before).nth(1).and_then(|rest| rest.split([' ', ',', '.']).next());
    let (armed_on, ended_on) = (word_after("On thread "), word_after("handler 3: on thread "));
    assert!(armed_on.is_some() && ended_on.is_some() && armed_on != ended_on, "{part}");
    assert_eq!(word_after("armed on "), armed_on);
}

#[test]
fn the_main_thread_is_shown_and_its_handlers_run_when_main_has_returned() {
    let tour = tour();
    let part = part(text(tour), 4);
    // Since glibc 2.34, or before.
    let since = part.contains("__libc_start_call_main (");
    check(part, if since { "__libc_start_call_main (" } else { "__libc_start_main (" });
    assert!(part.find("main returns.") < part.find("handler 3:"), "{part}");
}

#[test]
fn code_redirect_is_shown_with_the_call_before_and_after_and_a_foot_that_stays() {
    let tour = tour();
    let part = part(text(tour), 3);
    let code = |what: &str| {
        let line = part.lines().find(|line| line.trim_start().starts_with(what)).unwrap_or_else(|| panic!("{part}"));
        let (bytes, text) = line.split_once(what).expect("just found").1.trim().split_once(" (").expect("disassembly");
        (bytes.to_owned(), text.trim_end_matches(')').to_owned())
    };
    let ((bytes_before, before), (bytes_after, after)) = (code("before"), code("after"));
    assert_eq!(bytes_before.split(' ').next(), bytes_after.split(' ').next(), "the same address: {part}");
    assert_ne!(bytes_before, bytes_after);
    let call = if cfg!(target_arch = "x86_64") { "call 0x" } else { "bl 0x" };
    assert!(before.starts_with(call) && after.starts_with(call), "{part}");
    assert!(part.contains("is as it was: 0x"), "{part}");
    assert!(part.contains("complete to the outermost frame") && part.contains("◂ hook of exeunt"), "{part}");
    assert!(part.contains("its result arrived unchanged"), "{part}");
}

#[test]
fn the_tour_ends_with_where_to_read_more() {
    let tour = tour();
    let end: Vec<_> = text(tour).trim_end().lines().rev().take(2).collect();
    assert!(end[1].starts_with("Read on in README.md"), "{end:?}");
    assert!(end[0].contains("doctor"), "{end:?}");
}

#[test]
fn the_numbers_of_two_tours_differ_because_they_are_from_two_processes() {
    let first_line = |output: &Output| text(output).lines().next().map(str::to_owned);
    assert_ne!(first_line(tour()), first_line(&take_the_tour()));
}

#[test]
fn piped_output_has_no_escape_codes() {
    assert!(!tour().stdout.contains(&0x1b));
}

/// Runs a command whose standard output and error are a terminal, and returns what it printed
/// there.
fn on_a_terminal(mut command: Command) -> String {
    let (mut outer, mut inner) = (0, 0);
    let none = std::ptr::null_mut();
    // SAFETY: fills in the two descriptors, which the `OwnedFd`s take; name, settings and size are
    // optional.
    let (outer, inner) = unsafe {
        assert_eq!(libc::openpty(&raw mut outer, &raw mut inner, none, none.cast(), none.cast()), 0);
        (OwnedFd::from_raw_fd(outer), OwnedFd::from_raw_fd(inner))
    };
    let mut child = command
        .env("TERM", "xterm-256color")
        .stdout(inner.try_clone().expect("a descriptor"))
        .stderr(inner)
        .spawn()
        .expect("the program starts");
    drop(command); // closes the terminal's inner end too, so that reading ends with the child
    let mut printed = Vec::new();
    // On Linux a read from a terminal whose inner end is closed fails with EIO.
    let _ = std::fs::File::from(outer).read_to_end(&mut printed);
    assert!(child.wait().expect("a child to wait for").success());
    String::from_utf8(printed).expect("the program prints UTF-8")
}

#[test]
fn on_a_terminal_the_tour_is_in_colour_and_has_the_same_text() {
    let printed = on_a_terminal(exeunt());
    assert!(printed.contains("\x1b["), "{printed}");
    let mut without = String::new();
    let mut rest = printed.as_str();
    while let Some((before, after)) = rest.split_once("\x1b[") {
        without += before;
        rest = after.split_once('m').expect("only colours").1;
    }
    without += rest;
    assert!(!without.contains('\x1b'), "{without}");
    check(part(&without.replace("\r\n", "\n"), 1), "start_thread (");
}

#[test]
fn on_a_terminal_no_color_is_respected() {
    let mut command = exeunt();
    command.env("NO_COLOR", "1");
    let printed = on_a_terminal(command);
    assert!(!printed.contains('\x1b') && printed.contains("Read on in"), "{printed}");
}

#[test]
fn a_closed_pipe_ends_the_tour_without_an_error_message() {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let output = exeunt().stdout(writer).output().expect("the program starts");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert!(!output.status.success(), "ended by SIGPIPE, or by the emulator that was: {output:?}");
}
