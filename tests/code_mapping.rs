//! Code redirect leaves libc's code in its mappings: unwinders in other processes and profilers
//! find an object's code by its mapping.
#![cfg(target_env = "gnu")]

mod common;

use common::fiber::{Fiber, Pages};
use common::{on_a_thread, process};
use exeunt::{Builder, Redirect};
use std::sync::atomic::{AtomicUsize, Ordering};

/// The executable mappings of the file that contains `exit`, as the kernel lists them.
fn code_of_libc() -> Vec<String> {
    let inside = libc::exit as *const () as usize;
    let text = std::fs::read_to_string("/proc/self/maps").expect("/proc/self/maps");
    let fields = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let holds = |range: &str| {
        let (start, end) = range.split_once('-').expect("a range");
        let number = |digits| usize::from_str_radix(digits, 16).expect("a number");
        (number(start)..number(end)).contains(&inside)
    };
    let lines: Vec<Vec<String>> = text.lines().map(fields).collect();
    let file = lines.iter().find(|line| holds(&line[0])).expect("`exit` is mapped")[5].clone();
    let is_its_code = |line: &&Vec<String>| line.get(5) == Some(&file) && line[1].contains('x');
    lines.iter().filter(is_its_code).map(|line| line[..3].join(" ")).collect()
}

#[test]
fn libcs_code_stays_one_mapping_when_the_exits_of_all_kinds_of_stacks_are_patched() {
    process::alone("libcs_code_stays_one_mapping_when_the_exits_of_all_kinds_of_stacks_are_patched", || {
        static RAN: AtomicUsize = AtomicUsize::new(0);
        let before = code_of_libc();
        assert_eq!(before.len(), 1, "{before:#?}");
        Builder::new().redirect(Redirect::Code).install().unwrap();
        assert_eq!(code_of_libc(), before, "installed");
        let count = || {
            RAN.fetch_add(1, Ordering::Relaxed);
        };
        let armed = before.clone();
        on_a_thread(move || {
            exeunt::at_exit(|| unreachable!("unloaded")).unwrap();
            assert_eq!(code_of_libc(), armed, "a thread is armed");
            exeunt::unload().unwrap();
            assert_eq!(code_of_libc(), armed, "it was unloaded");
            exeunt::at_exit(count).unwrap();
        });
        assert_eq!(RAN.load(Ordering::Relaxed), 1);
        assert_eq!(code_of_libc(), before, "it was drained");
        let pages = Pages::new(64 * 1024);
        // SAFETY: the memory exists as long as the fiber, which stays on this thread.
        unsafe { Fiber::new(pages.range(), move |_| exeunt::at_exit(count).unwrap()) }.finish();
        assert_eq!(code_of_libc(), before, "a fiber was armed and drained");
        exeunt::at_exit(count).unwrap();
        assert_eq!(code_of_libc(), before, "the main thread, or the one that runs tests, is armed");
        assert_eq!(RAN.load(Ordering::Relaxed), 2);
        let patched = exeunt::code_sites().unwrap().iter().filter(|site| site.applied).count();
        assert!(patched >= 2, "{patched}");
    });
}
