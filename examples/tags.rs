//! Stack tags: a number that exists only in the return addresses of the call stack.
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

    // The innermost tag counts, and it can be any number.
    tag::run(1, || {
        let inner = tag::run(u64::MAX, tag::current);
        println!("inside {:#x?}, and outside {:?}", inner.expect("a tag"), tag::current().expect("a tag"));
    });

    // `ensure` gives the stack a tag if it has none. It is unique in the process.
    tag::ensure(|made| tag::ensure(|same| println!("made {made}, found {same}")));

    // In a backtrace: one frame for each hexadecimal digit, and one where they begin.
    tag::run(0x21, || println!("{}", std::backtrace::Backtrace::force_capture()));

    // A tag arms nothing and stores nothing.
    assert!(!exeunt::Stack::current().is_armed());
}
