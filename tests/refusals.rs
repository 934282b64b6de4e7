//! The errors of a stack that cannot be armed at this time: before its function has begun, or after
//! it has ended.
#![cfg(target_os = "linux")]

#[path = "c/harness.rs"]
mod harness;

use exeunt::Error;
use harness::{Build, Outcome, Program};
use std::sync::OnceLock;

fn stages() -> &'static Program {
    static STAGES: OnceLock<Program> = OnceLock::new();
    STAGES.get_or_init(|| Build::linked("stages.c", &["-O2"]).build())
}

fn run(program: &Program, case: &str) -> Outcome {
    let mut command = program.command();
    command.env("CASE", case);
    harness::run(command)
}

#[test]
fn before_main_it_is_too_early_and_in_main_it_is_not() {
    run(stages(), "early").expect(0, &["preinit: too early", "constructor: too early", "main: armed", "handler"]);
}

#[test]
fn after_a_thread_has_returned_it_has_ended_whether_it_was_armed_or_not() {
    run(stages(), "thread").expect(0, &["key destructor: has ended"]);
    run(stages(), "thread, armed ").expect(0, &["handler", "key destructor: has ended"]);
}

#[test]
fn after_a_thread_has_exited_it_has_ended_whether_it_was_armed_or_not() {
    run(stages(), "thread exits").expect(0, &["key destructor: has ended"]);
    run(stages(), "thread, armed , exits").expect(0, &["handler", "key destructor: has ended"]);
}

#[test]
fn after_main_has_returned_it_has_ended_whether_it_was_armed_or_not() {
    run(stages(), "main").expect(0, &["atexit: has ended", "destructor: has ended"]);
    run(stages(), "main, armed ").expect(0, &["handler", "atexit: has ended", "destructor: has ended"]);
}

#[test]
fn after_main_has_exited_its_thread_it_has_ended_whether_it_was_armed_or_not() {
    run(stages(), "main, pthread_exit").expect(0, &["key destructor: has ended"]);
    run(stages(), "main, armed , pthread_exit").expect(0, &["handler", "key destructor: has ended"]);
}

#[test]
fn in_exit_on_main_a_stack_that_was_not_drained_yet_can_be_armed_and_its_handlers_run() {
    run(stages(), "main, only a destructor arms").expect(0, &["destructor: armed", "handler"]);
    let late = ["atexit: armed", "handler", "destructor: armed", "handler"];
    if harness::is_code() {
        // `main` is still an outer frame of `exit`, and no word of its stack shows that it was
        // drained.
        run(stages(), "main calls exit").expect(0, &late);
        run(stages(), "main, armed , calls exit").expect(0, &[&["handler"], &late[..]].concat());
    } else {
        run(stages(), "main calls exit").expect(0, &["atexit: armed", "handler", "destructor: has ended"]);
        run(stages(), "main, armed , calls exit").expect(0, &["handler", "atexit: has ended", "destructor: has ended"]);
    }
}

#[test]
fn a_static_program_gets_the_same_errors() {
    if !harness::has_static_libc() {
        return harness::not_run("a_static_program_gets_the_same_errors", "there is no libc to link statically");
    }
    let program = Build::linked("stages.c", &["-O2", "-static"]).build();
    // Where no index of unwind tables is linked, tables are found only after the first constructor
    // has registered them.
    run(&program, "early, but not first").expect(0, &["constructor: too early", "main: armed", "handler"]);
    run(&program, "thread").expect(0, &["key destructor: has ended"]);
    // libgcc of gcc 13 and later forgets all registered tables before the destructors of statics run
    // (`release_registered_frames` in its `unwind-dw2-fde.c`). From then on nothing is unwound.
    let destructor = match program.contains("release_registered_frames") {
        true => "destructor: refused",
        false => "destructor: has ended",
    };
    run(&program, "main").expect(0, &["atexit: has ended", destructor]);
    run(&program, "main, armed ").expect(0, &["handler", "atexit: has ended", destructor]);
    // An index needs no registration.
    let program = Build::linked("stages.c", &["-O2", "-static", "-Wl,--eh-frame-hdr"]).build();
    run(&program, "main").expect(0, &["atexit: has ended", "destructor: has ended"]);
}

fn is_refused(program: &Program, case: &str, texts: &[&str]) {
    let outcome = program.run(&[case]);
    outcome.expect(0, &["3"]);
    assert!(texts.iter().all(|text| outcome.errors.contains(text)), "{texts:?}: {outcome}");
}

#[test]
fn where_the_index_of_unwind_tables_is_missing_the_error_says_so() {
    let program = Build::linked("strange.c", &["-O2", "-Wl,--no-eh-frame-hdr"]).build();
    is_refused(&program, "plain", &["no index of its unwind tables (.eh_frame_hdr)", "-Wl,--eh-frame-hdr"]);
    let program = Build::linked("strange.c", &["-O2"]).build();
    program.run(&["plain"]).expect(0, &["0"]);
}

#[test]
fn code_outside_of_every_object_is_refused_with_advice_for_tracers_and_compilers() {
    let program = Build::linked("strange.c", &["-O2"]).build();
    is_refused(&program, "nowhere", &["no program or library", "rewrites return addresses", "__register_frame"]);
}

/// Fiber libraries that never return from a fiber's function store any word where the return
/// address is: minicoro `0xdeaddeaddeaddead`.
#[test]
fn a_stack_whose_outermost_return_address_is_no_code_is_refused() {
    let program = Build::linked("strange.c", &["-O2"]).build();
    for foot in
        ["0", "1", "8", "1000", "1001", "7ffffffff000", "deaddeaddeaddead", "fffffffffffffff8", "ffffffffffffffff"]
    {
        program.run(&["above", foot]).expect(0, &["3"]);
    }
}

#[test]
fn the_error_on_a_thread_of_a_second_libc_names_that_libc() {
    let program = Build::linked("strange.c", &["-O2"]).build();
    if program.run(&["other libc"]).output.starts_with("no threads") {
        return harness::not_run(
            "the_error_on_a_thread_of_a_second_libc_names_that_libc",
            "glibc has them there since 2.34",
        );
    }
    is_refused(&program, "other libc", &["second copy of libc", "exeunt_enter"]);
}

#[test]
fn code_that_cannot_be_patched_for_too_many_open_files_can_be_once_there_are_fewer() {
    let outcome = Build::linked("strange.c", &["-O2"]).build().run(&["no files"]);
    if harness::is_code() {
        outcome.expect(0, &["3", "0"]);
        assert!(outcome.errors.contains("Too many open files"), "{outcome}");
    } else {
        outcome.expect(0, &["0", "0"]);
    }
}

#[test]
fn a_destructor_of_a_thread_local_after_the_handlers_gets_an_error_that_the_stack_has_ended() {
    struct Late(Option<std::sync::mpsc::Sender<Error>>);
    impl Drop for Late {
        fn drop(&mut self) {
            if let Some(sender) = self.0.take() {
                sender.send(exeunt::id().expect_err("the stack's function has returned")).unwrap();
            }
        }
    }
    thread_local! { static LATE: std::cell::RefCell<Late> = const { std::cell::RefCell::new(Late(None)) } }
    for armed in [false, true] {
        let (sender, receiver) = std::sync::mpsc::channel();
        let body = move || {
            LATE.with_borrow_mut(|late| late.0 = Some(sender));
            if armed {
                exeunt::at_exit(|| ()).unwrap();
            }
        };
        std::thread::spawn(body).join().unwrap();
        assert_eq!(receiver.recv().unwrap(), Error::StackHasEnded);
    }
}
