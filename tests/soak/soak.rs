//! All disturbances of stacks, at once: `soak SECONDS [PART...]`.
//!
//! Each part runs one stack after the other, on a thread of its own. `signals` sends signals to all
//! of them. Without an argument for a part all of them run. The program ends with status 0 if no
//! value was wrong, each stack's handler ran once, no value and no armed stack is left, and memory
//! has not grown.

#[cfg(not(target_os = "linux"))]
fn main() {}

#[cfg(target_os = "linux")]
mod fibers;
#[cfg(target_os = "linux")]
mod forks;
#[cfg(target_os = "linux")]
mod life;
#[cfg(target_os = "linux")]
mod reloads;
#[cfg(target_os = "linux")]
mod segments;
#[cfg(target_os = "linux")]
mod signals;
#[cfg(target_os = "linux")]
mod threads;
#[cfg(target_os = "linux")]
mod unwinding;

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    linux::main()
}

#[cfg(target_os = "linux")]
mod linux {
    use super::{fibers, forks, life, reloads, segments, signals, threads, unwinding};
    use std::process::ExitCode;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::{Duration, Instant};

    /// A part: a function that runs one stack, and its name.
    struct Part(&'static str, fn(&mut fastrand::Rng));

    const PARTS: [Part; 7] = [
        Part("threads", threads::lives),
        Part("panics", unwinding::panics),
        Part("exceptions", unwinding::exceptions),
        Part("fibers", fibers::lives),
        Part("reloads", reloads::lives),
        Part("segments", segments::lives),
        Part("forks", forks::lives),
    ];
    const SIGNALS: &str = "signals";

    /// How much more memory may be resident at the end than after the first fifth of the time.
    const GROWTH: usize = 16 << 20;

    fn resident() -> usize {
        let status = std::fs::read_to_string("/proc/self/status").expect("the process's status");
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("Linux reports it");
        line.split_whitespace().nth(1).and_then(|kilobytes| kilobytes.parse::<usize>().ok()).expect("a number") << 10
    }

    pub fn main() -> ExitCode {
        let arguments: Vec<String> = std::env::args().skip(1).collect();
        let known = |name: &String| name == SIGNALS || PARTS.iter().any(|part| part.0 == name);
        let seconds = arguments.first().and_then(|word| word.parse::<u64>().ok());
        let (Some(seconds), true) = (seconds, arguments.iter().skip(1).all(known)) else {
            let names = PARTS.map(|part| part.0).join(", ");
            eprintln!("usage: soak SECONDS [PART...], of these parts: {names}, {SIGNALS}");
            return ExitCode::from(2);
        };
        let takes_part = |name: &str| arguments.len() == 1 || arguments[1..].iter().any(|other| other == name);
        soak(Duration::from_secs(seconds), &takes_part)
    }

    fn soak(length: Duration, takes_part: &dyn Fn(&str) -> bool) -> ExitCode {
        // A check that fails ends the process at once: later results would mean nothing.
        std::panic::set_hook(Box::new(|panic| {
            if !panic.payload().is::<unwinding::Thrown>() {
                eprintln!("soak: {panic}");
                std::process::abort();
            }
        }));
        signals::install();
        let begin = Instant::now();
        let over = || begin.elapsed() >= length;
        let counts = [const { AtomicU64::new(0) }; PARTS.len()];
        let mut early = 0;
        std::thread::scope(|scope| {
            for (Part(name, live), count) in PARTS.iter().zip(&counts) {
                if takes_part(name) {
                    scope.spawn(move || {
                        let mut random = fastrand::Rng::new();
                        while !over() {
                            live(&mut random);
                            count.fetch_add(1, Ordering::Relaxed);
                        }
                    });
                }
            }
            if takes_part(SIGNALS) {
                scope.spawn(move || signals::send(over));
            }
            while begin.elapsed() < length / 5 {
                early = early.max(resident());
                std::thread::sleep(length / 100);
            }
        });
        fibers::end();
        let late = resident();

        for (Part(name, _), count) in PARTS.iter().zip(&counts).filter(|(part, _)| takes_part(part.0)) {
            println!("{:>9} of {name}", count.load(Ordering::Relaxed));
        }
        let [sent, found, nothing] = signals::counts();
        println!("{sent:>9} signals, in which {found} reads found the value and {nothing} none");
        println!("{:>9} builds at the address of the one before", reloads::at_the_same_address());
        println!("{:>9} KiB resident after a fifth of the time, {} at the end", early >> 10, late >> 10);
        match life::settle() {
            Err(problem) => {
                println!("soak: {problem}");
                ExitCode::FAILURE
            }
            Ok(_) if late > early + GROWTH => {
                println!("soak: memory has grown");
                ExitCode::FAILURE
            }
            Ok(_) if takes_part(SIGNALS) && found == 0 => {
                println!("soak: no signal handler has read a value");
                ExitCode::FAILURE
            }
            Ok(lives) => {
                println!("soak: {lives} stacks, each drained once, and nothing is left");
                ExitCode::SUCCESS
            }
        }
    }
}
