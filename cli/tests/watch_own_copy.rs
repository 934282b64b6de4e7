//! A program that has a copy of exeunt of its own, and arms its main thread by it after `exeunt watch
//! --pid` has attached. The program is this test itself, so it has a `main` of its own instead of the
//! harness's, which runs tests on other threads.

fn main() {
    #[cfg(all(target_os = "linux", target_env = "gnu", target_arch = "x86_64"))]
    match std::env::args().nth(1).as_deref() {
        Some(test::PROGRAM) => test::program(),
        _ => test::a_program_arms_main_by_its_own_copy_of_exeunt_while_it_is_watched(),
    }
}

#[cfg(all(target_os = "linux", target_env = "gnu", target_arch = "x86_64"))]
mod test {
    use std::io::{BufRead, BufReader, Read, Write, stdin};
    use std::process::{Command, Stdio};

    /// The argument that makes this the program.
    pub const PROGRAM: &str = "program";

    pub fn program() {
        let mut lines = stdin().lines();
        println!("ready");
        lines.next();
        match exeunt::at_exit(|| println!("main ends")) {
            Ok(()) => println!("armed"),
            Err(error) => println!("refused: {error}"),
        }
        lines.next();
    }

    pub fn a_program_arms_main_by_its_own_copy_of_exeunt_while_it_is_watched() {
        for redirect in ["slot", "code"] {
            for lets_go in [false, true] {
                let case = format!("{redirect}, exeunt lets go: {lets_go}");
                let (said, rows) = watched(redirect, lets_go);
                assert_eq!(said, "ready\narmed\nmain ends\n", "{case}: {rows}");
                let end = if lets_go { "runs on" } else { "returned 0" };
                let main = rows.lines().find(|row| row.contains("  main  ")).unwrap_or_default();
                assert!(main.trim_end().ends_with(end), "{case}: {rows}");
            }
        }
    }

    /// What the program and the watch print.
    fn watched(redirect: &str, lets_go: bool) -> (String, String) {
        let mut program = Command::new(std::env::current_exe().expect("this file"));
        program.arg(PROGRAM).env("EXEUNT_REDIRECT", redirect).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut program = program.spawn().expect("the program starts");
        let mut input = program.stdin.take().expect("a pipe");
        let mut output = BufReader::new(program.stdout.take().expect("a pipe"));
        let mut said = String::new();
        output.read_line(&mut said).expect("text");
        let mut watch = Command::new(env!("CARGO_BIN_EXE_exeunt"));
        watch.args(["watch", "--live", "--pid", &program.id().to_string()]).stderr(Stdio::piped());
        let mut watch = watch.spawn().expect("exeunt starts");
        let mut report = BufReader::new(watch.stderr.take().expect("a pipe"));
        let mut rows = String::new();
        // It prints the headings when it has attached.
        report.read_line(&mut rows).expect("text");
        input.write_all(b"\n").expect("it reads");
        output.read_line(&mut said).expect("text");
        if lets_go {
            // SAFETY: a child of this test that was not waited for.
            unsafe { libc::kill(watch.id().cast_signed(), libc::SIGINT) };
            report.read_to_string(&mut rows).expect("text");
        }
        drop(input);
        output.read_to_string(&mut said).expect("text");
        report.read_to_string(&mut rows).expect("text");
        let status = (program.wait().expect("it ends").code(), watch.wait().expect("it ends").code());
        assert_eq!(status, (Some(0), Some(0)), "{said}{rows}");
        (said, rows)
    }
}
