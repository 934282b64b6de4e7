//! The cases of `main.rs`.

#[path = "../common/mod.rs"]
mod common;

use common::fiber::{Fiber, Pages};
use common::process;
use common::selection::Selection;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicU32, Ordering};

/// Prints when it is dropped, and cannot be used any more then.
struct Loud(&'static str, Box<AtomicU32>);

impl Loud {
    fn new(name: &'static str) -> Self {
        Self(name, Box::new(AtomicU32::new(1)))
    }
}

impl Drop for Loud {
    fn drop(&mut self) {
        say(b"drop ");
        say(self.0.as_bytes());
        say(b"\n");
        self.1.store(0, Ordering::SeqCst);
    }
}

/// Prints at once, and allocates nothing.
fn say(text: &[u8]) {
    // SAFETY: a string.
    unsafe { libc::write(1, text.as_ptr().cast(), text.len()) };
}

exeunt::stack_local! {
    static LENT: Loud = Loud::new("lent local");
    static OTHER: Loud = Loud::new("other local");
}

/// Lends the value to another thread, which uses it until the process has ended, and ends the
/// process meanwhile.
fn lend_and_exit(value: &Loud) {
    let uses = AtomicU32::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            loop {
                if value.1.load(Ordering::SeqCst) != 1 {
                    say(b"the value changed under its borrower\n");
                    return;
                }
                uses.fetch_add(1, Ordering::SeqCst);
            }
        });
        while uses.load(Ordering::SeqCst) == 0 {
            std::thread::yield_now();
        }
        std::process::exit(7)
    })
}

/// Reads a value that many frames further in.
#[inline(never)]
fn read_at(depth: usize) -> Option<&'static str> {
    let padding = std::hint::black_box([0_u8; 16]);
    let found = if depth == 0 { exeunt::get::<&str>(&"whose") } else { read_at(depth - 1) };
    std::hint::black_box(&padding);
    found
}

fn store() {
    OTHER.with(|_| ());
    exeunt::set("other", Loud::new("other value")).expect("the main thread can be armed");
    exeunt::at_exit(|| say(b"handler\n")).expect("the main thread can be armed");
    assert_eq!(exeunt::Stack::current().kind(), exeunt::Kind::Main);
}

/// An allocator that ends the process.
struct Exits;

thread_local! {
    /// The number of allocations before the one that ends the process, if one does.
    static LEFT: Cell<Option<usize>> = const { Cell::new(None) };
}

// SAFETY: passes everything on to the system's allocator, unless the process ends.
unsafe impl GlobalAlloc for Exits {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let left = LEFT.get();
        LEFT.set(left.and_then(|left| left.checked_sub(1)));
        if left == Some(0) {
            // SAFETY: as for C.
            unsafe { libc::exit(7) }
        }
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(place, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Exits = Exits;

/// A case: what the main thread does before it exits with status 7, and what it prints.
struct Case {
    name: &'static str,
    code: fn(),
    prints: &'static [&'static str],
}

const CASES: &[Case] = &[
    Case {
        name: "a stack local that another thread was lent is not dropped by exit",
        code: || {
            store();
            LENT.with(lend_and_exit);
        },
        prints: &["handler", "drop other value", "drop other local"],
    },
    Case {
        name: "a keyed value that another thread was lent is not dropped by exit",
        code: || {
            exeunt::set("lent", Loud::new("lent value")).expect("the main thread can be armed");
            store();
            exeunt::with(&"lent", |value: Option<&Loud>| lend_and_exit(value.expect("it is set")));
        },
        prints: &["handler", "drop other value", "drop other local"],
    },
    Case {
        name: "what a handler has lent is not dropped when that handler exits",
        code: || {
            store();
            exeunt::at_exit(|| {
                LENT.with(|value| {
                    exeunt::set("lent", Loud::new("lent value")).expect("it is armed");
                    exeunt::with(&"lent", |_: Option<&Loud>| lend_and_exit(value));
                });
            })
            .expect("it is armed");
            // SAFETY: as for C. The handler must not call Rust's own `exit` a second time.
            unsafe { libc::exit(1) };
        },
        prints: &["handler", "drop other value", "drop other local"],
    },
    Case {
        name: "a context that another thread was lent is not dropped by exit",
        code: || {
            store();
            exeunt::context::with(Loud::new("context"), || {
                exeunt::context::look(|value: Option<&Loud>| lend_and_exit(value.expect("it is here")));
            });
        },
        prints: &["handler", "drop other value", "drop other local"],
    },
    Case {
        name: "where the main thread's frames cannot be searched none of its stack locals is dropped",
        code: || {
            store();
            LENT.with(|value| {
                let pages = Pages::new(256 * 1024);
                // SAFETY: the process ends before the value is dropped.
                let value: &'static Loud = unsafe { &*std::ptr::from_ref(value) };
                // SAFETY: the pages are this fiber's, and the process ends on it.
                let fiber = unsafe { Fiber::new(pages.range(), move |_| lend_and_exit(value)) };
                fiber.resume();
            });
        },
        prints: &["handler", "drop other value"],
    },
    Case {
        name: "main's handlers find main's values where an armed fiber has called exit",
        code: || {
            exeunt::set("whose", "main").expect("the main thread can be armed");
            exeunt::at_exit(|| {
                for depth in 0..40 {
                    if read_at(depth) != Some("main") {
                        say(b"not main's value\n");
                    }
                }
                say(if read_at(0) == Some("main") { b"main's value\n" } else { b"no value of main's\n" });
            })
            .expect("the main thread can be armed");
            let pages = Pages::new(256 * 1024);
            let whole = pages.range();
            let body = move |_| {
                exeunt::set("whose", "fiber").expect("the fiber can be armed");
                for depth in 0..80 {
                    assert_eq!(read_at(depth), Some("fiber"));
                }
                std::process::exit(7)
            };
            // SAFETY: the pages are this fiber's, and the process ends on it.
            unsafe { Fiber::new(whole, body) }.resume();
        },
        prints: &["main's value"],
    },
    // An emulator does not limit a process's memory. There these two would use up the machine's
    // memory.
    #[cfg(target_arch = "x86_64")]
    Case {
        name: "exit without memory drains, and once more where handlers exit",
        code: || {
            exeunt::set("key", Loud::new("value")).expect("the main thread can be armed");
            for _ in 0..12 {
                exeunt::at_exit(|| {
                    say(b"handler that exits\n");
                    // SAFETY: as for C.
                    unsafe { libc::exit(7) }
                })
                .expect("the main thread can be armed");
            }
            use_up_all_memory();
            // SAFETY: as for C.
            unsafe { libc::exit(1) };
        },
        prints: &[
            "handler that exits",
            "handler that exits",
            "handler that exits",
            "handler that exits",
            "handler that exits",
            "handler that exits",
            "handler that exits",
            "handler that exits",
            "handler that exits",
            "handler that exits",
            "handler that exits",
            "handler that exits",
            "drop value",
        ],
    },
    #[cfg(target_arch = "x86_64")]
    Case {
        name: "a main thread without memory is not armed, and says so",
        code: || {
            // The allocations that a process makes once are done.
            std::thread::spawn(|| exeunt::id().map(drop)).join().expect("no panic").expect("it is armed");
            assert_eq!(exeunt::Stack::current().kind(), exeunt::Kind::Main);
            let mut held = Vec::new();
            if common::is_code() {
                // Patching main's exit trampoline, once in a process, allocates as std does.
                exeunt::id().expect("the main thread can be armed");
                exeunt::unload().unwrap();
                held.push(7);
            }
            use_up_all_memory();
            // In a slot redirect's main thread the safety net and the record need memory, but there
            // is no such handler.
            let result =
                if held.is_empty() { exeunt::at_exit(|| say(b"never\n")) } else { exeunt::at_exit(move || say(&held)) };
            if result == Err(exeunt::Error::OutOfMemory) {
                say(b"no memory\n");
            }
            // SAFETY: as for C.
            unsafe { libc::exit(7) };
        },
        prints: &["no memory"],
    },
    Case { name: "exit in an allocation for a handler", code: || exits_in(at_exit), prints: STORED },
    Case { name: "exit in an allocation for a value", code: || exits_in(set), prints: STORED },
    Case { name: "exit in an allocation for a stack local", code: || exits_in(local), prints: STORED },
    Case { name: "exit in an allocation for a reset", code: || exits_in(|| exeunt::reset().unwrap()), prints: STORED },
];

const STORED: &[&str] = &["fourth", "third", "second", "first"];

fn at_exit() {
    exeunt::at_exit(|| unreachable!("it was not registered")).expect("it is armed");
}

fn set() {
    exeunt::set((), String::new()).expect("it is armed");
}

fn local() {
    OTHER.with(|_| ());
}

/// Exits in the allocation that the environment names. If there are fewer, prints that this is
/// enough.
fn exits_in(code: fn()) {
    // As much as fits without another allocation.
    let handlers: [fn(); 4] = [|| say(b"first\n"), || say(b"second\n"), || say(b"third\n"), || say(b"fourth\n")];
    for handler in handlers {
        exeunt::at_exit(handler).expect("the main thread can be armed");
    }
    for number in 0_u8..3 {
        exeunt::set(number, number).expect("it is armed");
    }
    LEFT.set(Some(std::env::var(AT).map_or(0, |at| at.parse().expect("a number"))));
    code();
    LEFT.set(None);
    say(b"enough\n");
    // SAFETY: the previous handlers are not needed any more.
    unsafe { libc::_exit(7) };
}

/// The variable that names the allocation in which `exits_in` exits.
const AT: &str = "EXEUNT_TEST_AT";

#[cfg(target_arch = "x86_64")]
fn use_up_all_memory() {
    let limit = libc::rlimit { rlim_cur: 1 << 20, rlim_max: 1 << 20 };
    // SAFETY: blocks that nothing uses.
    unsafe {
        assert_eq!(libc::setrlimit(libc::RLIMIT_AS, &raw const limit), 0);
        let mut size = 1 << 20;
        while size > 0 {
            // The compiler must not remove the block: then there would always be one.
            while !std::hint::black_box(libc::malloc(size)).is_null() {}
            size /= 2;
        }
    }
}

/// Runs the case, and returns what is wrong.
fn fails(case: &Case, at: usize) -> Option<String> {
    let mut command = process::this_program();
    let output = command.env("EXEUNT_TEST_ROLE", case.name).env(AT, at.to_string()).output().expect("it starts");
    let printed = String::from_utf8_lossy(&output.stdout);
    let is_one_of_several = std::ptr::eq(case.prints, STORED);
    let ended = is_one_of_several && at > 0 && printed == "enough\n";
    let right = output.status.code() == Some(7) && (ended || printed.lines().eq(case.prints.iter().copied()));
    if right && is_one_of_several && !ended {
        return fails(case, at + 1);
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    (!right).then(|| {
        format!("{}, allocation {at}; printed:\n{printed}instead of {:?}\n{errors}", output.status, case.prints)
    })
}

pub fn main() {
    if let Some(role) = process::role() {
        let case = CASES.iter().find(|case| case.name == role).expect("a case of that name");
        return (case.code)();
    }
    let selection = Selection::of_arguments();
    if selection.list {
        return CASES.iter().for_each(|case| println!("{}: test", case.name));
    }
    let chosen: Vec<_> = CASES.iter().filter(|case| selection.includes(case.name)).collect();
    println!("\nrunning {} tests", chosen.len());
    let mut failed = 0;
    for case in &chosen {
        let failure = fails(case, 0);
        println!("test {} ... {}", case.name, if failure.is_none() { "ok" } else { "FAILED" });
        failed += usize::from(failure.is_some());
        failure.inspect(|failure| println!("{failure}"));
    }
    let passed = chosen.len() - failed;
    println!("\ntest result: {}. {passed} passed; {failed} failed\n", if failed == 0 { "ok" } else { "FAILED" });
    std::process::exit(if failed == 0 { 0 } else { 101 });
}
