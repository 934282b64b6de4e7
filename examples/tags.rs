//! Stack tags: a number that is nowhere but in the return addresses of the call stack.
//!
//! `cargo run --release --example tags`

use exeunt::tag;

#[inline(never)]
fn somewhere_deep(frames: usize) -> Option<u64> {
    if frames == 0 { tag::current() } else { std::hint::black_box(somewhere_deep(frames - 1)) }
}

fn main() {
    assert_eq!(tag::current(), None);
    let seen = tag::run(0xcafe, || somewhere_deep(50));
    println!("fifty frames below: {:#x}", seen.expect("it runs below a tag"));

    // The innermost one counts, and any number will do.
    tag::run(1, || {
        let inner = tag::run(u64::MAX, tag::current);
        println!("inside {:#x?}, and outside {:?}", inner.expect("a tag"), tag::current().expect("a tag"));
    });

    // One for whoever asks first. It is unique in the process.
    tag::ensure(|made| tag::ensure(|same| println!("made {made}, found {same}")));

    // What it looks like from outside: one frame for each hexadecimal digit, and one where they begin.
    tag::run(0x21, || println!("{}", std::backtrace::Backtrace::force_capture()));

    // Nothing is armed for it and nothing stored.
    assert!(!exeunt::Stack::current().is_armed());
}
