//! The main thread, whose ends are ends of the process. Each case is a child process; the test
//! checks its output and exit status.
//!
//! The harness runs tests on threads, so this file does not use it (`harness = false`). `main`
//! either runs the cases, or is one of them.

mod common;

use common::process;
use common::selection::Selection;
use std::cell::RefCell;
use std::hash::{Hash, Hasher};

/// Prints when it is dropped.
struct Loud(&'static str);

impl Drop for Loud {
    fn drop(&mut self) {
        println!("drop {}", self.0);
    }
}

exeunt::stack_local! {
    static LOCAL: RefCell<Option<Loud>> = const { RefCell::new(None) };
}

thread_local! {
    static THREADS: RefCell<Option<Loud>> = const { RefCell::new(None) };
}

/// Stores a value of each kind, and registers a handler that finds it.
fn store() {
    THREADS.set(Some(Loud("thread_local")));
    LOCAL.set(Some(Loud("stack local")));
    exeunt::set("key", Loud("value")).expect("the main thread can be armed");
    exeunt::at_exit(|| {
        exeunt::with(&"key", |value: Option<&Loud>| assert!(value.is_some()));
        LOCAL.with_borrow(|value| assert!(value.is_some()));
        assert!(exeunt::Stack::current().is_draining());
        println!("handler");
    })
    .expect("the main thread can be armed");
}

/// A key whose comparison ends the process.
struct Exits;

impl Hash for Exits {
    fn hash<H: Hasher>(&self, _: &mut H) {}
}

impl PartialEq for Exits {
    fn eq(&self, _: &Self) -> bool {
        std::process::exit(9)
    }
}

impl Eq for Exits {}

/// Its destructor ends the process.
struct ExitsOnDrop;

impl Drop for ExitsOnDrop {
    fn drop(&mut self) {
        println!("exit in a destructor");
        std::process::exit(9)
    }
}

fn store_and_exit_in_handlers() {
    store();
    for (says, status) in [("another handler exits", 11), ("handler exits", 9)] {
        exeunt::at_exit(move || {
            println!("{says}");
            // std has begun its own exit by now, and aborts at a second call of it.
            // SAFETY: as for C.
            unsafe { libc::exit(status) }
        })
        .expect("it is armed");
    }
}

const DRAINED: [&str; 3] = ["handler", "drop value", "drop stack local"];

#[inline(never)]
fn deep(depth: usize, end: fn()) {
    if depth == 0 {
        end();
    } else {
        deep(depth - 1, end);
    }
    std::hint::black_box(depth);
}

/// A case: what the main thread does, the status that its process ends with, and what it prints.
struct Case {
    name: &'static str,
    code: fn(),
    status: i32,
    prints: &'static [&'static [&'static str]],
}

const CASES: &[Case] = &[
    Case {
        name: "a main that returns drains before its thread locals",
        code: store,
        status: 0,
        prints: &[&DRAINED, &["drop thread_local"]],
    },
    Case {
        name: "exit deep in main drains, and its status arrives",
        code: || {
            store();
            deep(20, || std::process::exit(7));
        },
        status: 7,
        prints: &[&DRAINED, &["drop thread_local"]],
    },
    Case {
        name: "exit in the comparison of a key that is read drains",
        code: || {
            store();
            exeunt::set(Exits, 1).expect("it is armed");
            _ = exeunt::get::<i32>(&Exits);
        },
        status: 9,
        prints: &[&DRAINED, &["drop thread_local"]],
    },
    Case {
        name: "exit in the comparison of a key that is set drains",
        code: || {
            store();
            exeunt::set(Exits, 1).expect("it is armed");
            exeunt::set(Exits, 2).expect("it ends the process");
        },
        status: 9,
        prints: &[&DRAINED, &["drop thread_local"]],
    },
    Case {
        name: "exit in a with does not drop the value that is lent, and drops the others",
        code: || {
            store();
            exeunt::set("last", Loud("last")).expect("the main thread can be armed");
            exeunt::with(&"key", |_: Option<&Loud>| std::process::exit(9));
        },
        status: 9,
        prints: &[&["handler", "drop last", "drop stack local", "drop thread_local"]],
    },
    Case {
        name: "exit in a with leaves the value alone also where a handler resets",
        code: || {
            exeunt::set("key", Loud("value")).expect("the main thread can be armed");
            exeunt::at_exit(|| {
                exeunt::reset().unwrap();
                println!("reset");
            })
            .expect("it is armed");
            exeunt::with(&"key", |_: Option<&Loud>| std::process::exit(9));
        },
        status: 9,
        prints: &[&["reset"]],
    },
    Case {
        name: "what is registered as late as in an atexit function runs",
        code: || {
            extern "C" fn late() {
                exeunt::set("late", Loud("late value")).expect("main has not returned");
                exeunt::at_exit(|| println!("late handler")).expect("main has not returned");
                println!("registered");
            }
            // SAFETY: the function does only what any function may do.
            unsafe { libc::atexit(late) };
            std::process::exit(4);
        },
        status: 4,
        prints: &[&["registered", "late handler", "drop late value"]],
    },
    Case {
        name: "exit in a destructor that a reset runs drops the others too",
        code: || {
            LOCAL.set(Some(Loud("stack local")));
            exeunt::set("first", Loud("first")).expect("the main thread can be armed");
            exeunt::set("exits", ExitsOnDrop).expect("it is armed");
            exeunt::set("last", Loud("last")).expect("it is armed");
            exeunt::at_exit(|| println!("handler")).expect("it is armed");
            exeunt::reset().unwrap();
        },
        status: 9,
        prints: &[&["drop last", "exit in a destructor", "drop first", "drop stack local", "handler"]],
    },
    Case {
        name: "exit in a destructor that an unload runs drops the others too",
        code: || {
            exeunt::set("key", Loud("value")).expect("the main thread can be armed");
            let (first, exits, last) = (Loud("held by the first"), ExitsOnDrop, Loud("held by the last"));
            exeunt::at_exit(move || drop(first)).expect("it is armed");
            exeunt::at_exit(move || drop(exits)).expect("it is armed");
            exeunt::at_exit(move || drop(last)).expect("it is armed");
            exeunt::unload().unwrap();
        },
        status: 9,
        prints: &[&["drop held by the first", "exit in a destructor", "drop held by the last", "drop value"]],
    },
    Case {
        name: "a panic in main drains, and the status is that of a panic",
        code: || {
            store();
            deep(20, || panic!("out of main"));
        },
        status: 101,
        prints: &[&DRAINED, &["drop thread_local"]],
    },
    Case {
        name: "one exit after the other in handlers that main's return runs: the last one's status, and the rest is drained once",
        code: store_and_exit_in_handlers,
        status: 11,
        prints: &[&["handler exits", "another handler exits"], &DRAINED, &["drop thread_local"]],
    },
    Case {
        name: "one exit after the other in handlers that an exit runs: the last one's status, and the rest is drained once",
        code: || {
            store_and_exit_in_handlers();
            // SAFETY: as for C.
            deep(20, || unsafe { libc::exit(7) });
        },
        status: 11,
        prints: &[&["handler exits", "another handler exits"], &DRAINED, &["drop thread_local"]],
    },
    Case {
        name: "exit after an unload that a lent value has survived drains what has come since",
        code: || {
            LOCAL.set(Some(Loud("stack local")));
            LOCAL.with(|_| {
                exeunt::unload().unwrap();
                store();
                std::process::exit(7)
            });
        },
        status: 7,
        // The thread-local was made after the safety net.
        prints: &[&["drop thread_local"], &DRAINED],
    },
    Case {
        name: "exit in a handler after an unload drains what has come since",
        code: || {
            store();
            exeunt::at_exit(|| {
                exeunt::unload().unwrap();
                exeunt::at_exit(|| println!("the last handler")).expect("it is armed");
                // SAFETY: as for C.
                unsafe { libc::exit(9) }
            })
            .expect("it is armed");
        },
        status: 9,
        prints: &[&["drop value", "drop stack local"], &["the last handler"], &["drop thread_local"]],
    },
    Case {
        name: "a main thread that unloads drops its values, runs no handler, and ends as ever",
        code: || {
            store();
            exeunt::unload().unwrap();
            println!("unloaded");
            assert!(!exeunt::Stack::current().is_armed());
        },
        status: 0,
        prints: &[&["drop value", "drop stack local"], &["unloaded"], &["drop thread_local"]],
    },
    Case {
        name: "an exit on another thread ends the process without the main thread's handlers",
        code: || {
            store();
            std::thread::spawn(|| {
                exeunt::at_exit(|| println!("not run: this thread never ends")).expect("a thread can be armed");
                std::process::exit(3)
            })
            .join()
            .expect("the process ends first");
        },
        status: 3,
        prints: &[],
    },
    Case {
        name: "an abort runs nothing",
        code: || {
            store();
            std::process::abort();
        },
        // Not a status but a signal.
        status: -libc::SIGABRT,
        prints: &[],
    },
    Case {
        name: "stack_current shows the main thread's kind, bounds and exit trampoline",
        code: || {
            let stack = exeunt::Stack::current();
            assert_eq!((stack.kind(), stack.is_armed(), stack.problem()), (exeunt::Kind::Main, false, None));
            let foot = stack.foot().expect("it has a foot");
            let bounds = stack.bounds().expect("the system reports them");
            assert!(bounds.contains(&foot.address) && bounds.contains(&(&raw const stack).addr()));
            assert_eq!(foot.word, foot.original);
            exeunt::at_exit(|| ()).expect("the main thread can be armed");
            let armed = exeunt::Stack::current();
            assert!(armed.is_armed());
            assert_eq!(armed.foot().map(|foot| foot.original), Some(foot.original));
        },
        status: 0,
        prints: &[],
    },
];

fn main() {
    if let Some(role) = process::role() {
        let case = CASES.iter().find(|case| case.name == role).expect("a case of that name");
        return (case.code)();
    }
    let selection = Selection::of_arguments();
    if selection.list {
        CASES.iter().for_each(|case| println!("{}: test", case.name));
        return;
    }
    let chosen: Vec<_> = CASES.iter().filter(|case| selection.includes(case.name)).collect();
    println!("\nrunning {} tests", chosen.len());
    let mut failed = 0;
    for case in &chosen {
        let output = process::play(case.name, &[]);
        let mut expected: Vec<&str> = case.prints.concat();
        // musl's `exit` destroys no thread-locals.
        expected.retain(|line| !cfg!(target_env = "musl") || *line != "drop thread_local");
        let printed = String::from_utf8_lossy(&output.stdout);
        let status = output.status.code().unwrap_or_else(|| {
            use std::os::unix::process::ExitStatusExt;
            -output.status.signal().expect("it has ended")
        });
        let right = status == case.status && printed.lines().eq(expected.iter().copied());
        println!("test {} ... {}", case.name, if right { "ok" } else { "FAILED" });
        if !right {
            failed += 1;
            println!("  status {status}, not {}; printed:\n{printed}", case.status);
            println!("  instead of {expected:?}; errors:\n{}", String::from_utf8_lossy(&output.stderr));
        }
    }
    println!(
        "\ntest result: {}. {} passed; {failed} failed\n",
        if failed == 0 { "ok" } else { "FAILED" },
        chosen.len() - failed
    );
    std::process::exit(if failed == 0 { 0 } else { 101 });
}
