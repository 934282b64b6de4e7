//! Why a stack local's read in a loop takes twice as long as a thread-local's, and the least that
//! it could take: `cargo bench -p exeunt-benches --bench loads`.
//!
//! The instructions of today's read, and those of other designs, in loops of assembly that differ
//! in nothing else. The other designs exist as these loops only, on memory laid out as they would
//! read it. For x86_64 only.
//!
//! | design | what it reads |
//! |---|---|
//! | thread-local with a destructor | whether it is there, value |
//! | today's | block, canary's address, expected word, the canary's word, value's address, value |
//! | packed | block and distance to the canary in one word, then as today's |
//! | packed, one constant word | as packed, without the expected word (all stacks have the same) |
//! | without a word of the stack | block, value's address, value (if no end escapes exeunt) |
//! | a fiber with that design | today's, out of line |

#[cfg(not(target_arch = "x86_64"))]
fn main() {
    println!("The loops are written for x86_64.");
}

#[cfg(target_arch = "x86_64")]
#[path = "../src/sample.rs"]
#[allow(dead_code, reason = "the other benchmarks use more of it")]
mod sample;

#[cfg(target_arch = "x86_64")]
fn main() {
    // `--test` and its kind ask for the build only.
    if std::env::args().skip(1).all(|argument| argument == "--bench") {
        loops::compare();
    }
}

#[cfg(target_arch = "x86_64")]
mod loops {
    use crate::sample::{Samples, Stopwatch};
    use std::arch::asm;

    /// Turns of a loop in one measurement, and the number of measurements.
    const TURNS: u64 = 1_000_000;
    const ROUNDS: usize = 101;

    /// What the loops read.
    #[repr(C, align(64))]
    struct Place {
        value: *const u64,
        foot: *const u64,
        word: u64,
        block: u64,
        /// The block, and below it the distance from here to the canary, in words.
        packed: u64,
        is_there: u64,
        padding: [u64; 2],
        /// A word of the stack, and the value.
        stack: u64,
        number: u64,
    }

    const WORD: u64 = 0x1234;
    const BLOCK: u64 = 0x7fff_ffff_ff12;
    /// Bits for the distance.
    const DISTANCE: u32 = 17;
    const NUMBER: u64 = 7;

    /// A loop around `$body`, which leaves the value in rcx. It jumps to 3 if it does not find the
    /// value, and to 4 for `$behind`, the code after the loop, which comes back to 5.
    macro_rules! looped {
        ($name:ident, $block:expr, [$($body:expr),*], [$($behind:expr),*]) => {
            #[inline(never)]
            fn $name(place: &Place) -> f64 {
                let mut read = 0_u64;
                let start = Stopwatch::start();
                // SAFETY: reads a place and what it points to, and writes `read`.
                unsafe {
                    asm!(
                        ".p2align 6",
                        "2:",
                        $($body,)*
                        "5:",
                        "mov [{read}], rcx",
                        "dec {turns}",
                        "jnz 2b",
                        "jmp 6f",
                        "4:",
                        $($behind,)*
                        "3:",
                        "ud2",
                        "6:",
                        read = in(reg) &raw mut read,
                        turns = inout(reg) TURNS => _,
                        in("rdi") place,
                        in("rsi") $block,
                        in("rdx") WORD,
                        out("rax") _, out("rcx") _,
                        options(nostack),
                    );
                }
                let took = start.elapsed();
                assert_eq!(read, NUMBER);
                took.as_nanos() as f64 / TURNS as f64
            }
        };
    }

    /// Today's read.
    macro_rules! todays {
        () => {
            "cmp [rdi + 24], rsi
             jne 3f
             mov rax, [rdi + 8]
             mov rcx, [rdi + 16]
             cmp [rax], rcx
             jne 3f
             mov rcx, [rdi]
             mov rcx, [rcx]"
        };
    }

    looped!(thread_local, BLOCK, ["cmp qword ptr [rdi + 40], 1", "jne 3f", "mov rcx, [rdi + 72]"], []);
    looped!(today, BLOCK, [todays!()], []);
    looped!(
        packed,
        BLOCK << DISTANCE,
        [
            "mov rax, [rdi + 32]",
            "xor rax, rsi",
            "cmp rax, 0x20000",
            "jae 3f",
            "mov rcx, [rdi + 16]",
            "cmp [rdi + 8 * rax], rcx",
            "jne 3f",
            "mov rcx, [rdi]",
            "mov rcx, [rcx]"
        ],
        []
    );
    looped!(
        constant,
        BLOCK << DISTANCE,
        [
            "mov rax, [rdi + 32]",
            "xor rax, rsi",
            "cmp rax, 0x20000",
            "jae 3f",
            "cmp [rdi + 8 * rax], rdx",
            "jne 3f",
            "mov rcx, [rdi]",
            "mov rcx, [rcx]"
        ],
        []
    );
    looped!(without, BLOCK, ["cmp [rdi + 24], rsi", "jne 3f", "mov rcx, [rdi]", "mov rcx, [rcx]"], []);
    // The first comparison is with another number, as a thread's entry would hold it.
    looped!(fiber, BLOCK, ["cmp [rdi + 24], rdx", "jne 4f", "mov rcx, [rdi]", "mov rcx, [rcx]"], [todays!(), "jmp 5b"]);

    /// Nanoseconds of a turn.
    type Loop = fn(&Place) -> f64;

    pub fn compare() {
        let mut place = Place {
            value: std::ptr::null(),
            foot: std::ptr::null(),
            word: WORD,
            block: BLOCK,
            packed: BLOCK << DISTANCE | (std::mem::offset_of!(Place, stack) / 8) as u64,
            is_there: 1,
            padding: [0; 2],
            stack: WORD,
            number: NUMBER,
        };
        (place.value, place.foot) = (&raw const place.number, &raw const place.stack);
        let designs: [(_, _, Loop); 6] = [
            ("thread-local with a destructor", 2, thread_local),
            ("a stack local's, today", 6, today),
            ("packed", 5, packed),
            ("packed, and the word is one constant", 4, constant),
            ("without a word of the stack", 3, without),
            ("a fiber beside that, out of line", 7, fiber),
        ];
        let mut samples = designs.map(|_| Samples::new());
        for _ in 0..ROUNDS {
            for ((_, _, run), samples) in designs.iter().zip(&mut samples) {
                samples.push(run(&place));
            }
        }
        println!("\n## A read in a loop, by design\n\nMedians of {ROUNDS} times, in turns.\n");
        println!("| design | loads | time | thread-local's |\n|---|---|---|---|");
        let unit = samples[0].median();
        for ((name, loads, _), samples) in designs.iter().zip(&samples) {
            println!("| {name} | {loads} | {:.2} ns | {:.2} |", samples.median(), samples.median() / unit);
        }
    }
}
